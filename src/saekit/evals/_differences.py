"""Differences of scores between SAEs on one text, alone or along a curve over L0."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saekit.core.seeds import generator
from saekit.core.stats.blocks import spread_count
from saekit.core.stats.student import Error
from saekit.evals.intervals import BlockSums, too_few, without_each
from saekit.metrics.base import Metric

RESAMPLES = 200  # of the text, for how sure a place on the front is
OWN_L0 = 0.05  # where the L0 of single SAEs differ by a larger share, the table says so


class Point(NamedTuple):
    """SAEs that differ in nothing but the seed: their places among all that were measured."""

    saes: tuple[int, ...]
    seeds: tuple[int | None, ...]


class Curve(NamedTuple):
    """SAEs that are compared as one, as a sweep over k is."""

    name: str
    points: tuple[Point, ...]

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds that every point has; none where points differ in them, or do not say."""
        first = self.points[0].seeds
        alike = all(sorted(map(str, p.seeds)) == sorted(map(str, first)) for p in self.points)
        known = tuple(s for s in first if s is not None)
        return known if alike and len(set(known)) == len(first) else ()


class Difference(NamedTuple):
    """A difference of two curves, and its error."""

    value: float
    error: Error
    seeds: int  # seeds whose spread is part of the error; 0: the text's alone


def seeds_together(runs: Sequence[Mapping[str, Any]]) -> list[list[int]]:
    """Return the places of SAEs that differ in the seed alone, together; all others apart.

    Args:
        runs: settings of the training of each. Of an SAE without them nothing says that it is of
            a seed.
    """
    found: dict[str, list[int]] = {}
    for i, run in enumerate(runs):
        rest = {k: v for k, v in run.items() if k not in ("seed", "order_seed")}
        alone = run.get("seed") is None
        found.setdefault(str(i) if alone else repr(sorted(rest.items())), []).append(i)
    return list(found.values())


def difference(
    a: Curve, b: Curve, sums: Mapping[int, tuple[BlockSums, BlockSums]], span: tuple[float, float]
) -> Difference:
    """Return the difference of two curves with its error over blocks of text and over seeds."""
    at_all = {i: value_of(v) for i, (v, _) in sums.items()}
    log_l0 = {i: log_of(value_of(n)) for i, (_, n) in sums.items()}

    def between(values: Mapping[int, float], places: Mapping[int, float], *left_out: int) -> float:
        kept = [_without(curve, left_out) for curve in (a, b)]
        one, other = (along(curve, values, places, span) for curve in kept)
        return one - other

    value = between(at_all, log_l0)
    without = {i: without_each(v.metric, v.stacked()) for i, (v, _) in sums.items()}
    n_blocks = len(next(iter(without.values())))
    # Losses are measured on fewer rows, whose blocks are others: L0 is then held where it is.
    places = {
        i: without_each(n.metric, n.stacked()).log()
        if torch.equal(n.sizes, v.sizes)
        else torch.full((n_blocks,), log_l0[i], dtype=torch.float64)
        for i, (v, n) in sums.items()
    }
    moved = [
        between(
            {i: float(v[k]) for i, v in without.items()},
            {i: float(v[k]) for i, v in places.items()},
        )
        for k in range(n_blocks)
    ]
    sizes = next(iter(sums.values()))[0].sizes
    parts = [(_variance(moved), max(spread_count(sizes) - 1, 1.0))]
    seeds = 0
    paired = set(a.seeds) == set(b.seeds) and len(a.seeds) > 1
    if paired:
        dropped = [(_of_seed(a, s), _of_seed(b, s)) for s in a.seeds]
        parts.append(
            (_variance([between(at_all, log_l0, *x, *y) for x, y in dropped]), len(a.seeds) - 1)
        )
        seeds = len(a.seeds)
    else:
        for curve in (a, b):
            if len(curve.seeds) > 1:
                moved = [between(at_all, log_l0, *_of_seed(curve, s)) for s in curve.seeds]
                parts.append((_variance(moved), len(curve.seeds) - 1))
        many = [len(curve.seeds) for curve in (a, b)]
        seeds = min(many) if min(many) > 1 else 0
    return Difference(value, Error(tuple(parts)), seeds)


def _variance(without: Sequence[float]) -> float:
    """Return the jackknife's variance of a value, from the values without each unit."""
    n, mean = len(without), sum(without) / len(without)
    return (n - 1) / n * sum((v - mean) ** 2 for v in without)


def along(
    curve: Curve,
    values: Mapping[int, float],
    log_l0: Mapping[int, float],
    span: tuple[float, float],
) -> float:
    """Return the mean of a curve's score over a range of log L0; a point's is its own.

    Between points the score is linear in log L0. Without some text the ends of the range may lie
    just outside the curve; its outer pieces go on straight.
    """
    at = sorted(
        (sum(log_l0[i] for i in p.saes) / len(p.saes), sum(values[i] for i in p.saes) / len(p.saes))
        for p in curve.points
    )
    if len(at) == 1:
        return at[0][1]

    def height(x: float) -> float:
        k = next((k for k in range(1, len(at) - 1) if x < at[k][0]), len(at) - 1)
        (x0, y0), (x1, y1) = at[k - 1], at[k]
        return y0 if x1 == x0 else y0 + (y1 - y0) * (x - x0) / (x1 - x0)

    low, high = span
    if high <= low:
        return height(low)
    knots = [low, *(x for x, _ in at if low < x < high), high]
    areas = ((v - u) * (height(u) + height(v)) / 2 for u, v in itertools.pairwise(knots))
    return sum(areas) / (high - low)


def common_range(a: Curve, b: Curve, log_l0: Mapping[int, float]) -> tuple[float, float] | None:
    """Return the range of log L0 that both curves have; of single points their own."""
    ends = []
    for curve in (a, b):
        at = [sum(log_l0[i] for i in p.saes) / len(p.saes) for p in curve.points]
        ends.append((min(at), max(at)))
    if len(a.points) == len(b.points) == 1:
        return ends[0][0], ends[0][0]
    low, high = max(e[0] for e in ends), min(e[1] for e in ends)
    return (low, high) if low <= high else None


def said_of_range(
    a: Curve, b: Curve, span: tuple[float, float] | None, log_l0: Mapping[int, float]
) -> str:
    """Return at which L0 two groups are compared, in words."""
    if span is None:
        return ""
    if len(a.points) == len(b.points) == 1:
        one, other = (mean_l0(curve, log_l0) for curve in (a, b))
        near = (
            one is not None and other is not None and abs(one - other) <= OWN_L0 * max(one, other)
        )
        return "own L0" if near else "own L0, which differ"
    low, high = (math.exp(x) for x in span)
    return f"L0 {low:.1f}" if low == high else f"L0 {low:.1f} to {high:.1f}"


def mean_l0(curve: Curve, log_l0: Mapping[int, float]) -> float | None:
    each = [math.exp(log_l0[i]) for i in members(curve)]
    mean = sum(each) / len(each)
    return mean if math.isfinite(mean) else None


def members(curve: Curve) -> list[int]:
    return [i for point in curve.points for i in point.saes]


def _of_seed(curve: Curve, seed: int) -> list[int]:
    return [i for p in curve.points for i, s in zip(p.saes, p.seeds, strict=True) if s == seed]


def _without(curve: Curve, left_out: Sequence[int]) -> Curve:
    if not left_out:
        return curve
    points = [
        Point(tuple(kept), ())
        for p in curve.points
        if (kept := [i for i in p.saes if i not in left_out])
    ]
    return Curve(curve.name, tuple(points))


def value_of(sums: BlockSums) -> float:
    found = sums.metric.compute(sums.total()) if sums.n_used else None
    return math.nan if found is None else found


def log_of(value: float) -> float:
    return math.log(value) if value > 0 else math.nan


def on_front(l0: Float[Tensor, "n"], score: Float[Tensor, "n"]) -> Bool[Tensor, "n"]:
    """Tell which SAEs no other one beats: none with no higher L0 and score, and one of them lower.

    One without a value is not among them, and beats none.

    Args:
        l0: latents per token.
        score: lower is better.
    """
    no_worse = (l0[:, None] <= l0) & (score[:, None] <= score)
    lower = (l0[:, None] < l0) | (score[:, None] < score)
    return ~(no_worse & lower).any(0) & ~(l0 + score).isnan()


def front_share(
    l0: Sequence[BlockSums], values: Sequence[BlockSums], seed: int
) -> list[float | None]:
    """Return for each SAE the share of resampled texts in which it is on the front."""
    n = values[0].n_used
    if too_few(values[0].sizes) is not None:
        return [None] * len(values)
    chance = generator(seed, "front")
    stacks = [
        (v.metric, v.stacked(), m.metric, m.stacked(), torch.equal(v.sizes, m.sizes))
        for v, m in zip(values, l0, strict=True)
    ]
    times = torch.zeros(len(values))
    for _ in range(RESAMPLES):
        weights = torch.bincount(torch.randint(n, (n,), generator=chance), minlength=n).double()
        # Losses are measured on fewer rows than L0, so their blocks are others.
        scores, sparsity = [], []
        for metric, stack, l0_metric, l0_stack, same in stacks:
            scores.append(_weighed(metric, stack, weights))
            sparsity.append(_weighed(l0_metric, l0_stack, weights if same else None))
        score = torch.tensor(scores, dtype=torch.float64)
        times += on_front(torch.tensor(sparsity, dtype=torch.float64), score)
    return (times / RESAMPLES).tolist()


def _weighed(metric: Metric, stack: Mapping[str, Tensor], weights: Tensor | None) -> float:
    found = metric.compute(
        {
            k: v.sum(0) if weights is None else torch.tensordot(weights, v.double(), dims=1)
            for k, v in stack.items()
        }
    )
    return math.nan if found is None else found
