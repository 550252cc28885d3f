"""The words of `saekit.train` and `saekit.sweep`, looked at before anything is loaded."""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from saekit.core.errors import ConfigError
from saekit.models.base import LanguageModel
from saekit.models.sites import Site
from saekit.saes.base import SAEConfig, Unsized
from saekit.training.run import Run

# Words that set one setting of a run, by its dotted path.
SETS = {
    "site": "pair.read",
    "target": "pair.write",
    "fold": "pair.fold",
    "corpus": "corpus",
    "tokens": "tokens",
    "epochs": "epochs",
    "seed": "seed",
    "k": "sae.k",
    "d_sae": "sae.d_sae",
}
_OF_SAE = ("k", "d_sae", "arch", "expansion")


def check_words(
    lm: Any,
    words: Mapping[str, Any],
    settings: Mapping[str, Any],
    *,
    cached: bool = False,
    device: Any = "auto",
    dtype: Any = "auto",
) -> None:
    """Refuse words of another kind than they must be, and those that contradict each other.

    Args:
        lm: the language model, its name, or None.
        words: that were given.
        settings: other settings of a run, by their dotted paths.
        cached: a cache is read in place of the model.
        device: where a model that is named is loaded.
        dtype: its number format.

    Raises:
        ConfigError: a word has no such value, or two of them say one thing.
    """
    _check_kinds(lm, words, device, dtype)
    if "model" in settings or "start_from" in settings:
        name = "model" if "model" in settings else "start_from"
        how = "the first argument, --model" if name == "model" else "start_from=, --start-from"
        raise ConfigError(f"`{name}` is no setting but a word of its own: {how}. Use it so.")
    if own := [name for name in _OF_SAE if name in settings]:
        raise ConfigError(
            f"`{own[0]}` is a setting of the SAE: say sae=saekit.TopK(k=32, d_sae=4096), or "
            f'**{{"sae.{own[0]}": ...}}; on a command line --{own[0].replace("_", "-")}.'
        )
    for word, path in SETS.items():
        if word in words and path in settings:
            raise ConfigError(
                f"`{word}` is said twice: as a word ({words[word]!r:.60}) and as the setting "
                f"`{path}` ({settings[path]!r:.60}). Leave one out."
            )
    loaded = {"dtype": dtype != "auto", "device": device != "auto" and not cached}
    loaded["revision"] = "revision" in settings
    if isinstance(lm, LanguageModel) or cached:
        what = "a cache" if cached else "a model that is loaded"
        if wrong := [name for name, said in loaded.items() if said]:
            raise ConfigError(f"`{wrong[0]}` is decided by {what}; leave it out.")
    elif lm is None and "start" in words and "revision" in settings:
        raise ConfigError(
            "`revision` is of a model that is named; that of the SAE to begin from has its own. "
            "Name the model too, or leave it out."
        )


def _check_kinds(lm: Any, words: Mapping[str, Any], device: Any, dtype: Any) -> None:
    if not (lm is None or isinstance(lm, LanguageModel | str)) or lm == "":
        raise ConfigError(
            f"The language model is given by its name or as what saekit.load_model returned; got "
            f"{lm!r:.80}."
        )
    for name, value in (("device", device), ("dtype", dtype)):
        if not isinstance(value, str):
            raise ConfigError(f"`{name}` is text, as 'auto'; got {value!r:.80}.")
    sae = words.get("sae")
    if isinstance(sae, type) and issubclass(sae, SAEConfig):
        raise ConfigError(
            f"An architecture is given with its settings, saekit.{sae.__name__}(...), or by its "
            f"name, {sae.name!r}; got the class."
        )
    if not (sae is None or isinstance(sae, SAEConfig | Unsized | str)) or sae == "":
        raise ConfigError(
            f"`sae` is an architecture with its settings, as saekit.TopK(k=32), or its name; got "
            f"{sae!r:.80}."
        )
    run = words.get("run")
    if not (run is None or isinstance(run, Run | Path | str)) or run == "":
        raise ConfigError(f"`run` is a saekit.Run or the file of one, run.json; got {run!r:.80}.")
    for name in ("tokens", "epochs"):
        value = words.get(name)
        if isinstance(value, int | float) and not value >= 1:
            raise ConfigError(f"`{name}` must be at least 1; got {value}.")
    if isinstance(k := words.get("k"), float) and not math.isfinite(k):
        raise ConfigError(f"`k`, latents on per token, must be a number; got {k}.")


def names_of(sites: Any) -> list[str] | None:
    """Return sites by their names; None where none was named.

    Raises:
        ConfigError: it is no site and no list of some.
    """
    if sites is None:
        return None
    some = [sites] if isinstance(sites, str | Site) or not isinstance(sites, Iterable) else sites
    found = list(some)
    if not found or not all(isinstance(one, str | Site) and str(one) for one in found):
        raise ConfigError(
            f'A site is named as "L3.resid_post", several as a list of them; got {sites!r:.80}.'
        )
    return [str(one) for one in found]


def place_of(name: str, place: Any) -> Path:
    """Return a folder or a file that a word names.

    Raises:
        ConfigError: it is no path, or an empty one.
    """
    if not isinstance(place, str | Path) or place == "":
        raise ConfigError(f"`{name}` is a path, as text or a Path; got {place!r:.80}.")
    return Path(place)
