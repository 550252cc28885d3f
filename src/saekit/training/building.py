"""From what a user says to the Run that it means: sites, widths and lengths filled in."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saekit.core.errors import ConfigError, SaekitError

if TYPE_CHECKING:
    from saekit.models.base import LanguageModel
    from saekit.saes.base import SAEConfig, Unsized
    from saekit.training.run import Run

DEFAULT_MODEL = "smollm2-135m"
DEFAULT_TOKENS = 10_000_000
DEFAULT_EXPANSION = 8  # latents per dimension of what is read


def with_length(
    runs: "dict[str, Run]", lm: "LanguageModel", tokens: int | None, *, shown: bool
) -> "dict[str, Run]":
    """Return runs of one text; where no number of tokens was asked, all the text has at most."""
    from saekit.training.length import fit_tokens

    return runs if tokens is not None else fit_tokens(runs, lm, shown=shown)


def made_of(arch: str, d_sae: int | None, epochs: int | None, seed: int | None) -> dict[str, Any]:
    """Return what the everyday flags say of the SAE, for `as_run`."""
    sae = {"name": arch} | ({"d_sae": d_sae} if d_sae is not None else {})
    return {"sae": sae, "epochs": 1 if epochs is None else epochs, "seed": seed or 0}


def width_ratio(sae: dict[str, Any]) -> float:
    """Return the latents of an SAE for each dimension it reads; `fit_width` turns them back."""
    return sae["d_sae"] / sae["d_in"]


def fit_width(raw: dict[str, Any], lm: "LanguageModel") -> None:
    """Turn a recipe's latents a dimension into latents, where no number of them was given."""
    ratio = raw.pop("latents_per_width", None)
    if ratio is not None:
        raw["sae"].setdefault("d_sae", round(ratio * lm.d_model))


def as_run(raw: dict[str, Any], lm: "LanguageModel", settings: Sequence[str]) -> "Run":
    """Return the run a dict describes, with what is left out fitted to model and architecture.

    Widths of the SAE are the model's; an architecture that codes sites jointly gets the number
    that is read, one that codes windows half a row, and one around another a topk.

    Raises:
        ConfigError: a setting is missing, unknown or of another kind than it must be.
    """
    try:
        return _as_run(raw, lm, settings)
    except SaekitError:
        raise
    except Exception as error:  # settings may be anything, where nothing was expected
        raise ConfigError(
            f"The settings describe no run: {type(error).__name__}: {error}. Compare them with "
            f"the run.json of a run, or with `saekit train --help`."
        ) from error


def _as_run(raw: dict[str, Any], lm: "LanguageModel", settings: Sequence[str]) -> "Run":
    from saekit.activations.pairs import Pair
    from saekit.core.config import override, read_setting
    from saekit.models.site_patterns import expand_sites
    from saekit.saes.base import registry
    from saekit.training.record import absolute
    from saekit.training.run import Run

    raw = absolute(raw)
    check_groups(raw)
    given = dict(read_setting(s) for s in settings)
    sites = {side: expand_sites(raw["pair"].get(side) or (), lm) for side in ("read", "write")}
    raw = {**raw, "pair": {**raw["pair"], **sites}}
    d_in, d_out = Pair.from_dict(raw["pair"]).widths(lm)
    sae = {"d_in": d_in, "d_out": d_out} | raw["sae"]
    for path, value in given.items():
        if path.startswith("sae."):
            put(sae, path.removeprefix("sae."), value)
    settings = [s for s in settings if not s.startswith("sae.expansion=")]
    sae = sized(sae)
    event = registry.get(sae["name"]).event if "name" in sae else ()
    if "site" in event:
        sae = {"n_sites": len(raw["pair"]["read"])} | sae
    if "seq" in event and not {"window", "pair.window"} & {*raw["pair"], *given}:
        n_ctx = given.get("n_ctx", raw.get("n_ctx"))
        half = ((n_ctx if isinstance(n_ctx, int) else Run.n_ctx) - 1) // 2  # BOS is in no window
        settings = [*settings, f"pair.window={max(half, 1)}"]
    early = [s for s in settings if s.startswith("pair.")]
    pair = override(Pair.from_dict(raw["pair"]), [s.removeprefix("pair.") for s in early])
    return override(Run.from_dict({**raw, "pair": pair.to_dict(), "sae": sae}), settings)


def settings_of_sae(sae: "SAEConfig | Unsized | str | None") -> dict[str, Any]:
    """Return the settings that somebody means by an architecture, or by its name; None: topk."""
    if sae is None or isinstance(sae, str):
        return {"name": sae or "topk"}
    return sae.to_dict()


def sized(raw: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of an SAE, `d_in` and `d_out` among them, with its latents filled in.

    Those of `expansion`, 8 a dimension where nothing is said; an architecture around another gets
    a topk inside where none is named.

    Raises:
        ConfigError: the expansion is no positive number, or the name no text.
        UnknownNameError: there is no such architecture.
    """
    from saekit.core.config import field_types
    from saekit.saes.base import registry

    sae, d_in = dict(raw), raw["d_in"]
    expansion = sae.pop("expansion", None)
    if sae.get("d_sae") is None:
        sae["d_sae"] = _latents(expansion, d_in)
    elif expansion is not None:
        raise ConfigError(
            f"`d_sae` and `expansion` both say how many latents there are; got d_sae={sae['d_sae']}"
            f", expansion={expansion}. Leave one out."
        )
    if not isinstance(sae.get("name", ""), str):
        raise ConfigError(f"`sae.name` must be text; got {sae['name']!r:.80}.")
    if "name" in sae and "inner" in field_types(registry.get(sae["name"])):
        sizes = {key: sae[key] for key in ("d_in", "d_out", "d_sae")}
        inner = {"name": "topk"} | sizes | sae.get("inner", {})
        if "expansion" in inner:  # of what is inside, where the frame has none
            inner["d_sae"] = sae["d_sae"] = _latents(inner.pop("expansion"), d_in)
        sae["inner"] = inner
    return sae


def _latents(expansion: Any, d_in: int) -> int:
    """Return the number of latents for so many times the width that is read; 8 times by default.

    Raises:
        ConfigError: it is no positive number.
    """
    times = DEFAULT_EXPANSION if expansion is None else expansion
    if isinstance(times, bool) or not isinstance(times, int | float) or not times > 0:
        raise ConfigError(f"`expansion`, latents per dimension, must be above 0; got {times!r}.")
    return max(round(times * d_in), 1)


def default_folder(run: "Run", lm: "LanguageModel") -> Path:
    """Return where a run goes when no folder is given: runs that differ go to different ones."""
    from saekit.models.together import named

    model = "+".join(named(run.model)) or run.model.rstrip("/").rsplit("/", 1)[-1]
    site = run.pair.label.replace(" -> ", "-to-").replace("+", "-").replace(":", ".")
    if len(run.pair.read) > 2:  # a name of thirty sites is too long for a folder
        site = f"{run.pair.read[0]}-to-{run.pair.read[-1]}"
    parts = [model, site, run.sae.name, str(run.sae.d_sae)]
    if isinstance(k := getattr(run.sae, "k", None), int | float):
        parts.append(f"k{k:g}")
    parts.append(f"seed{run.seed}")
    return Path("runs") / "-".join([*parts, short_digest(run.to_dict(), lm.provenance())])


def check_groups(raw: dict[str, Any]) -> None:
    """Refuse the description of a run whose groups are not what a run has.

    Raises:
        ConfigError: a group is no object, or a site is no text.
    """
    for key in ("pair", "corpus", "sae"):
        if not isinstance(raw.get(key), dict):
            raise ConfigError(
                f"`{key}` of a run must be an object with settings of its own; got "
                f"{raw.get(key)!r:.80}."
            )
    for side in ("read", "write"):
        sites = raw["pair"].get(side) or []
        if not isinstance(sites, list | tuple) or not all(isinstance(s, str) for s in sites):
            raise ConfigError(
                f'`pair.{side}` must be a list of sites, as ["L3.resid_post"]; got {sites!r:.80}.'
            )


def check_flags(arch: str, tokens: int | None, epochs: int | None) -> None:
    """Refuse what can be refused before a model is loaded."""
    from saekit.saes.base import registry

    registry.get(arch)
    for name, value in (("--tokens", tokens), ("--epochs", epochs)):
        if value is not None and value < 1:
            raise ConfigError(f"`{name}` must be at least 1; got {value}.")


def put(raw: dict[str, Any], path: str, value: Any) -> None:
    """Set ``a.b`` of nested dicts; groups on the way are made where they are missing.

    Raises:
        ConfigError: something on the way is a value, not a group.
    """
    *parents, last = path.split(".")
    for parent in parents:
        group = raw.get(parent)
        if group is not None and not isinstance(group, dict):
            raise ConfigError(f"`{path}`: `{parent}` is {group!r:.80}, which has no settings.")
        raw[parent] = dict(group or {})
        raw = raw[parent]
    raw[last] = value


def short_digest(*parts: Any) -> str:
    """Return a few characters that tell settings apart, for the name of a folder."""
    from saekit.core.files import digest

    return digest(json.dumps(part, sort_keys=True) for part in parts)[:6]


def k_setting(arch: str, k: float | None) -> list[str]:
    """Return what `--k` sets: the setting of an architecture that says how many latents are on."""
    if k is None:
        return []
    from saekit.core.config import field_types
    from saekit.saes.base import registry

    fields = field_types(registry.get(arch))
    if "inner" in fields:
        return [s.replace("sae.", "sae.inner.", 1) for s in k_setting("topk", k)]
    if "k" not in fields:
        near = "target_l0" if "target_l0" in fields else "l1_coefficient"
        raise ConfigError(f"`{arch}` keeps no fixed k; set its sparsity with --set sae.{near}=...")
    if isinstance(k, bool) or not isinstance(k, int | float) or not math.isfinite(k):
        raise ConfigError(f"`k`, latents on per token, must be a number; got {k!r:.80}.")
    if fields["k"] is int and k != int(k):
        raise ConfigError(f"`k` of `{arch}` must be a whole number; got {k}.")
    return [f"sae.k={int(k) if fields['k'] is int else k}"]
