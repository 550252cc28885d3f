"""Scores whose intervals draw texts anew, and what every score of an intervention says."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saekit.core.result import Score
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
    """Return a mean over independent units with its 95 % interval (jackknife, Student's t)."""
    n = len(values)
    if not n:
        return undefined("nothing was measured", 0, unit=unit, label=label)
    mean, low, high = (float(v) for v in mean_interval(values))
    known = low == low  # noqa: PLR0124 - not NaN
    return Score(
        value=mean, low=low if known else None, high=high if known else None, n=n, unit=unit,
        better=better, reason="" if known else FEW, label=label,
    )  # fmt: skip


def near_none(n: int, n_draws: int, generator: torch.Generator) -> Float[Tensor, "n_draws"]:
    """Return draws of a share of which none of `n` trials was a hit: Beta(1/2, n + 1/2).

    Source:
        Brown, Cai and DasGupta 2001, Interval estimation for a binomial proportion (Jeffreys).
    """
    normal = torch.randn(2, n_draws, dtype=torch.float64, generator=generator)
    trials = torch.rand(n, n_draws, dtype=torch.float64, generator=generator)
    hit, miss = normal.square() / 2  # Gamma(1/2); n exponential times more make Gamma(n + 1/2)
    return hit / (hit + miss - (1 - trials).log().sum(0))


def rates(
    marks: Float[Tensor, "n"], draws: Draws, generator: torch.Generator
) -> Float[Tensor, "n_draws_and_one"]:
    """Return a mean of marks from 0 to 1, as it is and in each resample.

    Where all marks are alike every resample would be too: those differ as `near_none` draws.
    """
    found = draws.weights @ marks / draws.weights.sum(1)
    if bool((marks == marks[0]).all()):
        found[1:] = (found[0] - near_none(len(marks), len(found) - 1, generator)).abs()
    return found


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

    Units that are NaN are left out. The interval is Welch's.

    Source:
        Welch 1947, The generalization of Student's problem, Biometrika 34.
    """
    parts = [values[values.isfinite()].double() for values in (one, other)]
    n = min(map(len, parts))
    if not n:
        return undefined("nothing was measured", 0, unit=unit, label=label)
    value = float(parts[0].mean() - parts[1].mean())
    if n < LEAST_UNITS:
        return Score(value=value, n=n, unit=unit, better=better, reason=FEW, label=label)
    shares = [float(v.var(correction=1)) / len(v) for v in parts]
    freedom = [s**2 / (len(v) - 1) for s, v in zip(shares, parts, strict=True)]
    df = sum(shares) ** 2 / sum(freedom) if sum(freedom) else float(n - 1)
    half = t_quantile(df) * math.sqrt(sum(shares))
    return Score(
        value=value, low=value - half, high=value + half, n=n, unit=unit, better=better,
        label=label,
    )  # fmt: skip
