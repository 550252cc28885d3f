"""Frozen: an architecture of which one half keeps its random weights, as a floor for scores."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from saekit.core.codes import Codes
from saekit.core.errors import ConfigError
from saekit.saes._wrapped import WrappedConfig, WrappedSAE
from saekit.saes.base import Loss, Scaling, Step, registry
from saekit.saes.topk import TopK

HALVES = {"decoder": ("W_dec",), "encoder": ("W_enc", "b_enc")}


@final
@registry.register
@dataclass(frozen=True, kw_only=True)
class Frozen(WrappedConfig):
    """Another architecture whose encoder or decoder stays as it was initialised.

    A floor: scores of a trained SAE mean something where they are above those of the same
    architecture with random directions ("decoder"), or with a random choice of latents
    ("encoder"). Everything else is trained as usual.

    Args:
        half: what is frozen: the decoder's weights, or the encoder's weights and biases.

    Raises:
        ConfigError: the inner architecture has other sizes, codes several sites jointly, or has no
            such weights of its own.

    Source:
        arXiv:2602.14111 (frozen decoder and frozen encoder as baselines).
        Differs: nothing known.
    """

    name: ClassVar[str] = "frozen"

    half: Literal["decoder", "encoder"] = "decoder"

    @property
    @override
    def n_weights(self) -> int:  # of which training holds gradients and moments
        frozen = self.d_out if self.half == "decoder" else self.d_in
        return self.inner.n_weights - frozen * self.d_sae

    @classmethod
    @override
    def example(cls) -> "Frozen":
        return cls(d_in=8, d_out=8, d_sae=16, inner=TopK.example())

    @override
    def build(self, generator: torch.Generator) -> "FrozenSAE":
        return FrozenSAE(self, generator)


@final
class FrozenSAE(WrappedSAE):
    """The SAE it wraps, whose frozen weights are buffers: no optimiser sees them."""

    cfg: Frozen

    def __init__(self, cfg: Frozen, generator: torch.Generator):
        inner = cfg.inner
        if any(f.name == "decoder" for f in dataclasses.fields(inner)):
            # Random rows have length 1; keeping a constraint on them would only add rounding.
            free = {"decoder": "free"} if cfg.half == "decoder" else {}
            inner = dataclasses.replace(inner, **free)
        super().__init__(dataclasses.replace(cfg, inner=inner), generator)
        self.cfg = cfg
        for name in HALVES[cfg.half]:
            if name not in self.inner._parameters:
                raise ConfigError(
                    f"`frozen` needs an architecture with {', '.join(HALVES[cfg.half])} of its "
                    f"own; `{cfg.inner.name}` has no {name}. Put `frozen` inside a wrapper."
                )
            weight = self.inner._parameters.pop(name)
            assert weight is not None
            self.inner.register_buffer(name, weight.detach())

    @override
    def encode(self, x: Float[Tensor, "..."]) -> Codes:
        return self.inner.encode(x)

    @override
    def loss(self, x: Float[Tensor, "n d_in"], y: Float[Tensor, "n d_out"], step: Step) -> Loss:
        return self.inner.loss(x, y, step)

    @override
    def rescale(self, x: Scaling, y: Scaling) -> None:
        self.inner.rescale(x, y)
