"""Permutation tests: a statistic beside its values when units are put in another order."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

QUANTILES = (0.005, 0.025, 0.05, 0.25, 0.5, 0.75, 0.95, 0.975, 0.995)
NEAR = 1e-12  # statistics closer than this are the same but for rounding


class Null(NamedTuple):
    """A statistic and its values under permutation.

    Where the statistic of what was seen is undefined all of it is NaN: there is nothing to test.
    """

    value: float
    p: float  # two-sided, (1 + times the null was as far from 0) / (1 + permutations)
    mean: float
    std: float  # divisor n
    z: float  # (value - mean) / std
    quantiles: dict[str, float]
    n: int  # permutations that have a value
    draws: tuple[float, ...]  # the statistic of each

    def record(self) -> dict[str, Any]:
        """Return all but the draws, JSON-ready; None where undefined."""
        kept = {k: v for k, v in self._asdict().items() if k != "draws"}
        kept = {k: defined(v) for k, v in kept.items()}
        return kept | {"quantiles": {k: defined(v) for k, v in self.quantiles.items()}}


def defined(value: Any) -> Any:
    """Return a value, None in place of NaN: how JSON says undefined."""
    return None if isinstance(value, float) and math.isnan(value) else value


def permutation_test(
    value: float,
    statistic: Callable[[Tensor], float],
    n: int,
    permutations: int,
    generator: torch.Generator,
) -> Null:
    """Compare a statistic with those of permuted units.

    An order in which the statistic is undefined says nothing and is left out; `n` of the result
    counts the others.

    Args:
        value: the statistic of what was seen; NaN: the test is undefined.
        statistic: its value when units are put in the order given, int64 ``[n]``.
        n: units.
        permutations: how many, drawn with replacement.
        generator: of the draws.

    Source:
        Phipson and Smyth 2010, "Permutation p-values should never be zero": what was seen
        counts as one of the permutations.
    """
    drawn = []
    if not math.isnan(value):
        drawn = [statistic(torch.randperm(n, generator=generator)) for _ in range(permutations)]
        drawn = [v for v in drawn if not math.isnan(v)]
    return _null(value, drawn)


def _null(value: float, drawn: list[float]) -> Null:
    """Return a statistic with its values under permutation, of which there may be none."""
    if not drawn:
        nothing = dict.fromkeys((f"{q:g}" for q in QUANTILES), math.nan)
        return Null(value, math.nan, math.nan, math.nan, math.nan, nothing, 0, ())
    null = torch.tensor(drawn, dtype=torch.float64)
    far = int((null.abs() >= abs(value) - NEAR).sum())
    mean, std = float(null.mean()), float(null.std(correction=0))
    at = torch.quantile(null, torch.tensor(QUANTILES, dtype=torch.float64)).tolist()
    return Null(
        value,
        (1 + far) / (1 + len(drawn)),
        mean,
        std,
        (value - mean) / std if std > 0 else math.nan,
        {f"{q:g}": v for q, v in zip(QUANTILES, at, strict=True)},
        len(drawn),
        tuple(drawn),
    )


MOST_PATTERNS = 2**16  # of signs that are gone through; of more some are drawn


def sign_flips(
    values: Tensor, generator: torch.Generator, permutations: int = MOST_PATTERNS
) -> Null:
    """Compare the mean of paired differences with those of the same with signs turned.

    Up to 16 differences every pattern of signs is gone through, and p is exact: the share of
    patterns whose mean is as far from 0. Of more, patterns are drawn, and what was seen counts as
    one of them.

    Args:
        values: differences, one a pair, float64 ``[n]``.
        generator: of the draws.
        permutations: how many are drawn where there are too many patterns.

    Source:
        Fisher 1935, The Design of Experiments, section 21 (paired randomisation test).
    """
    n, values = len(values), values.double()
    value = float(values.mean()) if n else math.nan
    exact = 2**n <= MOST_PATTERNS
    if not n:
        signs = torch.zeros(0, 0, dtype=torch.float64)
    elif exact:
        bits = torch.arange(2**n)[:, None] >> torch.arange(n) & 1
        signs = 1.0 - 2.0 * bits.double()
    else:
        bits = torch.randint(2, (permutations, n), generator=generator)
        signs = 1.0 - 2.0 * bits.double()
    drawn = (signs @ values / n).tolist() if n else []
    found = _null(value, drawn)
    far = sum(abs(v) >= abs(value) - NEAR for v in drawn)
    return found._replace(p=far / len(drawn)) if exact and drawn else found


def said(null: Null) -> str:
    """Return a rank correlation and its p as figures and command lines print them."""
    if math.isnan(null.value):
        return "Spearman undefined: one side does not vary"
    return f"Spearman {null.value:.3f}, p = {null.p:.2g}"
