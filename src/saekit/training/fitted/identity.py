"""Identity: the raw activation as a dictionary, the ceiling of what reconstruction can keep."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from typing_extensions import override

from saekit.saes.base import SAEConfig
from saekit.saes.topk import TopK
from saekit.training.fitted.base import (
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
class Identity(Method):
    """The axes of the activation, each with both signs; nothing is fitted and nothing is scaled.

    With k = width every activation comes back as it was. With fewer the k entries of largest size
    are kept.

    Source:
        Karvonen et al. 2025, arXiv:2503.09532 (identity as a baseline).
        Differs: two latents an axis, so that activations of latents are positive.
    """

    name: ClassVar[str] = "identity"
    reads: ClassVar[bool] = False
    scaled: ClassVar[bool] = False

    @classmethod
    @override
    def example(cls) -> "Identity":
        return cls()

    @override
    def sae(self, width: int, d_sae: int | None, k: int | None) -> TopK:
        d_sae, k = d_sae or 2 * width, k or width
        check_pairs(self.name, width, d_sae, k)
        return topk(width, d_sae, k)

    @override
    def fit(self, cfg: SAEConfig, acts: Acts, seed: int) -> Fitted:
        axes = torch.eye(cfg.d_in)[: cfg.d_sae // 2]
        return Fitted(projecting(cfg, both_signs(axes)), {})
