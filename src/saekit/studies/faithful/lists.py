"""Long lists of whole numbers in a result, as one line of text each."""

from collections.abc import Iterable

import torch
from jaxtyping import Int
from torch import Tensor


def written(values: Iterable[int]) -> str:
    """Return numbers with spaces between."""
    return " ".join(map(str, values))


def read(text: str) -> Int[Tensor, "n"]:
    """Return the numbers that `written` wrote."""
    return torch.tensor([int(word) for word in text.split()], dtype=torch.int64)
