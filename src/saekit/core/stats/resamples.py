"""Scores whose interval is made of resamples: units drawn anew, the value computed again."""

import math
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from saekit.core.result import Score
from saekit.core.stats.jackknife import Ends
from saekit.core.stats.means import FEW, LEAST_UNITS
from saekit.core.stats.student import t_quantile

Better = Literal["lower", "higher", "neither"]
_ENDS = (0.025, 0.975)
UNSEEN = 3.0  # over the number of trials: how often what never happened may happen


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


def interval(
    values: Float[Tensor, "n_draws_and_one"],
    n: int,
    span: tuple[float, float] | None = None,
    trials: int | None = None,
    freedom: float | None = None,
) -> Ends | str:
    """Return the 95 % interval of a value over n units, or why there is none.

    The ends are percentiles of the resamples, as much farther out as Student's t is than the normal
    distribution. Where hardly any trial comes out otherwise than the rest, resamples are as alike
    as the trials are, and percentiles would be all too certain: of 300 texts that are all right,
    every resample is all right. So neither end is nearer to the value than 3 / trials of the way
    to the end of its range.

    Args:
        values: the value, then that of each resample; those that are not finite are left out.
        n: units that are drawn anew.
        span: the least and the most that the value can be; None: it has no such ends.
        trials: how many outcomes of about one weight the value is made of; None: one a unit.
        freedom: degrees of freedom of Student's t; None: n - 1.

    Source:
        Hesterberg 2015, What teachers should know about the bootstrap, Am. Stat. 69 (expanded
        percentiles); Hanley and Lippman-Hand 1983, If nothing goes wrong, is everything all right?
        JAMA 249 (3 / n).
        Differs: the second holds at every value, not only where nothing goes wrong.
    """
    value, draws = float(values[0]), values[1:][values[1:].isfinite()].double()
    if n < LEAST_UNITS:
        return FEW
    if len(draws) < 2:  # noqa: PLR2004 - a spread needs two
        return "no interval: n_draws=0"
    if span is None and bool((draws == value).all()):
        return f"no interval: all {n} come out alike"
    t = t_quantile(n - 1 if freedom is None else freedom)
    level = math.erfc(math.sqrt(n / (n - 1)) * t / math.sqrt(2)) / 2
    at = torch.tensor([level, 1 - level], dtype=torch.float64)
    low, high = (float(end) for end in torch.quantile(draws, at))
    low, high = min(low, value), max(high, value)  # of skewed resamples one may lie beyond it
    if span is not None:
        least, most = span
        share = min(UNSEEN / (trials or n), 1.0)
        low = max(min(low, value - share * (value - least)), least)
        high = min(max(high, value + share * (most - value)), most)
    return Ends(min(low, value), max(high, value))


def scored(  # noqa: PLR0913 - what a score says
    found: Float[Tensor, "n_draws_and_one"],
    n: int,
    *,
    unit: str,
    label: str,
    better: Better = "neither",
    reason: str = "",
    span: tuple[float, float] | None = None,
    trials: int | None = None,
    freedom: float | None = None,
) -> Score:
    """Return a value with its 95 % interval over resamples; see `interval`.

    Args:
        found: the value, then that of each resample.
        n: units that were drawn anew.
        unit: of the value.
        label: in words.
        better: which way is good.
        reason: what the reader must know.
        span: the least and the most that the value can be.
        trials: outcomes that it is made of; None: one a unit.
        freedom: degrees of freedom of Student's t; None: n - 1.
    """
    ends = interval(found, n, span, trials, freedom)
    low, high = (None, None) if isinstance(ends, str) else ends
    if isinstance(ends, str):
        reason = "; ".join(filter(None, (reason, ends)))
    return Score(
        value=float(found[0]),
        low=low,
        high=high,
        n=n,
        unit=unit,
        better=better,
        reason=reason,
        label=label,
    )
