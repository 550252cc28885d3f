"""Whether other ways to attribute a latent to tokens agree with its gradients."""

import torch
from jaxtyping import Float
from torch import Tensor

from saekit.core.stats.ranks import spearman
from saekit.studies.locality.influence.entropy import Places, entropy_of, shares


def agreement(
    one: Float[Tensor, "pairs n_ctx"], other: Float[Tensor, "pairs n_ctx"], where: Places
) -> dict[str, Tensor]:
    """Return how alike two profiles are, a value a pair; NaN where either is undefined.

    rank_correlation: Spearman's, over the positions that count. overlap: sum of the smaller of
    both shares, 0 to 1. entropy_difference_bits: H of `other` less H of `one`. same_top: 1 where
    both give the most to the same token.
    """
    inside = where.inside(one.shape[1])
    P, Q = shares(one, inside), shares(other, inside)
    undefined = P.isnan().any(-1) | Q.isnan().any(-1)
    ranks = [
        spearman(p[i], q[i]) if len(p[i]) > 1 else torch.nan
        for p, q, i in zip(P, Q, inside, strict=True)
    ]
    found = {
        "rank_correlation": torch.tensor(ranks, dtype=torch.float64),
        "overlap": torch.minimum(P, Q).sum(-1),
        "entropy_difference_bits": entropy_of(Q) - entropy_of(P),
        "same_top": (P.argmax(-1) == Q.argmax(-1)).double(),
    }
    return {k: torch.where(undefined, torch.nan, v) for k, v in found.items()}
