"""PCA: the directions in which activations vary most."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor
from typing_extensions import override

from saekit.core.errors import DataError
from saekit.saes.base import SAEConfig
from saekit.saes.topk import TopK
from saekit.training.fitted.base import (
    DEFAULT_K,
    Acts,
    Fitted,
    Method,
    both_signs,
    check_pairs,
    projecting,
    registry,
    topk,
)


@final
@registry.register
@dataclass(frozen=True, kw_only=True)
class PCA(Method):
    r"""Principal components, each with both signs, of the covariance over all tokens.

    With d_sae = 2 k the k components of largest variance are on at every token, and FVU on the
    tokens of the fit is the share of the other eigenvalues,

    .. math:: \sum_{i > k} \lambda_i / \sum_i \lambda_i

    the least that k fixed directions can leave. With d_sae above 2 k each token keeps the k
    components that it projects on most, which leaves no more than that.

    Sums are float64 and run along with the text: no activation is kept.

    Source:
        Pearson 1901; Karvonen et al. 2025, arXiv:2503.09532 (PCA as a baseline).
        Differs: two latents a component, so that activations of latents are positive.
    """

    name: ClassVar[str] = "pca"

    @classmethod
    @override
    def example(cls) -> "PCA":
        return cls()

    @override
    def sae(self, width: int, d_sae: int | None, k: int | None) -> TopK:
        d_sae = d_sae or 2 * width
        k = min(DEFAULT_K, max(d_sae // 2, 1)) if k is None else k
        check_pairs(self.name, width, d_sae, k)
        return topk(width, d_sae, k)

    @override
    def fit(self, cfg: SAEConfig, acts: Acts, seed: int) -> Fitted:
        n, total, outer = 0, _zeros(cfg.d_in), _zeros(cfg.d_in, cfg.d_in)
        for batch in acts.batches():
            wide = batch.double()
            n += len(wide)
            total = total.to(wide.device) + wide.sum(0)
            outer = outer.to(wide.device) + wide.t() @ wide
        if n < 2:  # noqa: PLR2004 - one activation does not vary
            raise DataError(f"`pca` needs at least 2 activations; got {n}. Give more text.")
        mean = total / n
        values, vectors = torch.linalg.eigh(outer / n - torch.outer(mean, mean))
        values, vectors = values.clamp_min(0).flip(0), vectors.flip(1)
        c = cfg.d_sae // 2
        share = values.cumsum(0) / values.sum()
        found = {"components": c, "share_of_variance": min(float(share[c - 1]), 1.0)}
        return Fitted(projecting(cfg, both_signs(vectors[:, :c].t()), mean.float()), found)


def _zeros(*shape: int) -> Tensor:
    return torch.zeros(*shape, dtype=torch.float64)
