"""Blocks of text or of samples: whole units that are alike inside, put together evenly."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor


def whole_blocks(sizes: Float[Tensor, "units"], n_blocks: int) -> Int[Tensor, "units"]:
    """Return the block of each unit: neighbours together, no unit cut, blocks about even.

    With no more units than blocks each unit is a block of its own.

    Args:
        sizes: of each unit, above 0.
        n_blocks: at most so many blocks, at least 1.

    Returns:
        Numbers from 0 without a gap, never falling.
    """
    n = len(sizes)
    if n <= n_blocks:
        return torch.arange(n)
    middles = sizes.double().cumsum(0) - sizes.double() / 2
    found = (middles * (n_blocks / float(sizes.double().sum()))).long().clamp(0, n_blocks - 1)
    return found.unique(return_inverse=True)[1]


def effective_count(sizes: Float[Tensor, "units"]) -> float:
    """Return how many units of one size would tell as much: (sum s)^2 / sum s^2.

    A corpus of one book and 20 short notes has hardly more than one unit.

    Source:
        Kish 1965, Survey Sampling, section 11.7.
    """
    squares = float(sizes.double().square().sum())
    return float(sizes.double().sum()) ** 2 / squares if squares else 0.0


def spread_count(sizes: Float[Tensor, "units"]) -> float:
    """Return how many units of one size would tell as much of how far units are apart.

    (sum s^2)^2 / sum s^4: a unit whose values are alike inside adds a square of size s^2 to the
    sum that a standard error is made of, so long units make up more of it than of the mean, and it
    rests on fewer of them than `effective_count` says. Equal to it for units of one size.

    Source:
        Satterthwaite 1946, An approximate distribution of estimates of variance components.
    """
    squares = sizes.double().square()
    fourth = float(squares.square().sum())
    return float(squares.sum()) ** 2 / fourth if fourth else 0.0


def larger(sizes: Float[Tensor, "units"], times: float) -> int:
    """Return about how large a text so many times as large is, rounded up to two digits."""
    needed = float(sizes.double().sum()) * times
    if needed <= 0:
        return 0
    unit = 10 ** max(math.floor(math.log10(needed)) - 1, 0)
    return math.ceil(needed / unit) * unit
