"""Tokens drawn at random among those at which a latent is on."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saekit.activations.latents import LatentStore
from saekit.activations.text_axis import pieces
from saekit.core.errors import ConfigError
from saekit.core.seeds import generator


class Places(NamedTuple):
    """Tokens at which latents are on, sorted by latent, then by place."""

    latent: Int[Tensor, "m"]
    place: Int[Tensor, "m"]  # on the text axis
    doc_pos: Int[Tensor, "m"]  # tokens before it in its document
    value: Float[Tensor, "m"]  # act units


def active_places(
    store: LatentStore,
    latents: Sequence[int],
    n: int,
    *,
    least_doc_pos: int = 0,
    threshold: float = 0.0,
    seed: int = 0,
) -> Places:
    """Return up to `n` tokens of each latent, each of those it is on at equally likely.

    Args:
        store: the codes.
        latents: which, distinct.
        n: tokens per latent, at least 1.
        least_doc_pos: only tokens with so many before them in their document.
        threshold: an activation of larger size counts, act units.
        seed: decides which.

    Raises:
        ConfigError: `n` is below 1.
    """
    if n < 1:
        raise ConfigError(f"`n` must be at least 1 token a latent; got {n}.")
    wanted = torch.zeros(store.d_sae, dtype=torch.bool)
    wanted[torch.tensor(list(latents), dtype=torch.int64)] = True
    parts = []
    for piece in pieces(store, threshold):
        doc_pos = piece.at + piece.first - piece.begin[piece.at]
        on = wanted[piece.latent] & (doc_pos >= least_doc_pos)
        parts.append((piece.latent[on], piece.at[on] + piece.first, doc_pos[on], piece.value[on]))
    latent, place, doc_pos, value = (torch.cat(c) for c in zip(*parts, strict=True))
    order = torch.sort(place, stable=True).indices
    order = order[torch.sort(latent[order], stable=True).indices]
    chance = torch.rand(len(order), generator=generator(seed, "active_places"))
    lot = torch.sort(chance, stable=True).indices
    lot = lot[torch.sort(latent[order][lot], stable=True).indices]
    counts = torch.bincount(latent, minlength=store.d_sae)
    rank = torch.arange(len(lot)) - (counts.cumsum(0) - counts)[latent[order]]
    kept = order[lot[rank < n].sort().values]
    return Places(latent[kept], place[kept], doc_pos[kept], value[kept])
