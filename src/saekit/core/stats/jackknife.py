"""Intervals from leaving out one unit at a time: the one way for values made of sums.

A value that is a ratio of sums, or any smooth formula of them, is computed anew without each
block of text. How far these values are apart tells how far other text would move it. Student's
t, with the degrees of freedom of a sum of squares of uneven blocks, makes up for few blocks; a
scale on which the value is nearly normal makes up for skew of the value, and Hall's transformation
for skew of the blocks: where few documents are far worse than the others, a text that happens to
have none of them looks better, and more certain, than it is. docs/intervals.md compares this with
bootstraps, which hold the truth less often.
"""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saekit.core.stats.blocks import spread_count
from saekit.core.stats.student import t_quantile

Scale = Literal["plain", "log", "rest", "correlation"]
MOST_CORRELATION = 0.999  # beyond it the scale of correlations has no end
NO_SKEW = 1e-6  # below it the transformation is the identity, but for rounding


class Ends(NamedTuple):
    """The ends of a 95 % interval."""

    low: float
    high: float


def jackknife(
    value: float,
    without: Float[Tensor, "units"],
    sizes: Float[Tensor, "units"] | None = None,
    scale: Scale = "plain",
    strata: Int[Tensor, "units"] | None = None,
    *,
    skewed: bool = False,
) -> Ends:
    """Return the 95 % interval of a value, from the values without each unit.

    Args:
        value: over all units.
        without: the value when each unit is left out, finite; at least 2.
        sizes: of the units, for the degrees of freedom; None: all alike.
        scale: what is taken to be normal: "plain" the value, "log" its logarithm (values above
            0), "rest" the logarithm of 1 less the value (values below 1), "correlation" its
            inverse hyperbolic tangent (-1 to 1). Where the value or one of `without` has no such
            logarithm the plain value is taken.
        strata: which sample each unit is of, where a value is made of several samples.
        skewed: the ends follow the skew of the units. Of a ratio of sums over fewer than about 20
            that is hardly known, and ends that follow it hold the truth less often.

    Source:
        Efron and Tibshirani 1993, An Introduction to the Bootstrap, section 11.4 (delete-one
        jackknife); Satterthwaite 1946 (degrees of freedom of uneven units); Fisher 1921
        (correlations); Hall 1992, On the removal of skewness by transformation, J. R. Stat. Soc.
        B 54 (the cubic one).
    """
    if bool((without == value).all()):
        return Ends(value, value)  # nothing varies
    there, back = _scale(scale, value, without)
    moved = float(there(torch.tensor(value, dtype=torch.float64)))
    others = there(without.double())
    sizes = torch.ones(len(without)) if sizes is None else sizes
    strata = torch.zeros(len(without)).long() if strata is None else strata
    spread = df = cubes = 0.0
    for one in strata.unique():
        mine = others[strata == one]
        n, away = len(mine), mine.mean() - mine  # above 0 where a unit raises the value
        spread += float(away.square().sum()) * (n - 1) / n
        cubes += float(away.pow(3).sum()) * ((n - 1) / n) ** 1.5
        df += spread_count(sizes[strata == one]) - 1
    error, t = math.sqrt(spread), t_quantile(max(df, 1.0))
    skew = cubes / error**3 if skewed and error else 0.0
    low, high = sorted(back(moved - error * turned(x, skew)) for x in (t, -t))
    # Back from another scale the ends may miss a value by a rounding.
    return Ends(min(low, value), max(high, value))


def turned(x: float, skew: float) -> float:
    """Return the studentised value that Hall's cubic transformation takes to `x`.

    With g(T) = T + skew T^2 / 3 + skew^2 T^3 / 27 + skew / 6, where `skew` is the third cumulant
    of a sum of units in its own standard errors, g(T) is symmetric to second order.
    """
    if abs(skew) < NO_SKEW:
        return x
    inside = 1 + skew * (x - skew / 6)
    return 3 / skew * (math.copysign(abs(inside) ** (1 / 3), inside) - 1)


def _scale(
    scale: Scale, value: float, without: Tensor
) -> tuple[Callable[[Tensor], Tensor], Callable[[float], float]]:
    """Return the way to a scale and back."""
    if scale == "correlation":
        most = MOST_CORRELATION
        return lambda v: v.clamp(-most, most).atanh(), math.tanh
    if scale == "log" and value > 0 and bool((without > 0).all()):
        return lambda v: v.log(), lambda end: math.exp(min(end, 700.0))
    if scale == "rest" and value < 1 and bool((without < 1).all()):
        return lambda v: (1 - v).log(), lambda end: 1 - math.exp(min(end, 700.0))
    return lambda v: v, lambda end: end
