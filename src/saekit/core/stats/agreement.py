"""How far two raters agree beyond chance."""

import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import torch

from saekit.core.stats.proportions import wilson
from saekit.core.stats.student import Z


class Kappa(NamedTuple):
    """How far two raters agree beyond chance."""

    value: float | None
    low: float | None
    high: float | None
    agree: float  # share of things that both judged alike
    n: int
    reason: str = ""


def kappa(one: Sequence[Hashable], other: Sequence[Hashable]) -> Kappa:
    """Return Cohen's kappa of two raters' verdicts on the same things, with a 95 % interval.

    1: they always agree; 0: as often as chance alone makes them. Where they agree on everything,
    the large-sample variance is 0 whatever the number of things; the lower end then comes from the
    Wilson interval of the share of agreement.

    Args:
        one: verdicts of one rater.
        other: of the other, in the same order.

    Source:
        Cohen 1960, Educ. Psychol. Meas. 20; the variance: Fleiss, Cohen and Everitt 1969, Psychol.
        Bull. 72.
    """
    n = len(one)
    if not n:
        return Kappa(None, None, None, 0.0, 0, "both judged nothing")
    names = list(dict.fromkeys([*one, *other]))
    at = {name: i for i, name in enumerate(names)}
    p = torch.zeros(len(names), len(names), dtype=torch.float64)
    for a, b in zip(one, other, strict=True):
        p[at[a], at[b]] += 1 / n
    rows, columns = p.sum(1), p.sum(0)
    agree, chance = float(p.diagonal().sum()), float((rows * columns).sum())
    if chance > 1 - 1e-12:
        return Kappa(None, None, None, agree, n, "both gave one verdict to everything")
    value = (agree - chance) / (1 - chance)
    if agree > 1 - 1e-12:
        low = (wilson(1.0, n)[0] - chance) / (1 - chance)
        return Kappa(1.0, low, 1.0, 1.0, n)
    diagonal = (p.diagonal() * ((1 - chance) - (rows + columns) * (1 - agree)) ** 2).sum()
    crossed = p * (columns[:, None] + rows[None, :]) ** 2
    rest = (1 - agree) ** 2 * (crossed.sum() - crossed.diagonal().sum())
    variance = float(diagonal + rest) - (agree * chance - 2 * chance + agree) ** 2
    half = Z * math.sqrt(max(variance, 0.0) / n) / (1 - chance) ** 2
    return Kappa(value, max(value - half, -1.0), min(value + half, 1.0), agree, n)
