"""An architecture around another: the same latents, read or predicted in another frame."""

import abc
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from saekit.core.codes import Codes
from saekit.core.errors import ConfigError
from saekit.saes.base import SAE, Loss, SAEConfig


@dataclass(frozen=True, kw_only=True)
class WrappedConfig(SAEConfig):
    """An architecture around another.

    Args:
        inner: the other, of the same sizes.
    """

    inner: SAEConfig

    def __post_init__(self) -> None:
        super().__post_init__()
        sizes = ("d_in", "d_out", "d_sae")
        ours, theirs = ([getattr(c, s) for s in sizes] for c in (self, self.inner))
        if ours != theirs:
            raise ConfigError(
                f"`{self.name}` and the architecture in it must have the same d_in, d_out and "
                f"d_sae; got {ours} and {theirs}."
            )
        if self.inner.event:
            raise ConfigError(
                f"`{self.name}` wraps architectures of single activations; `{self.inner.name}` "
                f"codes {' and '.join(self.inner.event)} jointly."
            )

    @property
    @override
    def latents_per_token(self) -> float | None:
        return self.inner.latents_per_token

    @property
    @override
    def n_weights(self) -> int:
        return self.inner.n_weights


class WrappedSAE(SAE, abc.ABC):
    """Passes on what the frame does not change; predictions differ by the codes' `shift`."""

    cfg: WrappedConfig
    inner: SAE

    def __init__(self, cfg: WrappedConfig, generator: torch.Generator):
        super().__init__()
        self.cfg = cfg
        self.inner = cfg.inner.build(generator)

    @override
    def decode(self, acts: Codes) -> Float[Tensor, "..."]:
        y_hat = self.inner.decode(acts._replace(shift=None))
        return y_hat if acts.shift is None else y_hat + acts.shift.view_as(y_hat)

    @override
    def directions(self) -> Float[Tensor, "d_sae d_out"]:
        return self.inner.directions()

    @override
    def before_step(self) -> None:
        self.inner.before_step()

    @override
    def after_step(self, out: Loss) -> None:
        self.inner.after_step(out)

    @property
    @override
    def settles(self) -> bool:
        return self.inner.settles

    @override
    def settle(self, x: Float[Tensor, "..."]) -> None:
        self.inner.settle(x)

    @override
    def rate_scales(self) -> dict[str, float]:
        return {f"inner.{name}": scale for name, scale in self.inner.rate_scales().items()}
