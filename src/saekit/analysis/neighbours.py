"""Which latents write alike, and which are on at the same tokens."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from saekit.activations.latents import LatentStore
from saekit.analysis.cofiring import co_occurring
from saekit.analysis.examples import shuffled

MOST_PRODUCTS = 2**44  # multiplications of all pairs of directions; on two cores, minutes
MOST_COMMON = 8192  # latents whose pairs are counted
MOST_PAIRS = 2**26  # pairs of latents at one token that are counted
AT_ONCE, MOST_AT_ONCE = 1024, 2**26  # latents compared with all at once; and pairs


class Neighbours(NamedTuple):
    """The nearest latents of each, the nearest first; -1 where there is none."""

    latents: Int[Tensor, "d_sae n"]
    values: Float[Tensor, "d_sae n"]
    both: Int[Tensor, "d_sae n"] | None  # tokens at which both are on


def alike(directions: Float[Tensor, "d_sae d_out"], n: int) -> Neighbours | None:
    """Return the latents whose directions have the largest cosines with that of each.

    Args:
        directions: what each latent writes.
        n: of a latent.

    Returns:
        None where there are too many pairs for a CPU.
    """
    d_sae, width = directions.shape
    n = min(n, d_sae - 1)
    if (directions.device.type == "cpu" and d_sae * d_sae * width > MOST_PRODUCTS) or n < 1:
        return None
    unit = functional.normalize(directions.float(), dim=1)
    step = max(1, min(AT_ONCE, MOST_AT_ONCE // d_sae, d_sae))
    values, latents = torch.empty(d_sae, n), torch.empty(d_sae, n, dtype=torch.int64)
    # In one place: large blocks, one a step, with small ones between them, are not used again where
    # memory is kept, and those of 131,072 latents were over 10 GB.
    place = unit.new_empty(step, d_sae)
    for begin in range(0, d_sae, step):
        part = unit[begin : begin + step]
        cosines = torch.matmul(part, unit.T, out=place[: len(part)])
        cosines.diagonal(begin).fill_(-torch.inf)
        near = cosines.topk(n, dim=1)
        values[begin : begin + step], latents[begin : begin + step] = near.values, near.indices
    return Neighbours(latents, values, None)


def together(store: LatentStore, n: int) -> tuple[Neighbours, int]:
    """Return the latents whose being on is correlated most with that of each.

    Of many pairs only those in some rows of tokens are counted, drawn by a fixed hash.

    Args:
        store: the codes.
        n: of a latent.

    Returns:
        the latents with the correlation phi, and how many tokens were looked at.
    """
    entries = int(store.counts.sum())
    a_token = entries / max(store.n_tokens, 1)
    share = min(1.0, MOST_PAIRS / max(entries * (a_token + 1) / 2, 1))
    rows = np.arange(store.first_row, store.first_row + store.n_rows)
    kept = torch.from_numpy(shuffled(rows) < share)
    found = co_occurring(store, MOST_COMMON, kept)
    m, n = len(found.latents), max(min(n, store.d_sae - 1), 1)
    latents = torch.full((store.d_sae, n), -1, dtype=torch.int64)
    both, values = torch.zeros_like(latents), torch.full((store.d_sae, n), torch.nan)
    rate = (found.counts.double() / max(found.n_tokens, 1)).float()
    spread = (rate * (1 - rate)).sqrt().clamp_min(1e-20)
    for begin in range(0, m, AT_ONCE):
        part = slice(begin, min(begin + AT_ONCE, m))
        counts = found.both[part]
        phi = counts.float().div_(max(found.n_tokens, 1)).sub_(rate[part, None] * rate)
        phi.div_(spread[part, None]).div_(spread)
        own = torch.arange(len(phi))
        phi[own, own + begin] = -torch.inf
        phi[counts == 0] = -torch.inf
        near = phi.topk(min(n, m), dim=1)
        there = near.values > 0
        width = near.indices.shape[1]
        mine = found.latents[part]
        latents[mine, :width] = found.latents[near.indices].where(there, -1)
        values[mine, :width] = near.values.where(there, torch.nan)
        both[mine, :width] = counts.gather(1, near.indices).long().where(there, 0)
    return Neighbours(latents, values, both), found.n_tokens
