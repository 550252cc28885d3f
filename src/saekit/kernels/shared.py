"""Choices among latents or tokens that several processes hold: one exchange of candidates.

The k largest of a whole are among the k largest of its parts. So each process chooses its own
candidates as ever, all see the values of all, and each keeps those of its own that are among the
k largest. Every process ranks the same numbers in the same order, so that ties fall alike
everywhere and exactly k are kept: of equals those of the lowest latents for each token, and those
of the first process, then the first found, where a batch shares a budget.

Source:
    Gao et al. 2024, openai/sparse_autoencoder (candidates of shards, gathered).
    Differs: ranks decide, not the smallest value kept: with ties there are k, not more.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saekit.core.codes import Codes
from saekit.core.processes import Group
from saekit.kernels import choose, ties


@torch.no_grad()
def top_latents(
    x: Float[Tensor, "n d_in"],
    W_enc: Float[Tensor, "d_in part"],
    b_enc: Float[Tensor, "part"],
    k: int,
    group: Group,
    widths: Sequence[int] | None = None,
    *,
    by_size: bool = False,
) -> Codes:
    """Return those of the k largest pre-activations of each token that are of own latents.

    Sends n * k values in float32 from each process to each, and nothing else.

    Args:
        x: act units, the same rows everywhere.
        W_enc: of own latents, latent-major.
        b_enc: of own latents.
        k: entries a token, at most the latents of all.
        group: the processes that hold the latents.
        widths: latents of each process; None: as many as here.
        by_size: largest in absolute value; the sign stays.
    """
    if group.size == 1:
        return choose.top_latents(x, W_enc, b_enc, k, by_size=by_size)
    n, own = len(x), min(k, len(b_enc))
    width = min(k, max(widths or [len(b_enc)]))
    sizes = x.new_full((n, width), -torch.inf)
    found = _none(x, len(b_enc))
    if own:
        found = _by_latent(choose.top_latents(x, W_enc, b_enc, own, by_size=by_size), own)
        values = found.values.view(n, own)
        sizes[:, :own] = values.abs() if by_size else values
    merged = group.gather(sizes).transpose(0, 1).flatten(1)  # [n, size * width]
    won = torch.zeros_like(merged, dtype=torch.bool)
    won.scatter_(1, ties.top_places(merged, k), True)
    mine = won.view(n, group.size, width)[:, group.rank, :own]
    return found.only(mine.reshape(-1))


def counts(found: Codes, group: Group) -> Int[Tensor, "size"]:
    """Return how many entries each process found."""
    return group.gather(torch.tensor(len(found.values), device=found.values.device))


def smallest(values: Float[Tensor, "nnz"]) -> Float[Tensor, ""]:
    """Return the smallest value; infinity where there is none."""
    return values.min() if len(values) else values.new_tensor(torch.inf)


@torch.no_grad()
def among_top(
    found: Float[Tensor, "nnz"], budget: int, counts: Int[Tensor, "size"], group: Group
) -> Bool[Tensor, "nnz"]:
    """Return which values are among the `budget` largest of all processes.

    Sends from each process to each at most `budget` values, or as many as one of them found.

    Args:
        found: own candidates.
        budget: how many are kept in all, fewer than there are.
        counts: candidates of each process.
        group: the processes.
    """
    if group.size == 1:
        return ties.among_largest(found, budget)
    width = min(int(counts.max()), budget)
    values = found.new_full((width,), -torch.inf)
    own = torch.arange(len(found), device=found.device)
    if len(own) > width:
        own = ties.among_largest(found, width).nonzero().squeeze(-1)
    values[: len(own)] = found[own]
    won = ties.among_largest(group.gather(values).flatten(), budget)
    mine = won[group.rank * width : group.rank * width + len(own)]
    return torch.zeros_like(found, dtype=torch.bool).index_fill_(0, own[mine], value=True)


def _by_latent(found: Codes, k: int) -> Codes:
    """Return codes of k entries a row with the latents of each row ascending."""
    if found.latents.device.type == "cpu":
        return found  # they are
    latents, order = found.latents.view(-1, k).sort(-1)
    values = found.values.view(-1, k).gather(-1, order)
    return found._replace(values=values.flatten(), latents=latents.flatten())


def _none(x: Float[Tensor, "n d_in"], d_sae: int) -> Codes:
    empty = torch.zeros(0, dtype=torch.int64, device=x.device)
    return Codes(x.new_zeros(0), empty, empty.new_zeros(len(x) + 1), (len(x),), d_sae)
