"""Losses and divergences of next-token predictions, without a float32 copy of all logits.

A vocabulary of 50,000 makes logits the largest tensor of an evaluation, so they are read in
pieces, and no log-softmax is ever written out: a loss needs the
log-sum-exp and one logit, and a divergence two log-sum-exps and one dot product.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

CHUNK_BYTES = 2**23  # of float32 logits read at a time; about four such arrays live at once


class Against(NamedTuple):
    """Two predictions of the same tokens: the clean one, and one under an intervention."""

    clean: Float[Tensor, "m"]  # loss, nats
    other: Float[Tensor, "m"]  # loss, nats
    kl: Float[Tensor, "m"]  # KL(clean || other), nats


def scored(
    tokens: Int[Tensor, "batch n_ctx"], special_ids: tuple[int, ...]
) -> Bool[Tensor, "batch n_ctx"]:
    """Return where there is a next token in the row, and it is not special."""
    ids = torch.tensor(special_ids, dtype=tokens.dtype, device=tokens.device)
    mask = torch.zeros_like(tokens, dtype=torch.bool)
    mask[:, :-1] = ~torch.isin(tokens[:, 1:], ids)
    return mask


def next_tokens(
    tokens: Int[Tensor, "batch n_ctx"], where: Bool[Tensor, "batch n_ctx"]
) -> Int[Tensor, "m"]:
    """Return the token after each of those that are scored."""
    return tokens.roll(-1, 1)[where]


def losses(logits: Float[Tensor, "m vocab"], targets: Int[Tensor, "m"]) -> Float[Tensor, "m"]:
    """Return the loss of the next token, in nats, float32."""
    found = []
    for part in _parts(logits):
        values = logits[part].float()
        found.append(_shifted_exp(values)[1] - _at(values, targets[part]))
    return torch.cat(found) if found else logits.new_zeros(0, dtype=torch.float32)


def losses_of_rows(
    logits: Float[Tensor, "m vocab"], targets: Int[Tensor, "rows m"]
) -> Float[Tensor, "rows m"]:
    """Return losses of rows that were predicted the same, in nats, float32."""
    found = []
    for part in _parts(logits):
        values = logits[part].float()
        found.append(_shifted_exp(values)[1] - values.gather(1, targets[:, part].T).T)
    return torch.cat(found, 1)


def against(
    clean: Float[Tensor, "m vocab"], other: Float[Tensor, "m vocab"], targets: Int[Tensor, "m"]
) -> Against:
    """Return both losses and the divergence, in nats, float32."""
    found = []
    for part in _parts(clean):
        at_p, at_q = clean[part].float(), other[part].float()
        lse_q = _shifted_exp(at_q)[1]
        exp_p, lse_p = _shifted_exp(at_p)
        mean_gap = torch.linalg.vecdot(exp_p, at_p - at_q) / exp_p.sum(-1)
        goal = targets[part]
        found.append((lse_p - _at(at_p, goal), lse_q - _at(at_q, goal), mean_gap + lse_q - lse_p))
    return Against(*joined(found, 3, clean))


def joined(found: list[tuple[Tensor, ...]], n: int, like: Tensor) -> list[Tensor]:
    """Return the n-tuples of pieces as n tensors; empty ones where there is no piece."""
    if not found:
        return [like.new_zeros(0, dtype=torch.float32)] * n
    return [torch.cat(values) for values in zip(*found, strict=True)]


def _parts(flat: Tensor) -> list[slice]:
    size = max(1, CHUNK_BYTES // (4 * flat.shape[-1]))
    return [slice(i, i + size) for i in range(0, len(flat), size)]


def _shifted_exp(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return exp(values - max) and the log-sum-exp of each row."""
    top = values.amax(-1, keepdim=True)
    shifted = (values - top).exp_()
    return shifted, shifted.sum(-1).log_() + top[:, 0]


def _at(values: Tensor, targets: Tensor) -> Tensor:
    return values.gather(1, targets[:, None])[:, 0]


class Gaps(NamedTuple):
    """How far an intervention moved predictions, beside what `Against` holds."""

    kl_back: Float[Tensor, "m"]  # KL(other || clean), nats
    logit_mse: Float[Tensor, "m"]  # mean square of the difference of logits over the vocabulary


def gaps(clean: Float[Tensor, "m vocab"], other: Float[Tensor, "m vocab"]) -> Gaps:
    """Return the divergence the other way and the gap of logits, float32."""
    found = []
    for part in _parts(clean):
        at_p, at_q = clean[part].float(), other[part].float()
        lse_p = _shifted_exp(at_p)[1]
        exp_q, lse_q = _shifted_exp(at_q)
        gap = at_q - at_p
        back = torch.linalg.vecdot(exp_q, gap) / exp_q.sum(-1) + lse_p - lse_q
        found.append((back, gap.square().mean(-1)))
    return Gaps(*joined(found, 2, clean))
