"""Where a run may be described: in a file, by a cache of activations, by a run that was begun."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saekit.core.errors import ConfigError, FormatError
from saekit.training.building import as_run, check_groups, width_ratio

if TYPE_CHECKING:
    from saekit.activations.cache.recorded import RecordedModel
    from saekit.hub.trained import TrainedSAE
    from saekit.models.base import LanguageModel
    from saekit.training.run import Run

APART = ("sae", "target", "fold")  # settings that a recipe or a config decides as a whole


def given(**flags: Any) -> dict[str, Any]:
    """Return the flags that have a value."""
    return {name: value for name, value in flags.items() if value is not None}


def over(raw: dict[str, Any], flags: dict[str, Any]) -> dict[str, Any]:
    """Return a run to start from with the plain flags of the command line put over it.

    The text among them is given by its settings. Where another model is named, the SAE's widths
    are left to that model, and its latents keep their number for a width.

    Raises:
        ConfigError: a flag has no meaning beside a recipe or a config.
    """
    for name in APART:
        if name in flags:
            raise ConfigError(
                f"`{name}` does not go with a recipe or a run that is given whole (--recipe, "
                f"--config, run=), which decides it. Leave it out, or describe the run without one."
            )
    raw = {**raw, "pair": dict(raw["pair"]), "sae": dict(raw["sae"])}
    for name in ("model", "tokens", "epochs", "seed"):
        if name in flags:
            raw[name] = flags[name]
    if "model" in flags:
        raw["revision"] = flags.get("revision")
        raw["latents_per_width"] = width_ratio(raw["sae"])
        raw["sae"] = _without_widths(raw["sae"])
    elif "revision" in flags:
        raw["revision"] = flags["revision"]
    if "site" in flags:
        raw["pair"]["read"] = flags["site"]
    if "d_sae" in flags:
        raw["sae"]["d_sae"] = flags["d_sae"]
        raw["sae"].get("inner", {}).pop("d_sae", None)
    if "corpus" in flags:
        raw["corpus"] = flags["corpus"]
    return raw


def _without_widths(sae: dict[str, Any]) -> dict[str, Any]:
    found = {k: v for k, v in sae.items() if k not in ("d_in", "d_out", "d_sae")}
    if isinstance(found.get("inner"), dict):
        found["inner"] = _without_widths(found["inner"])
    return found


def check_model(name: str, lm: "LanguageModel | str") -> None:
    """Refuse a model, loaded or named, that is not the one that a run names.

    Raises:
        ConfigError: it is another.
    """
    from saekit.training.record import absolute

    given = lm if isinstance(lm, str) else lm.name
    there, here = (absolute({"model": one})["model"] for one in (name, given))
    if there != here:
        raise ConfigError(
            f"The run is of the model `{name}`; got `{given}`. Give that one, or name another "
            f"as text, whose run it then is."
        )


def check_start(raw: dict[str, Any], start: "TrainedSAE") -> None:
    """Refuse an SAE to begin from that is not the one that a whole run began from.

    Raises:
        ConfigError: it is another, or the run began from none.
    """
    from saekit.hub.trained import weights_digest

    if raw.get("start_from") != weights_digest(start.sae):
        began = "from another SAE" if raw.get("start_from") else "from no SAE"
        raise ConfigError(
            f"The run that is given whole began {began}; `start_from` must be the one it began "
            f"from. Leave one of the two out."
        )


def read_run(path: Path) -> dict[str, Any]:
    """Return the run that a file describes, for `as_run`.

    Raises:
        ConfigError: it describes none.
        FormatError: it cannot be read.
    """
    from saekit.core.files import read_settings

    raw = read_settings(path)
    if isinstance(raw, dict):  # the run.json of a run will do
        from saekit.training.record import settings_of

        raw = settings_of(raw, path)
    if not isinstance(raw, dict) or not {"model", "pair", "corpus", "sae"} <= raw.keys():
        raise ConfigError(f"{path} must be an object with model, pair, corpus and sae.")
    check_groups(raw)
    return raw


def open_cache(folder: Path, device: str) -> "RecordedModel":
    """Return the model whose activations a cache holds; `device` is auto, cpu or cuda.

    Raises:
        FormatError: there is no cache, or it cannot be read.
    """
    from saekit.activations.cache.recorded import RecordedModel
    from saekit.models.placement import pick_device

    return RecordedModel.open(folder, pick_device(device))


def of_cache(  # noqa: PLR0913 - the words of `saekit train`
    model: "RecordedModel",
    *,
    name: str | None,
    corpus: dict[str, Any] | None,
    site: list[str] | None,
    target: list[str] | None,
    fold: bool,
    tokens: int | None,
) -> dict[str, Any]:
    """Return the run that trains on a cache, without its SAE, for `as_run`.

    Args:
        model: that of the cache.
        name: the language model, where the user named one.
        corpus: settings of the text, where the user named one.
        site: what to read; None: the only site of the cache.
        target: what to predict; None: what is read.
        fold: each site of a token is a row of its own.
        tokens: of text that count; None: all that the cache has.

    Raises:
        ConfigError: model or text are others than those of the cache, or a site has to be named.
    """
    from saekit.training.record import absolute

    written = model.store.manifest["config"]
    name = None if name is None else absolute({"model": name})["model"]
    for key, value in (("model", name), ("corpus", corpus)):
        if value is not None and value != written[key]:
            raise ConfigError(
                f"`{key}` does not fit the cache in {model.store.folder}: it was written with "
                f"{written[key]!r}; got {value!r}. Leave it out."
            )
    read = site or [str(s) for s in model.sites()]
    if site is None and len(read) > 1:
        raise ConfigError(f"The cache has {', '.join(read)}; name what to read with `site`.")
    raw = {key: written[key] for key in ("model", "revision", "corpus", "n_ctx", "bos", "rule")}
    pair = {"read": read, "write": target or [], "fold": fold}
    return raw | {"pair": pair, "tokens": tokens or model.store.n_kept}


def resumed(
    folder: Path,
    cache: Path | None,
    model: "LanguageModel | str | None" = None,
    *,
    device: str = "auto",
    dtype: str = "auto",
    settings: Sequence[str] = (),
    finished: bool = False,
) -> "tuple[LanguageModel, Run]":
    """Return model and run of a folder, as they were begun.

    Args:
        folder: of the run.
        cache: of activations, where it is another than the run noted.
        model: that of the run, loaded; or its name; None: as the run noted it.
        device: where to load it: auto, cpu or cuda.
        dtype: its number format, which must be the one it had; auto: that one.
        settings: ``a.b=value``, that change what they may.
        finished: take a run that is finished, too.

    Raises:
        FormatError: there is no run, or its model or text are nowhere to be found.
        ConfigError: the run is finished, or model or dtype are others.
    """
    from saekit.core.border import reading
    from saekit.core.lock import claimed
    from saekit.core.registry import missing_explained
    from saekit.models.hf import load
    from saekit.models.model_files import pinned
    from saekit.training import record
    from saekit.training.loop import RUN, begun_with_of

    if not (folder / RUN).exists():
        raise FormatError(f"{folder} holds no run to go on with: it has no {RUN}.")
    if record.is_done(folder) and not finished:
        with claimed(folder, "saekit train"):  # removes what a writer killed at the end left
            raise ConfigError(f"The run in {folder} is finished: its SAE is in {folder / 'sae'}.")
    found = record.read(folder / RUN)
    made = begun_with_of(found, folder)
    noted = _cache_folder(folder)
    raw = found.settings
    if cache is not None and noted is None:
        raise ConfigError(f"The run in {folder} reads no cache. Leave `cache` out.")
    with missing_explained(made.get("parts")):
        if noted is not None:
            if model is not None:
                raise ConfigError(f"The run in {folder} reads a cache. Leave the model out.")
            lm: LanguageModel = open_cache(cache or noted, device)
            return lm, as_run(raw, lm, settings)
        raw = record.found_again(raw, folder, made)
        with reading(folder, "a run"):
            revision, had = pinned(raw["revision"], made["model"]), made["model"]["dtype"]
        check_begun(folder, raw["model"], had, model, dtype)
        if model is None or isinstance(model, str):
            model = load(raw["model"], revision=revision, dtype=had, device=device)
        return model, as_run(raw, model, settings)


def check_begun(
    folder: Path, name: str, had: str, model: "LanguageModel | str | None", dtype: str
) -> None:
    """Refuse to go on with another model, or another number format of it, than was begun with.

    Args:
        folder: of the run or the sweep.
        name: of its model.
        had: its dtype.
        model: what is given now; a loaded one is compared where training begins.
        dtype: what is given now; auto: nothing.

    Raises:
        ConfigError: it is another.
    """
    from saekit.training.record import absolute

    if isinstance(model, str) and absolute({"model": model})["model"] != name:
        raise ConfigError(
            f"What is in {folder} was begun with the model `{name}`; got `{model}`. Leave it out."
        )
    if dtype not in ("auto", had):
        raise ConfigError(
            f"The model of what is in {folder} was in {had}; got dtype={dtype!r}. Leave it out."
        )


def _cache_folder(folder: Path) -> Path | None:
    """Return the cache of activations that a run reads, None where it reads none."""
    from saekit.core.border import reading
    from saekit.core.files import read_object
    from saekit.training import record
    from saekit.training.loop import RUN

    manifest = folder / record.MANIFEST
    noted = record.read(folder / RUN).begun_with.get("cache_folder")
    with reading(folder, "a run"):
        told = read_object(manifest) if manifest.exists() else {}
        where = noted or (told.get("cache") or {}).get("folder")
        return None if where is None else Path(where)
