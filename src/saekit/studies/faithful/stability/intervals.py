"""Intervals of what is averaged over pairs of seeds."""

import math
from collections.abc import Mapping
from itertools import combinations
from typing import NamedTuple

import torch

from saekit.core.stats.jackknife import jackknife
from saekit.core.stats.proportions import wilson

LEAST_SEEDS = 3  # of two there is one pair, and nothing to tell how pairs differ
TWO = "interval over latents alone: two SAEs do not tell how much seeds differ"
Pairs = Mapping[tuple[int, int], float]


class Ends(NamedTuple):
    """A mean over pairs with its 95 % interval, and what the reader must know of it."""

    value: float | None
    low: float | None
    high: float | None
    reason: str


def of_share(values: Pairs, n_seeds: int, n_latents: int) -> Ends:
    """Return the mean over pairs of a share of latents, with its interval.

    From three seeds on each seed is left out in turn with all its pairs (jackknife, Student's t
    with one degree of freedom less than seeds); that sees both how seeds differ and that each has
    a limited number of latents. The interval is at least as wide as one over latents alone
    (Wilson), which is all that two seeds give. docs/measurements/coverage.md says how often it
    holds the truth in simulations.

    Args:
        values: of each pair of seeds, numbered from 0; NaN pairs are left out.
        n_seeds: how many there are.
        n_latents: latents a seed, at least 1 where a value is known.
    """
    found = over_seeds(values, n_seeds, "no pair of SAEs has living latents")
    if found.value is None:
        return found
    low, high = wilson(min(max(found.value, 0.0), 1.0), n_latents)
    if found.low is None or found.high is None:
        return Ends(found.value, min(low, found.value), max(high, found.value), TWO)
    return Ends(found.value, max(min(found.low, low), 0.0), min(max(found.high, high), 1.0), "")


def over_seeds(values: Pairs, n_seeds: int, undefined: str) -> Ends:
    """Return a mean over pairs with the interval over seeds; none of two.

    Source:
        Arvesen 1969, Jackknifing U-statistics, Annals of Mathematical Statistics 40.
    """
    known = {pair: v for pair, v in values.items() if not math.isnan(v)}
    if not known:
        return Ends(None, None, None, undefined)
    value = sum(known.values()) / len(known)
    seeds = sorted({seed for pair in known for seed in pair})
    if len(seeds) < LEAST_SEEDS or len(known) < len(list(combinations(seeds, 2))):
        why = "no interval: it takes three SAEs or more, and a value of each pair"
        return Ends(value, None, None, why)
    rest = [[v for pair, v in known.items() if seed not in pair] for seed in seeds]
    without = torch.tensor([sum(r) / len(r) for r in rest], dtype=torch.float64)
    low, high = jackknife(value, without)
    return Ends(value, low, high, "")
