"""Intervals: of means by drawing events, or groups of them, anew; of a median by ranks."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saekit.core.seeds import generator

RESAMPLES, SHARE = 1000, 0.95


def mean_interval(
    values: Float[Tensor, "m *n"],
    groups: Int[Tensor, "m"] | None = None,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> tuple[Float[Tensor, "*n"], Float[Tensor, "*n"], Float[Tensor, "*n"]]:
    """Return the mean over events and the ends of its 95 % interval, in each column.

    NaN entries are left out. Events of one group are drawn together, since those of one
    latent are alike; without groups each is drawn by itself. Below 2 groups the ends are NaN.

    Args:
        values: one row per event.
        groups: which belong together.
        seed: of the draws.
        resamples: draws.

    Returns:
        Mean, low, high.

    Source:
        Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 8 (clusters);
        percentile interval.
    """
    m = len(values)
    flat = values.double().reshape(m, -1)
    which = torch.arange(m) if groups is None else groups.unique(return_inverse=True)[1]
    g = int(which.max()) + 1 if m else 0
    known = ~flat.isnan()
    sums, counts = (torch.zeros(g, flat.shape[1], dtype=torch.float64) for _ in range(2))
    sums.index_add_(0, which, flat.nan_to_num(0.0))
    counts.index_add_(0, which, known.double())
    mean = sums.sum(0) / counts.sum(0)
    low = high = torch.full_like(mean, torch.nan)
    if g > 1:
        drawn = torch.randint(g, (resamples, g), generator=generator(seed, "events", g))
        times = torch.zeros(resamples, g, dtype=torch.float64)
        times.scatter_add_(1, drawn, torch.ones_like(times))
        means = (times @ sums) / (times @ counts)
        ends = torch.tensor([(1 - SHARE) / 2, (1 + SHARE) / 2], dtype=torch.float64)
        low, high = torch.nanquantile(means, ends, dim=0)
    shape = values.shape[1:]
    return mean.reshape(shape), low.reshape(shape), high.reshape(shape)


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
