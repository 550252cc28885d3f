"""What is said of some numbers in a word: mean, spread, share, order of means. Without torch.

Commands and figures print and draw these; they are made here, where they are tested.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TypeVar

T = TypeVar("T")


def mean(values: Sequence[float]) -> float:
    """Return the mean; NaN of none."""
    return math.fsum(values) / len(values) if len(values) else math.nan


def deviation(values: Sequence[float], *, sample: bool = False) -> float:
    """Return the standard deviation.

    Args:
        values: the numbers.
        sample: with divisor n - 1, of a sample; NaN below 2 values. Otherwise n; NaN of none.
    """
    n = len(values) - sample
    if n < 1:
        return math.nan
    middle = mean(values)
    return math.sqrt(math.fsum((v - middle) ** 2 for v in values) / n)


def share(part: float, whole: float) -> float:
    """Return which part of a whole something is; 0 of nothing."""
    return part / whole if whole else 0.0


def standard_error(std: float, n: float) -> float:
    """Return std / sqrt(n), of a mean over n values; NaN of none."""
    return std / math.sqrt(n) if n else math.nan


def by_mean(found: Mapping[int, Sequence[float]]) -> list[int]:
    """Return keys from the lowest mean to the highest; ties by key, those without values last."""

    def place(key: int) -> tuple[float, int]:
        return (mean(found[key]) if len(found[key]) else math.inf, key)

    return sorted(found, key=place)


def middle(values: Sequence[T]) -> list[T]:
    """Return the middle one of some values in order, the later of two; nothing of none."""
    return list(values[len(values) // 2 : len(values) // 2 + 1])
