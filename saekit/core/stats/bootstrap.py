"""Percentiles of a bootstrap: for rank correlations, which leaving one unit out serves badly."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saekit.core.stats.student import SHARE

RESAMPLES = 1000


def draws(
    n: int, generator: torch.Generator, resamples: int = RESAMPLES
) -> Int[Tensor, "resamples n"]:
    """Return units drawn with replacement, as many as there are, in each row.

    Source:
        Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 6.
    """
    return torch.randint(n, (resamples, n), generator=generator)


def percentiles(values: Float[Tensor, "n"]) -> tuple[float, float]:
    """Return the ends of the central 95 % of values."""
    ends = torch.tensor([(1 - SHARE) / 2, (1 + SHARE) / 2], dtype=torch.float64)
    low, high = torch.quantile(values.double(), ends).tolist()
    return low, high
