"""Refusals that every part of a truth shares: they name the entry, its value, what may come."""

import math
from collections.abc import Sequence

from saekit.core.errors import ConfigError


def at_least(name: str, value: float, low: float) -> None:
    """Refuse a number below `low`, or one that is not finite.

    Raises:
        ConfigError: it is.
    """
    if not (math.isfinite(value) and value >= low):
        raise ConfigError(f"`{name}` must be at least {low}; got {value}.")


def above(name: str, value: float, low: float) -> None:
    """Refuse a number that is not above `low`, or not finite.

    Raises:
        ConfigError: it is not.
    """
    if not (math.isfinite(value) and value > low):
        raise ConfigError(f"`{name}` must be above {low}; got {value}.")


def probability(name: str, value: float) -> None:
    """Refuse a number that is not above 0 and at most 1.

    Raises:
        ConfigError: it is outside.
    """
    if not 0 < value <= 1:
        raise ConfigError(f"`{name}` must be above 0 and at most 1; got {value}.")


def count(name: str, values: Sequence[object], wanted: int) -> None:
    """Refuse a list that has not one entry a feature.

    Raises:
        ConfigError: it has not.
    """
    if len(values) != wanted:
        raise ConfigError(
            f"`{name}` needs one entry a feature, {wanted}; got {len(values)}. "
            f"Give as many entries as `n_features`."
        )
