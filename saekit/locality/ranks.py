"""Correlations of numbers and of their ranks, and their permutation tests."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

QUANTILES = (0.005, 0.025, 0.05, 0.25, 0.5, 0.75, 0.95, 0.975, 0.995)


class Null(NamedTuple):
    """A statistic beside its values under permutation."""

    value: float
    p: float  # two-sided, (1 + times the null was as far from 0) / (1 + permutations)
    mean: float
    std: float  # divisor n
    z: float  # (value - mean) / std
    quantiles: dict[str, float]
    n: int  # permutations
    draws: tuple[float, ...]  # the statistic of each

    def record(self) -> dict[str, Any]:
        """Return all but the draws, JSON-ready."""
        return {k: v for k, v in self._asdict().items() if k != "draws"}


def ranks(x: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Return the ranks from 1, float64; equal numbers share the mean of theirs."""
    values, where, counts = x.unique(return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    return (last - (counts.double() - 1) / 2)[where] if len(values) else x.double()


def pearson(x: Float[Tensor, "*n"], y: Float[Tensor, "*n"]) -> float:
    """Return the correlation; NaN where either is constant."""
    x, y = (v.double() - v.double().mean() for v in (x, y))
    return float((x * y).sum() / (x.square().sum() * y.square().sum()).sqrt())


def spearman(x: Float[Tensor, "*n"], y: Float[Tensor, "*n"]) -> float:
    """Return the correlation of the ranks; NaN where either is constant."""
    return pearson(ranks(x), ranks(y))


def permutation_test(
    value: float, statistic: Callable[[Tensor], float], n: int, permutations: int,
    generator: torch.Generator,
) -> Null:
    """Compare a statistic with those of permuted units.

    Args:
        value: the statistic of what was seen.
        statistic: its value when units are put in the order given, int64 ``[n]``.
        n: units.
        permutations: how many, drawn with replacement.
        generator: of the draws.

    Source:
        Phipson and Smyth 2010, "Permutation p-values should never be zero": what was seen
        counts as one of the permutations.
    """
    drawn = [statistic(torch.randperm(n, generator=generator)) for _ in range(permutations)]
    null = torch.tensor(drawn, dtype=torch.float64)
    far = int((null.abs() >= abs(value) - 1e-12).sum())
    mean, std = float(null.mean()), float(null.std(correction=0))
    at = torch.quantile(null, torch.tensor(QUANTILES, dtype=torch.float64)).tolist()
    return Null(
        value, (1 + far) / (1 + permutations), mean, std,
        (value - mean) / std if std > 0 else float("nan"),
        {f"{q:g}": v for q, v in zip(QUANTILES, at, strict=True)}, permutations, tuple(drawn),
    )  # fmt: skip
