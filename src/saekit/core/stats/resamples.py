"""Scores whose interval is made of resamples: percentiles of what each resample gave."""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from saekit.core.result import Score
from saekit.core.stats.means import FEW, LEAST_UNITS

Better = Literal["lower", "higher", "neither"]
_ENDS = (0.025, 0.975)


class PairedDraws(NamedTuple):
    """A number of two SAEs, and their difference in every resample."""

    first: float
    second: float
    draws: Float[Tensor, "n_draws"]  # of the difference
    n: int  # units that were resampled


def percentiles(draws: Float[Tensor, "n_draws"]) -> tuple[float, float]:
    """Return the ends of the middle 95 % of some resamples."""
    low, high = draws.quantile(torch.tensor(_ENDS, dtype=draws.dtype)).tolist()
    return low, high


def scored(  # noqa: PLR0913 - what a score says
    found: Float[Tensor, "n_draws_and_one"],
    n: int,
    *,
    unit: str,
    label: str,
    better: Better = "neither",
    reason: str = "",
) -> Score:
    """Return a value with its 95 % interval, the percentiles of its resamples.

    Resamples in which it is not finite are left out.

    Args:
        found: the value, then that of each resample.
        n: units that were drawn anew.
        unit: of the value.
        label: in words.
        better: which way is good.
        reason: what the reader must know.
    """
    value, rest = float(found[0]), found[1:][found[1:].isfinite()]
    low = high = None
    if n < LEAST_UNITS or not len(rest):
        few = FEW if n < LEAST_UNITS else "no interval: n_draws=0"
        reason = "; ".join(filter(None, (reason, few)))
    else:
        low, high = percentiles(rest)
        low, high = min(low, value), max(high, value)
    return Score(
        value=value, low=low, high=high, n=n, unit=unit, better=better, reason=reason, label=label
    )
