"""Variants: the runs of a sweep, one for each combination of what is varied, and their names."""

import itertools
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from saekit.core.errors import ConfigError
from saekit.training.building import as_run, k_setting, put

if TYPE_CHECKING:
    from saekit.models.base import LanguageModel
    from saekit.training.run import Run

Vary = Mapping[str, Sequence[Any]]
_SHORT = {"arch": "sae.name", "d_sae": "sae.d_sae"}


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
        ConfigError: a setting has no values.
    """
    for path, values in vary.items():
        if isinstance(values, str) or not isinstance(values, Sequence) or not values:
            raise ConfigError(f"`{path}` varies over a list of values; got {values!r:.80}.")
    return [dict(zip(vary, point, strict=True)) for point in itertools.product(*vary.values())]


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
    raw = json.loads(json.dumps(raw))
    k, extra = None, []
    for path, value in point.items():
        if path == "k":
            k = value
        elif path == "site":
            raw["pair"]["read"] = value.split("+") if isinstance(value, str) else list(value)
        elif path in _SHORT:
            put(raw, _SHORT[path], value)
        else:  # of a path that no run has, `as_run` says so
            extra.append(f"{path}={json.dumps(value)}")
    return as_run(raw, lm, [*k_setting(raw["sae"]["name"], k), *extra])
