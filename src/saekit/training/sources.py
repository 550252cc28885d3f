"""Where a run may be described: in a file, by a cache of activations, by a run that was begun."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from saekit.core.errors import ConfigError, FormatError
from saekit.training.building import as_run, check_groups, width_ratio

if TYPE_CHECKING:
    from saekit.activations.cache.recorded import RecordedModel
    from saekit.models.base import LanguageModel
    from saekit.training.run import Run

APART = ("sae", "target", "fold", "start")  # settings that a recipe or a config decides as a whole


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
    written = model.store.manifest["config"]
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
    device: str,
    settings: list[str],
    model: "LanguageModel | None" = None,
) -> "tuple[LanguageModel, Run]":
    """Return model and run of a folder, as they were begun.

    Args:
        folder: of the run.
        cache: of activations, where it is another than the run noted.
        device: auto, cpu or cuda.
        settings: that change what they may.
        model: that of the run, where it is loaded.

    Raises:
        FormatError: there is no run, or its model or text are nowhere to be found.
        ConfigError: the run is finished.
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
    if record.is_done(folder):
        with claimed(folder, "saekit train"):  # removes what a writer killed at the end left
            raise ConfigError(f"The run in {folder} is finished: its SAE is in {folder / 'sae'}.")
    found = record.read(folder / RUN)
    made = begun_with_of(found, folder)
    held = cache or _cache_folder(folder)
    raw = found.settings
    with missing_explained(made.get("parts")):
        if held is not None:
            return (lm := open_cache(held, device)), as_run(raw, lm, settings)
        raw, lm = record.found_again(raw, folder, made), model
        if lm is None:
            with reading(folder, "a run"):
                named = (pinned(raw["revision"], made["model"]), made["model"]["dtype"])
            lm = load(raw["model"], revision=named[0], dtype=named[1], device=device)
        return lm, as_run(raw, lm, settings)


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
