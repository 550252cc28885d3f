"""Skip: an architecture whose prediction also has a linear map of what is read."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from saekit.core.codes import Codes
from saekit.kernels import sparse
from saekit.saes._wrapped import WrappedConfig, WrappedSAE
from saekit.saes.base import Loss, Scaling, Start, Step, registry
from saekit.saes.topk import TopK


@final
@registry.register
@dataclass(frozen=True, kw_only=True)
class Skip(WrappedConfig):
    """Another architecture with a linear map of what is read added to its prediction.

    y_hat = inner(x) + x @ W_skip

    Meant for transcoders: the map takes what is linear, latents what is not. The map starts
    at 0. Codes carry its part of the prediction, so that `decode` has it.

    Raises:
        ConfigError: the inner architecture has other sizes, or codes several sites jointly.

    Source:
        Paulo et al. 2025, arXiv:2501.18823, section 3 (skip transcoders).
        Differs: nothing known.
    """

    name: ClassVar[str] = "skip"

    @property
    @override
    def n_weights(self) -> int:
        return self.inner.n_weights + self.d_in * self.d_out

    @classmethod
    @override
    def example(cls) -> "Skip":
        return cls(d_in=8, d_out=8, d_sae=16, inner=TopK.example())

    @override
    def build(self, generator: torch.Generator) -> "SkipSAE":
        return SkipSAE(self, generator)


@final
class SkipSAE(WrappedSAE):
    """The map of `Skip`, and the SAE it wraps."""

    cfg: Skip
    W_skip: nn.Parameter  # [d_in, d_out]
    centre: Tensor  # [d_in], act units: what the map takes as 0

    def __init__(self, cfg: Skip, generator: torch.Generator):
        super().__init__(cfg, generator)
        self.W_skip = nn.Parameter(torch.zeros(cfg.d_in, cfg.d_out))
        self.register_buffer("centre", torch.zeros(cfg.d_in))

    @override
    def start(
        self,
        way: Start,
        x: Float[Tensor, "n d_in"],
        y: Float[Tensor, "n d_out"],
        generator: torch.Generator,
    ) -> None:
        self.inner.start(way, x, y, generator)  # the map is 0 yet

    @override
    def start_rows(self, way: Start) -> int:
        return self.inner.start_rows(way)

    @override
    def encode(self, x: Float[Tensor, "..."]) -> Codes:
        acts = self.inner.encode(x)
        straight = (sparse.flat_rows(x)[0] - self.centre) @ self.W_skip
        return acts._replace(shift=straight if acts.shift is None else acts.shift + straight)

    @override
    def loss(self, x: Float[Tensor, "n d_in"], y: Float[Tensor, "n d_out"], step: Step) -> Loss:
        straight = (x - self.centre) @ self.W_skip
        out = self.inner.loss(x, y - straight, step)
        return out._replace(y_hat=out.y_hat + straight)

    @override
    @torch.no_grad()
    def rescale(self, x: Scaling, y: Scaling) -> None:
        self.inner.rescale(x, y)
        self.centre.div_(x.scale)
        if x.matrix is not None:
            self.centre.copy_(self.centre @ torch.linalg.inv(x.matrix.double()).to(self.centre))
            self.W_skip.copy_(x.matrix.to(self.W_skip) @ self.W_skip)
        self.centre.add_(x.mean.to(self.centre))
        self.W_skip.mul_(x.scale / y.scale)
        if y.matrix is not None:
            inverse = torch.linalg.inv(y.matrix.double()).to(self.W_skip)
            self.W_skip.copy_(self.W_skip @ inverse)
