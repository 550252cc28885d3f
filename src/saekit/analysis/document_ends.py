"""How often each latent is on at the first and at the last token of a document."""

import torch
from jaxtyping import Float
from torch import Tensor

from saekit.activations.latents import LatentStore
from saekit.activations.text_axis import pieces


def document_ends(store: LatentStore) -> tuple[Float[Tensor, "d_sae"], Float[Tensor, "d_sae"]]:
    """Return counts of the first and of the last tokens of documents at which each latent is on.

    Special tokens, as separators, are no tokens of a document here. A document that the text
    ends within has no last one.

    Args:
        store: the codes.
    """
    rules = store.meta.get("card", {}).get("rules", {}).values()
    special = torch.tensor(sorted({i for rule in rules for i in rule["special_ids"]})).long()
    first, last = (torch.zeros(store.d_sae, dtype=torch.float64) for _ in range(2))
    waiting = torch.empty(0, dtype=torch.int64)  # latents on at the last token so far
    before = -1  # and the stretch that it is of
    for piece in pieces(store):
        text = ~torch.isin(piece.tokens, special)
        stretch = piece.stretch[text]
        if not len(stretch):
            continue
        earlier = torch.cat([torch.tensor([before]), stretch[:-1]])
        begins, ends = torch.zeros_like(text), torch.zeros_like(text)
        begins[text] = stretch != earlier
        ends[text] = torch.cat([stretch[1:] != stretch[:-1], torch.tensor([False])])
        if int(stretch[0]) != before:
            last += torch.bincount(waiting, minlength=store.d_sae)
        first += torch.bincount(piece.latent[begins[piece.at]], minlength=store.d_sae)
        last += torch.bincount(piece.latent[ends[piece.at]], minlength=store.d_sae)
        final = int(text.nonzero()[-1, 0])
        waiting, before = piece.latent[piece.at == final], int(stretch[-1])
    return first, last
