"""Ablation: how the loss of each token of a text changes when one latent is set to 0."""

import dataclasses
from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saekit.hub.splicing import check_order, splice
from saekit.hub.trained import TrainedSAE
from saekit.models.base import LanguageModel, Text


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class Ablated:
    """A text, where a latent is on in it, and what the model loses without the latent.

    Args:
        latent: which.
        tokens: ids of the row.
        pieces: the tokens as text.
        acts: activation of the latent at each token, act units; 0 where it is off.
        loss: of each token given those before it, nats; None of the first, which nothing predicts.
        change: how much that loss rises when the latent is 0 at every token that counts, nats.
    """

    latent: int
    tokens: Int[Tensor, "n"]
    pieces: list[str]
    acts: list[float]
    loss: list[float | None]
    change: list[float | None]

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready record."""
        return dataclasses.asdict(self) | {"tokens": self.tokens.tolist()}


@torch.no_grad()
def ablate(lm: LanguageModel, sae: TrainedSAE, latent: int, text: Text) -> Ablated:
    """Set a latent to 0 at every token, and return how the loss of each token changes.

    What the SAE fails to reconstruct is kept, so that nothing but the latent changes: where it is
    off everywhere the loss is the same to the bit.

    Args:
        lm: the language model.
        sae: whose latent it is.
        latent: its number.
        text: one text, or ids of one row; it begins with BOS if the SAE's training rows did.

    Raises:
        UnknownNameError: there is no such latent.
        ConfigError: the SAE codes windows of tokens, or does not fit the model.
        DataError: there is no token in the text.
    """
    check_order(lm, sae)
    bos = sae.card.bos_id(lm.tokenizer) is not None
    row = lm.tokens(text, bos=bos)[:1]
    with splice(lm, sae) as spliced:
        number = spliced.parts[0].number_of(latent)
        before = _losses(lm, row)
        column = torch.tensor([number], device=spliced.codes.latents.device)
        acts = spliced.codes.columns(column).flatten()[: row.shape[1]]
        spliced.edit(number, ablate=True)
        after = _losses(lm, row)
    return Ablated(
        latent=number,
        tokens=row[0],
        pieces=lm.tokenizer.pieces(row[0].tolist()),
        acts=acts.tolist(),
        loss=[None, *before.tolist()],
        change=[None, *(after - before).tolist()],
    )


def _losses(lm: LanguageModel, row: Int[Tensor, "1 n"]) -> Float[Tensor, "n_minus_1"]:
    """Return the loss of every token of a row but the first, nats."""
    logits = lm.logits(row)[0, :-1].float()
    target = row[0, 1:].to(logits.device)
    return torch.nn.functional.cross_entropy(logits, target, reduction="none").cpu()
