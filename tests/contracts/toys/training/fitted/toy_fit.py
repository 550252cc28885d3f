"""Toy: the first axes, in an order that the seed decides."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from typing_extensions import override

from saekit.core.config import setting
from saekit.core.seeds import generator
from saekit.saes.base import SAEConfig
from saekit.saes.topk import TopK
from saekit.training.fitted import base
from saekit.training.fitted.base import Acts, Fitted, Method


@final
@base.registry.register
@dataclass(frozen=True, kw_only=True)
class ToyFit(Method):
    """Axes by chance.

    Args:
        times: latents an axis.

    Source:
        None: a toy.
    """

    name: ClassVar[str] = "toy_fit"
    reads: ClassVar[bool] = False
    times: int = setting(1, least=1)

    @classmethod
    @override
    def example(cls) -> "ToyFit":
        return cls()

    @override
    def sae(self, width: int, d_sae: int | None, k: int | None) -> TopK:
        return base.topk(width, d_sae or width * self.times, k or 1)

    @override
    def fit(self, cfg: SAEConfig, acts: Acts, seed: int) -> Fitted:
        order = torch.randint(cfg.d_in, (cfg.d_sae,), generator=generator(seed, "toy"))
        return Fitted(base.projecting(cfg, torch.eye(cfg.d_in)[order]), {"first": int(order[0])})
