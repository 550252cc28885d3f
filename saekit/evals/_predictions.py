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


def losses(
    logits: Float[Tensor, "batch n_ctx vocab"],
    tokens: Int[Tensor, "batch n_ctx"],
    where: Bool[Tensor, "batch n_ctx"],
) -> Float[Tensor, "m"]:
    """Return the loss of the next token where `where` says, in nats, float32."""
    flat, targets = logits.flatten(0, 1), _next(tokens)
    found = []
    for part in _parts(flat):
        values = flat[part].float()
        found.append(_shifted_exp(values)[1] - _at(values, targets[part]))
    return torch.cat(found)[where.flatten()]


def against(
    clean: Float[Tensor, "batch n_ctx vocab"],
    other: Float[Tensor, "batch n_ctx vocab"],
    tokens: Int[Tensor, "batch n_ctx"],
    where: Bool[Tensor, "batch n_ctx"],
) -> Against:
    """Return both losses and the divergence where `where` says, in nats, float32."""
    p, q, targets = clean.flatten(0, 1), other.flatten(0, 1), _next(tokens)
    found = []
    for part in _parts(p):
        at_p, at_q = p[part].float(), q[part].float()
        lse_q = _shifted_exp(at_q)[1]
        exp_p, lse_p = _shifted_exp(at_p)
        mean_gap = torch.linalg.vecdot(exp_p, at_p - at_q) / exp_p.sum(-1)
        goal = targets[part]
        found.append(
            (lse_p - _at(at_p, goal), lse_q - _at(at_q, goal), mean_gap + lse_q - lse_p)
        )
    return Against(*(torch.cat(values)[where.flatten()] for values in zip(*found, strict=True)))


def _next(tokens: Tensor) -> Tensor:
    """Return the next token of each, flat; the last of a row has none and stands for itself."""
    return torch.cat([tokens[:, 1:], tokens[:, -1:]], dim=1).flatten()


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


def gaps(
    clean: Float[Tensor, "batch n_ctx vocab"],
    other: Float[Tensor, "batch n_ctx vocab"],
    where: Bool[Tensor, "batch n_ctx"],
) -> Gaps:
    """Return the divergence the other way and the gap of logits where `where` says, float32."""
    p, q = clean.flatten(0, 1), other.flatten(0, 1)
    found = []
    for part in _parts(p):
        at_p, at_q = p[part].float(), q[part].float()
        lse_p = _shifted_exp(at_p)[1]
        exp_q, lse_q = _shifted_exp(at_q)
        gap = at_q - at_p
        back = torch.linalg.vecdot(exp_q, gap) / exp_q.sum(-1) + lse_p - lse_q
        found.append((back, gap.square().mean(-1)))
    return Gaps(*(torch.cat(values)[where.flatten()] for values in zip(*found, strict=True)))
