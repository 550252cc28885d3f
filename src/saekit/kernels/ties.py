"""The k largest of each row, so that of equal numbers the first are taken, on every path.

`torch.topk` may take any of equals, and which ones depends on the library's way through memory.
Here ties are looked for at the cut alone: one number more than wanted is asked for, and only rows
in which that one equals the last wanted are done again.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

HEAP = 64  # PyTorch's topk on CPUs keeps a heap where rows are this many times k long


def top_places(values: Float[Tensor, "*rows n"], k: int) -> Int[Tensor, "*rows k"]:
    """Return the places of the k largest of each row, ascending; of equals the first.

    NaN counts as the largest, as in `torch.topk`.

    Args:
        values: rows of at least k numbers.
        k: how many, at least 0.
    """
    n = values.shape[-1]
    if k == n:
        every = torch.arange(n, device=values.device)
        return every.expand(values.shape).clone()
    if not k:
        return torch.zeros(*values.shape[:-1], 0, dtype=torch.int64, device=values.device)
    if n // HEAP == k:  # one number more would cost PyTorch's slower way through a row
        top = torch.topk(values, k, dim=-1, sorted=False)
        cut = top.values.amin(-1, keepdim=True)
        tied = (values == cut).sum(-1) > (top.values == cut).sum(-1)
        found = top.indices
    else:
        top = torch.topk(values, k + 1, dim=-1, sorted=False)  # sorting would cost more than it
        size = top.values.nan_to_num(torch.inf, torch.inf, -torch.inf)
        least, last = size.min(-1, keepdim=True)  # the one too many, whose place the end takes
        found = top.indices.scatter(-1, last, top.indices[..., k:])[..., :k]
        cut = size.scatter(-1, last, size[..., k:])[..., :k].amin(-1, keepdim=True)
        tied = ((cut == least) & cut.isfinite())[..., 0]
    # Ascending places are what callers need, and leave the order of equals to no library.
    places = found.sort(-1).values
    if tied.any():
        places[tied] = _first_at(values[tied], cut[tied], k)
    return places


def _first_at(
    values: Float[Tensor, "m n"], cut: Float[Tensor, "m 1"], k: int
) -> Int[Tensor, "m k"]:
    """Return the places of what is above the cut, and the first of those on it, k a row."""
    on = ~(values <= cut)  # NaN too
    level = values == cut
    on |= level & (level.cumsum(-1) <= k - on.sum(-1, keepdim=True))
    return on.nonzero()[:, 1].view(len(values), k)


def among_largest(values: Float[Tensor, "n"], k: int) -> Bool[Tensor, "n"]:
    """Return which numbers are among the k largest of all; of equals the first.

    Args:
        values: finite numbers, or -inf.
        k: how many, from 0 to n.
    """
    if not k:
        return torch.zeros_like(values, dtype=torch.bool)
    cut = torch.topk(values, k, sorted=False).values.min()
    on, level = values > cut, values == cut
    return on | (level & (level.cumsum(0) <= k - on.sum()))
