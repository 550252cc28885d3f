"""Intervals of means over independent units, and of medians."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saekit.core.stats.jackknife import jackknife
from saekit.core.stats.student import SHARE, t_quantile

LEAST_UNITS = 8  # fewer, of two kinds, hold the truth in 83 to 88 % (docs/intervals.md)
FEW = f"no interval: fewer than {LEAST_UNITS} independent units"


class Mean(NamedTuple):
    """A mean and the ends of its 95 % interval, by column; ends are NaN where there is none."""

    mean: Float[Tensor, "*columns"]
    low: Float[Tensor, "*columns"]
    high: Float[Tensor, "*columns"]


def mean_interval(
    values: Float[Tensor, "m *columns"],
    groups: Int[Tensor, "m"] | None = None,
    *,
    positive: bool = False,
    skewed: bool = False,
) -> Mean:
    """Return the mean over events and the ends of its 95 % interval, in each column.

    NaN entries are left out. Events of one group count together, since those of one latent or
    window are alike; without groups each counts by itself. Each group is left out in turn
    (jackknife), with Student's t. Below 8 groups the ends are NaN.

    Args:
        values: one row per event.
        groups: which belong together.
        positive: the values cannot be below 0, as entropies: the interval is taken on the scale
            of logarithms, which holds the truth more often where they are skewed. In a column
            where a mean is 0 the plain scale is taken.
        skewed: the ends follow the skew of the units, as where most are 0 and a few are large.

    Source:
        Efron and Tibshirani 1993, An Introduction to the Bootstrap, section 11.4.
    """
    m, shape = len(values), values.shape[1:]
    flat = values.double().reshape(m, shape.numel())
    which = torch.arange(m) if groups is None else groups.unique(return_inverse=True)[1]
    g = int(which.max()) + 1 if m else 0
    known = ~flat.isnan()
    sums, counts = (torch.zeros(g, flat.shape[1], dtype=torch.float64) for _ in range(2))
    sums.index_add_(0, which, flat.nan_to_num(0.0))
    counts.index_add_(0, which, known.double())
    mean = sums.sum(0) / counts.sum(0)
    low, high = torch.full_like(mean, torch.nan), torch.full_like(mean, torch.nan)
    for column in range(flat.shape[1]):
        some = counts[:, column] > 0
        if int(some.sum()) < LEAST_UNITS:
            continue
        low[column], high[column] = _ends(
            sums[some, column], counts[some, column], positive, skewed
        )
    return Mean(mean.reshape(shape), low.reshape(shape), high.reshape(shape))


def _ends(sums: Tensor, counts: Tensor, positive: bool, skewed: bool) -> tuple[float, float]:
    # The jackknife in closed form: without a group its sum and its count are gone.
    without = (sums.sum() - sums) / (counts.sum() - counts)
    value = float(sums.sum() / counts.sum())
    return jackknife(value, without, counts, "log" if positive else "plain", skewed=skewed)


def half_width(std: float, n: int) -> float:
    """Return half the width of the 95 % interval of a mean of n independent values.

    Args:
        std: their standard deviation, with n in the denominator.
        n: how many.

    Returns:
        NaN below 8 values.
    """
    return t_quantile(n - 1) * std / math.sqrt(n - 1) if n >= LEAST_UNITS else math.nan


def median_interval(values: Float[Tensor, "n"]) -> tuple[float, float, float]:
    """Return the median and the ends of its 95 % interval, which are two of the values.

    The r-th smallest and the r-th largest, r the largest rank with P(B < r) <= 2.5 % for B
    binomial of n and 1/2: no less than 95 % whatever the distribution. NaN ends below 6 values.

    Source:
        David and Nagaraja 2003, Order Statistics, section 7.1.
    """
    n = len(values)
    if not n:
        return math.nan, math.nan, math.nan
    k = torch.arange(n + 1, dtype=torch.float64)
    log_share = math.lgamma(n + 1) - (k + 1).lgamma() - (n - k + 1).lgamma() - n * math.log(2)
    rank = int((log_share.exp().cumsum(0) <= (1 - SHARE) / 2).sum())
    ranked = values.double().sort().values
    middle = float((ranked[(n - 1) // 2] + ranked[n // 2]) / 2)
    if not rank:
        return middle, math.nan, math.nan
    return middle, float(ranked[rank - 1]), float(ranked[n - rank])
