"""k-means: directions that clusters of activations share."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch.nn.functional import normalize
from typing_extensions import override

from saekit.core.config import setting
from saekit.core.seeds import generator
from saekit.core.stats.clusters import spherical_k_means
from saekit.saes.base import SAEConfig
from saekit.saes.topk import TopK
from saekit.training.fitted.base import (
    EXPANSION,
    Acts,
    Fitted,
    Method,
    check_enough,
    projecting,
    registry,
    topk,
)

ROWS_PER_LATENT, MOST_ROWS = 64, 2**17


@final
@registry.register
@dataclass(frozen=True, kw_only=True)
class KMeans(Method):
    """Spherical k-means: each latent is the mean direction of a cluster, and one is on per token.

    A token is coded as its projection on the nearest direction, from the mean of activations.
    With a larger k the k nearest directions are on.

    Args:
        rows: activations that clusters are looked for in, drawn from all tokens; null: 64 a
            latent, at most 131,072.
        rounds: most rounds; it ends earlier if no activation changes its cluster.

    Source:
        Dhillon & Modha 2001 (spherical k-means), Machine Learning 42.
        Differs: fitted to a sample; the code is the projection, not 1.
    """

    name: ClassVar[str] = "kmeans"
    rows: int | None = setting(None, least=2)
    rounds: int = setting(30, least=1)

    @classmethod
    @override
    def example(cls) -> "KMeans":
        return cls(rows=1000, rounds=5)

    @override
    def sae(self, width: int, d_sae: int | None, k: int | None) -> TopK:
        return topk(width, d_sae or EXPANSION * width, k or 1)

    @override
    def fit(self, cfg: SAEConfig, acts: Acts, seed: int) -> Fitted:
        wanted = self.rows or max(min(ROWS_PER_LATENT * cfg.d_sae, MOST_ROWS), cfg.d_sae)
        sample = acts.sample(wanted, seed)
        check_enough(self.name, len(sample), cfg.d_sae)
        chance = generator(seed, self.name)
        found = spherical_k_means(normalize(sample, dim=-1), cfg.d_sae, self.rounds, chance)
        empty = cfg.d_sae - len(torch.unique(found.nearest))
        told = {"rows": len(sample), "rounds": found.rounds, "empty_clusters": empty}
        return Fitted(projecting(cfg, found.centres), told)
