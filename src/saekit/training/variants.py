"""Variants: the runs of a sweep, one for each combination of what is varied, and their names."""

import copy
import itertools
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from saekit.core.config import read_setting
from saekit.core.errors import ConfigError
from saekit.models.sites import Site
from saekit.training.building import as_run, k_setting, put

if TYPE_CHECKING:
    from saekit.models.base import LanguageModel
    from saekit.training.run import Run

Vary = Mapping[str, Sequence[Any]]
_SHORT = {"arch": "sae.name", "d_sae": "sae.d_sae"}
SHARED = ("model", "revision")  # of these even one value would not be what is loaded


def variants(
    raw: dict[str, Any], lm: "LanguageModel", vary: Vary, k: float | None = None
) -> "dict[str, Run]":
    """Return a run for each combination, by a name that is fit for a folder, as ``k16-seed0``.

    Args:
        raw: what all share, as `as_run` takes it.
        lm: the language model.
        vary: settings with the values of each: `k`, `site`, `arch`, `d_sae`, `seed`, or any other
            setting of a run by its dotted path. A site of several is written "A+B", or as a list.
        k: latents on per token, where it does not vary.

    Raises:
        ConfigError: a setting has no values, two combinations have one name, or one describes no
            run.
    """
    points = combinations(vary)
    runs = {label(point): _variant(raw, lm, {"k": k} | point) for point in points}
    if len(runs) < len(points):
        raise ConfigError("Two combinations of what varies have one name; give each value once.")
    return runs


def combinations(vary: Vary) -> list[dict[str, Any]]:
    """Return every combination of the settings' values.

    Raises:
        ConfigError: it is no such mapping, a setting has no values, or does not vary.
    """
    if not isinstance(vary, Mapping) or not all(isinstance(path, str) for path in vary):
        raise ConfigError(
            f'What varies is settings with lists of values, as {{"k": [16, 32]}}; got {vary!r:.80}.'
        )
    for path, values in vary.items():
        if path in SHARED or path == "start_from":
            raise ConfigError(f"`{path}` is the same for all runs of a sweep. Sweep for each.")
        if isinstance(values, str) or not isinstance(values, Sequence) or not values:
            raise ConfigError(f"`{path}` varies over a list of values; got {values!r:.80}.")
    plain = {path: [_plain(path, value) for value in values] for path, values in vary.items()}
    return [dict(zip(plain, point, strict=True)) for point in itertools.product(*plain.values())]


def _plain(path: str, value: Any) -> Any:
    """Return a value as JSON holds it: a number of NumPy as one, a site by its name."""
    if isinstance(value, Site):
        return str(value)
    if path == "site" and isinstance(value, list | tuple):
        return [_plain("", one) for one in value]
    if hasattr(value, "item"):
        value = value.item()
    try:
        json.dumps(value)
    except TypeError as error:
        raise ConfigError(
            f"`{path}` varies over numbers and text; got {value!r:.80}. An architecture is varied "
            f"by its name, `arch`, and by its settings, as `sae.k`."
        ) from error
    return value


def label(point: Mapping[str, Any]) -> str:
    """Return the name of a combination, fit for a folder: ``k16-seed0``."""
    parts = []
    for path, value in point.items():
        plain = value if isinstance(value, str) else json.dumps(value)
        kept = "".join(c if c.isalnum() or c in "._+-" else "_" for c in plain)
        parts.append(kept if path in ("arch", "site") else f"{path.rsplit('.', 1)[-1]}{kept}")
    return "-".join(parts) or "only"


def _variant(raw: dict[str, Any], lm: "LanguageModel", point: Mapping[str, Any]) -> "Run":
    """Return the run of one combination."""
    raw = copy.deepcopy(raw)
    k = None
    for path, value in point.items():
        if path == "k":
            k = value
        elif path == "site":
            raw["pair"]["read"] = value.split("+") if isinstance(value, str) else value
        elif path in _SHORT:
            put(raw, _SHORT[path], value)
            if path == "d_sae" and isinstance(raw["sae"].get("inner"), dict):
                raw["sae"]["inner"].pop("d_sae", None)
        else:
            put(raw, path, value)
    for path, value in map(read_setting, k_setting(raw["sae"]["name"], k)):
        put(raw, path, value)
    return as_run(raw, lm, [])
