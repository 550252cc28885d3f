"""Two dictionaries compared: matched one to one, and each latent's nearest in the other."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saekit.metrics.assignment import CANDIDATES, assign
from saekit.metrics.nearest import nearest, unit
from saekit.studies.faithful.stability.dictionaries import Dictionary, rotated

TOP = 4  # nearest ones of each latent that are kept, for the histogram


class PairMatch(NamedTuple):
    """Living latents of two SAEs, matched one to one by the directions they write."""

    one: Int[Tensor, "pairs"]  # numbers of latents
    other: Int[Tensor, "pairs"]
    cosines: Float[Tensor, "pairs"]
    encoder: Float[Tensor, "pairs"] | None  # cosine of what the matched latents read
    mutual: Bool[Tensor, "pairs"]  # each is the nearest of the other too
    best_one: Float[Tensor, "n_alive"]  # cosine with the nearest, of the living latents of one
    best_other: Float[Tensor, "m_alive"]
    top: Float[Tensor, "n_alive top"]  # cosines with the nearest few
    gap: float  # see `saekit.metrics.assignment`

    def over(self, threshold: float) -> Bool[Tensor, "pairs"]:
        """Return which matched pairs are shared: their cosine is above the threshold."""
        return self.cosines > threshold

    def share(self, threshold: float) -> float:
        """Return the shared feature ratio; NaN where no latent is alive."""
        return float(self.over(threshold).double().mean())


def match_pair(one: Dictionary, other: Dictionary) -> PairMatch:
    """Match the living latents of two SAEs.

    Raises:
        ShapeError: they write to sites of different widths.
        MissingExtraError: scipy is not installed.
    """
    mine, theirs = one.living, other.living
    if not len(mine) or not len(theirs):
        none, no = torch.zeros(0, dtype=torch.int64), torch.zeros(0)
        read = None if one.encoder is None or other.encoder is None else no
        return PairMatch(none, none, no, read, none.bool(), no, no, torch.zeros(0, TOP), 0.0)
    a, b = one.decoder[mine], other.decoder[theirs]
    found = nearest(a, b, CANDIDATES)
    matched = assign(a, b, found if len(a) <= len(b) else None)
    rows, columns = matched.rows, matched.columns
    # Equal cosines are each the nearest, whichever of them was found first.
    mutual = (matched.cosines >= found.cosines[rows, 0] - 1e-6) & (
        matched.cosines >= found.back_cosines[columns] - 1e-6
    )
    read = None
    if one.encoder is not None and other.encoder is not None:
        both = unit(one.encoder[mine[rows]]), unit(other.encoder[theirs[columns]])
        read = (both[0] * both[1]).sum(1).clamp(-1, 1)
    return PairMatch(
        mine[rows],
        theirs[columns],
        matched.cosines,
        read,
        mutual,
        found.cosines[:, 0],
        found.back_cosines,
        found.cosines[:, :TOP],
        matched.gap,
    )


def share_of_all(one: Dictionary, other: Dictionary, threshold: float) -> float:
    """Return the shared feature ratio as published: over all latents, the dead among them.

    Source:
        FaithfulSAE, arXiv:2506.17673, scripts/feat_match.py: linear_sum_assignment of the cosines
        of decoder rows, share of pairs strictly above 0.7.
        Differs: without the table of all pairs; the same pairs.
    """
    return float((assign(one.decoder, other.decoder).cosines > threshold).double().mean())


def null_cosines(
    one: Dictionary, other: Dictionary, generator: torch.Generator
) -> dict[str, Float[Tensor, "pairs"]]:
    """Return matched cosines of dictionaries that have nothing in common, of the same sizes.

    "random": both are of random directions. "rotated": the other is turned as a whole, so that how
    its latents lie to each other is kept.
    """
    a, b = one.decoder[one.living], other.decoder[other.living]
    if not len(a) or not len(b):
        return {"random": torch.zeros(0), "rotated": torch.zeros(0)}
    one_drawn, other_drawn = (torch.randn(x.shape, generator=generator) for x in (a, b))
    return {
        "random": assign(one_drawn, other_drawn).cosines,
        "rotated": assign(a, rotated(b, generator)).cosines,
    }
