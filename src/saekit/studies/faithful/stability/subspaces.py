"""Subspaces: whether latents that no other seed has at least span a space that it has too."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from saekit.metrics.nearest import unit
from saekit.studies.faithful.stability.dictionaries import Dictionary
from saekit.studies.faithful.stability.pairs import PairMatch


class Overlap(NamedTuple):
    """Principal angles of the spaces of unstable latents of two SAEs."""

    cosines: Float[Tensor, "rank"]  # of the angles, the largest first
    random: float  # expected mean squared cosine of two random spaces of this rank
    rank: int
    width: int

    @property
    def mean_square(self) -> float:
        """Mean squared cosine: 1 where the spaces are one, 0 where they are at right angles."""
        return float(self.cosines.double().square().mean())


def unstable_overlap(
    pair: tuple[Dictionary, Dictionary], found: PairMatch, threshold: float, rank: int
) -> Overlap | None:
    r"""Compare the spaces that the unstable latents of two SAEs write most into.

    Of each the leading `rank` right singular vectors of its unit directions, U and V:

    .. math:: \frac{1}{r} \|U^T V\|_F^2

    the mean squared cosine of the principal angles. Of random spaces of that rank it is r / d in
    expectation, whatever the other space is.

    Args:
        pair: the dictionaries.
        found: how they match.
        threshold: cosine above which a matched latent is stable.
        rank: at most this many dimensions, and at most half the width.

    Returns:
        None where either has fewer than two unstable latents.

    Source:
        Björck and Golub 1973, Mathematics of Computation 27 (principal angles).
        Differs: nothing known.
    """
    shared = found.over(threshold)
    unstable = []
    for one, stable in zip(pair, (found.one[shared], found.other[shared]), strict=True):
        left = one.alive.clone()
        left[stable] = False
        unstable.append(unit(one.decoder[left]).double())
    d = pair[0].decoder.shape[1]
    r = min(rank, d // 2, *(len(u) for u in unstable))
    if r < 2:  # noqa: PLR2004 - a line is no space worth comparing
        return None
    spaces = [torch.linalg.eigh(u.T @ u).eigenvectors[:, -r:] for u in unstable]
    cosines = torch.linalg.svdvals(spaces[0].T @ spaces[1]).clamp(0, 1)
    return Overlap(cosines.float(), r / d, r, d)
