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


def size_for(sizes: Float[Tensor, "units"], least: float) -> int:
    """Return about how large a text of such units must be to count as `least` even ones.

    Rounded up to two digits.
    """
    now = effective_count(sizes)
    needed = float(sizes.double().sum()) * least / now if now else 0.0
    if needed <= 0:
        return 0
    unit = 10 ** max(math.floor(math.log10(needed)) - 1, 0)
    return math.ceil(needed / unit) * unit
