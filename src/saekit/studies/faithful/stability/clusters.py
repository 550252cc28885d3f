"""Clusters: latents of several seeds that are one, by matches that lead from one to another."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from saekit.studies.faithful.stability.dictionaries import Dictionary
from saekit.studies.faithful.stability.pairs import PairMatch


class Clusters(NamedTuple):
    """Consensus over seeds: which latents hang together by mutual matches."""

    of: list[Int[Tensor, "n"]]  # number of the cluster of each latent, by SAE; -1 of dead ones
    sizes: Int[Tensor, "clusters"]
    complete: Int[Tensor, "clusters"]  # 1 where it has exactly one latent of every SAE

    def histogram(self) -> dict[int, int]:
        """Return how many clusters there are of each size."""
        sizes, counts = self.sizes.unique(return_counts=True)
        return dict(zip(sizes.tolist(), counts.tolist(), strict=True))

    def core_share(self, living: int) -> float | None:
        """Return the share of living latents that stand in a cluster with one latent of each SAE.

        Args:
            living: latents of all SAEs.
        """
        return float((self.sizes * self.complete).sum()) / living if living else None


def clusters(
    dictionaries: Sequence[Dictionary],
    matches: Mapping[tuple[int, int], PairMatch],
    threshold: float,
) -> Clusters:
    """Return the connected parts of the graph of mutual matches above a threshold.

    An edge joins two latents that are matched one to one, are each the nearest of the other, and
    whose cosine is above the threshold. A latent without any is a cluster of one.

    Source:
        Ours; connected parts by label propagation.
    """
    n = [len(d.alive) for d in dictionaries]
    first = [sum(n[:i]) for i in range(len(n))]
    parts = []
    for (a, b), found in matches.items():
        kept = found.over(threshold) & found.mutual
        parts.append(torch.stack([found.one[kept] + first[a], found.other[kept] + first[b]]))
    edges = torch.cat(parts, 1) if parts else torch.zeros(2, 0, dtype=torch.int64)
    label = torch.arange(sum(n))
    while True:
        least = torch.minimum(label[edges[0]], label[edges[1]])
        after = label.clone()
        for side in edges:
            after.scatter_reduce_(0, side, least, "amin")
        if torch.equal(after, label):
            break
        label = after
    alive = torch.cat([d.alive for d in dictionaries])
    number = torch.full_like(label, -1)
    number[alive] = label[alive].unique(return_inverse=True)[1]
    count = int(number.max()) + 1 if len(number) else 0
    each = torch.zeros(count, len(n), dtype=torch.int64)
    for i, d in enumerate(dictionaries):
        mine = number[first[i] : first[i] + n[i]][d.alive]
        each[:, i].index_add_(0, mine, torch.ones_like(mine))
    of = [number[f : f + k] for f, k in zip(first, n, strict=True)]
    return Clusters(of, each.sum(1), (each == 1).all(1).long())
