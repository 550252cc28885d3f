"""Spherical k-means: directions that clusters of vectors share."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

CHUNK = 1024  # rows that are compared with all centres at once


class Clusters(NamedTuple):
    """Directions, and which of them each row is nearest to."""

    centres: Float[Tensor, "n width"]  # of length 1
    nearest: Int[Tensor, "m"]  # in the last round
    rounds: int  # until nothing changed, or all that were allowed


def spherical_k_means(
    rows: Float[Tensor, "m width"], n: int, rounds: int, generator: torch.Generator
) -> Clusters:
    """Return n directions such that rows have a large cosine with the nearest of them.

    Begins at n of the rows. A cluster that lost all its members keeps its direction.

    Args:
        rows: of length 1, at least n.
        n: clusters.
        rounds: the most, at least 1; it ends earlier where no row changes its cluster.
        generator: decides which rows it begins at.

    Source:
        Dhillon & Modha 2001 (spherical k-means), Machine Learning 42. Differs: rounds are bounded.
    """
    centres = rows[torch.randperm(len(rows), generator=generator)[:n].to(rows.device)].clone()
    nearest = torch.full((len(rows),), -1, dtype=torch.int64, device=rows.device)
    for done in range(1, rounds + 1):
        before, nearest = nearest, _nearest(rows, centres)
        if torch.equal(before, nearest):
            return Clusters(centres, nearest, done)
        sums = torch.zeros_like(centres).index_add_(0, nearest, rows)
        centres = torch.where(sums.norm(dim=-1, keepdim=True) > 0, normalize(sums, dim=-1), centres)
    return Clusters(centres, nearest, rounds)


def _nearest(rows: Float[Tensor, "m width"], centres: Float[Tensor, "n width"]) -> Int[Tensor, "m"]:
    return torch.cat([(part @ centres.t()).argmax(-1) for part in rows.split(CHUNK)])
