"""Scores whose intervals draw texts anew, and what every score of an intervention says."""

import math

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from saekit.core.result import Score
from saekit.core.stats.jackknife import turned
from saekit.core.stats.means import FEW, LEAST_UNITS, mean_interval
from saekit.core.stats.resamples import Better
from saekit.core.stats.student import t_quantile
from saekit.studies.faithful.probing.statistics import Draws


def right(
    logits: Float[Tensor, "n"], is_class: Bool[Tensor, "n"], draws: Draws
) -> Float[Tensor, "n_draws_and_one"]:
    """Return the balanced accuracy of a probe: the mean of its accuracy on either side.

    A resample without a text of one side has that of the other.
    """
    correct, weights = ((logits > 0) == is_class).double(), draws.weights
    sides = []
    for side in (is_class, ~is_class):
        n = weights @ side.double()
        share = weights @ (correct * side.double()) / n.clamp_min(1e-300)
        sides.append(torch.where(n > 0, share, torch.nan))
    return torch.stack(sides).nanmean(0)


def of_units(
    values: Float[Tensor, "n"], *, unit: str, label: str, better: Better = "neither"
) -> Score:
    """Return a mean over independent units with its 95 % interval (jackknife, Student's t, skew).

    Where all units are alike there is none: nothing tells how far others would be apart.
    """
    n = len(values)
    if not n:
        return undefined("nothing was measured", 0, unit=unit, label=label)
    mean, low, high = (float(v) for v in mean_interval(values, skewed=True))
    why = FEW if math.isnan(low) else f"no interval: all {n} come out alike" if low == high else ""
    return Score(
        value=mean,
        low=None if why else low,
        high=None if why else high,
        n=n,
        unit=unit,
        better=better,
        reason=why,
        label=label,
    )


def means(values: Shaped[Tensor, "n"], draws: Draws) -> Float[Tensor, "n_draws_and_one"]:
    """Return the mean of what units are, as they are and in each resample."""
    return draws.weights @ values.double() / draws.weights.sum(1)


def undefined(reason: str, n: int, *, unit: str, label: str) -> Score:
    """Return a score without a value, which says why; neither way is better of it."""
    return Score(value=None, n=n, unit=unit, better="neither", reason=reason, label=label)


def exact(value: float | None, n: int, *, unit: str, label: str, better: Better) -> Score:
    """Return a number that no interval is made of, or an undefined one."""
    if value is None:
        return undefined("there is no difference to hold", n, unit=unit, label=label)
    why = "no interval: it is of these texts alone"
    return Score(value=value, n=n, unit=unit, better=better, reason=why, label=label)


def difference(
    one: Float[Tensor, "n"], other: Float[Tensor, "m"], *, unit: str, label: str, better: Better
) -> Score:
    """Return the mean of some units less that of others, all independent, with its 95 % interval.

    Units that are NaN are left out. The interval is Welch's, whose ends follow the skew of the
    units.

    Source:
        Welch 1947, The generalization of Student's problem, Biometrika 34; Hall 1992, see
        `saekit.core.stats.jackknife`.
    """
    parts = [values[values.isfinite()].double() for values in (one, other)]
    n = min(map(len, parts))
    if not n:
        return undefined("nothing was measured", 0, unit=unit, label=label)
    value = float(parts[0].mean() - parts[1].mean())
    if n < LEAST_UNITS:
        return Score(value=value, n=n, unit=unit, better=better, reason=FEW, label=label)
    shares = [float(v.var(correction=1)) / len(v) for v in parts]
    if not sum(shares):
        why = f"no interval: all {n} come out alike"
        return Score(value=value, n=n, unit=unit, better=better, reason=why, label=label)
    freedom = [s**2 / (len(v) - 1) for s, v in zip(shares, parts, strict=True)]
    t, error = t_quantile(sum(shares) ** 2 / sum(freedom)), math.sqrt(sum(shares))
    cubes = [float(((v - v.mean()) / len(v)).pow(3).sum()) for v in parts]
    skew = (cubes[0] - cubes[1]) / error**3
    low, high = sorted(value - error * turned(x, skew) for x in (t, -t))
    return Score(
        value=value,
        low=min(low, value),
        high=max(high, value),
        n=n,
        unit=unit,
        better=better,
        label=label,
    )
