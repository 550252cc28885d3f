"""Windows: runs of tokens that count, cut into events of equal length."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


class Windows(NamedTuple):
    """Windows of a batch of rows, in text order; no token is in two of them."""

    row: Int[Tensor, "n"]  # index in the batch
    pos: Int[Tensor, "n window"]  # consecutive positions in the row

    def of(self, acts: Float[Tensor, "batch n_ctx width"]) -> Float[Tensor, "n window width"]:
        """Return the activations of every window."""
        return acts[self.row[:, None], self.pos]

    def mask(self, like: Bool[Tensor, "batch n_ctx"]) -> Bool[Tensor, "batch n_ctx"]:
        """Return which tokens are in a window; in row-major order they are those of `of`."""
        inside = torch.zeros_like(like)
        inside[self.row[:, None], self.pos] = True
        return inside


def windows(kept: Bool[Tensor, "batch n_ctx"], length: int) -> Windows:
    """Cut every run of kept tokens into windows from its beginning; a shorter rest is left.

    Args:
        kept: which tokens count.
        length: tokens of a window, at least 1.
    """
    so_far = kept.long().cumsum(1)
    before_run = torch.where(kept, 0, so_far).cummax(1).values
    row, last = (kept & ((so_far - before_run) % length == 0)).nonzero(as_tuple=True)
    back = torch.arange(1 - length, 1, device=kept.device)
    return Windows(row, last[:, None] + back)
