"""Quantiles of Student's t and of the normal distribution, for 95 % intervals."""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

SHARE = 0.95  # of repetitions in which an interval is meant to hold the truth
Z = 1.959964  # of the normal distribution at that share, both tails left out

_GRID = 2**16  # points of the integral; the quantile of 1 degree of freedom is right to 1e-6
_NEARLY_NORMAL = 1e4  # degrees of freedom from which two terms of a series are exact to 1e-8


@functools.lru_cache(maxsize=4096)
def t_quantile(df: float) -> float:
    """Return t with P(|T| < t) = 95 % for Student's T with `df` degrees of freedom.

    With T = sqrt(df) tan(a) the density of a is cos(a)^(df - 1), which is smooth and has a
    bounded range, so a sum over a grid is exact enough.

    Args:
        df: above 0; need not be whole.
    """
    if df > _NEARLY_NORMAL:
        return Z * (1 + (Z * Z + 1) / (4 * df))
    step = math.pi / 2 / _GRID
    middles = (torch.arange(_GRID, dtype=torch.float64) + 0.5) * step
    below = (middles.cos().log() * (df - 1)).exp().cumsum(0)
    below /= below[-1].clone()
    last = int((below < SHARE).sum())  # the cell in which the quantile lies
    before = float(below[last - 1]) if last else 0.0
    angle = (last + (SHARE - before) / (float(below[last]) - before)) * step
    return math.sqrt(df) * math.tan(angle)


def two_sided(t: float, df: float) -> float:
    """Return the chance that Student's T with `df` degrees of freedom is as far from 0 as `t`.

    With T = sqrt(df) tan(a) it is the integral of cos(a)^(df - 1) from the angle of `t` to a right
    angle, over that from 0; both by the same rule as in `t_quantile`.

    Args:
        t: of any sign; NaN gives NaN.
        df: above 0.
    """
    if math.isnan(t):
        return math.nan
    if df > _NEARLY_NORMAL:
        return math.erfc(abs(t) / math.sqrt(2))
    angle = math.atan(abs(t) / math.sqrt(df))

    def integral(start: float) -> float:
        step = (math.pi / 2 - start) / _GRID
        middles = start + (torch.arange(_GRID, dtype=torch.float64) + 0.5) * step
        return step * float((middles.cos().log() * (df - 1)).exp().sum())

    return min(1.0, integral(angle) / integral(0.0))


class Error(NamedTuple):
    """A standard error, and the degrees of freedom it rests on."""

    size: float
    df: float


def added_variances(parts: Sequence[tuple[float, float]]) -> Error:
    """Return the error of a value with several sources of spread, whose variances add.

    Args:
        parts: variance and degrees of freedom of each source. Where no value varies there is one
            degree of freedom.

    Source:
        Satterthwaite 1946, An approximate distribution of estimates of variance components.
    """
    total = sum(v for v, _ in parts)
    df = total**2 / sum(v * v / n for v, n in parts if v) if total else 1.0
    return Error(math.sqrt(total), df)
