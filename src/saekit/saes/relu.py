"""ReLU: the sparse autoencoder with an L1 penalty."""

from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from jaxtyping import Float, Int
from torch import Tensor
from typing_extensions import override

from saekit.core.codes import Codes
from saekit.core.config import setting
from saekit.saes import _parts
from saekit.saes._affine import LOW_BIAS, AffineConfig, AffineSAE
from saekit.saes.base import Loss, Step, registry


@final
@registry.register
@dataclass(frozen=True, kw_only=True)
class ReLU(AffineConfig):
    """Positive pre-activations, kept few by an L1 penalty weighted with decoder norms.

    acts = relu(x @ W_enc + b_enc);  y_hat = acts @ W_dec + b_dec
    loss = mean (y_hat - y)^2
           + l1_coefficient / d_out * mean_tokens (sum_i (acts_i |W_dec[i]|)^p)^(1/p)

    Both terms are the paper's divided by `d_out`. Decoder norms are free: the penalty does
    not change when a latent's scale moves between encoder and decoder.

    Args:
        l1_coefficient: weight of the penalty for inputs of mean square 1 a dimension.
        p: power of the penalty's norm; below 1 it spares large activations.
        warm_up: share of training over which the penalty grows to its weight.

    Raises:
        ConfigError: a value is out of range.

    Source:
        Conerly et al. 2024, "Circuits Updates - April 2024", Transformer Circuits Thread.
        Differs: all decoder rows start at one norm, 0.1, and encoder columns at 1.
    """

    name: ClassVar[str] = "relu"
    decoder: Literal["unit", "free"] = "free"
    l1_coefficient: float = setting(2.0, least=0)
    p: float = setting(1.0, above=0)
    warm_up: float = setting(0.05, least=0, below=1, unit="of training")

    @classmethod
    @override
    def example(cls) -> "ReLU":
        return cls(d_in=8, d_out=8, d_sae=16, l1_coefficient=0.1)

    @override
    def build(self, generator: torch.Generator) -> "ReLUSAE":
        return ReLUSAE(self, generator)


@final
class ReLUSAE(AffineSAE):
    """The weights and maps of `ReLU`."""

    cfg: ReLU

    def __init__(self, cfg: ReLU, generator: torch.Generator):
        super().__init__(cfg, generator)
        self.b_enc.data.fill_(LOW_BIAS)
        if cfg.decoder == "free":
            self.W_dec.data.mul_(_parts.SHORT_ROWS)

    @override
    def encode(self, x: Float[Tensor, "..."]) -> Codes:
        return _parts.encode_above(self, x, torch.zeros_like(self.b_enc))

    @override
    def encode_only(
        self, x: Float[Tensor, "..."], latents: Int[Tensor, "m"]
    ) -> Float[Tensor, "*batch m"]:
        return _parts.only_above(self, x, torch.zeros_like(self.b_enc), latents)

    @override
    def loss(self, x: Float[Tensor, "n d_in"], y: Float[Tensor, "n d_out"], step: Step) -> Loss:
        acts = self.encode(x)
        y_hat = self.decode(acts)
        weight = self.cfg.l1_coefficient * _parts.ramp(step.progress, self.cfg.warm_up)
        penalty = _parts.lp_norm(acts, self.W_dec, self.cfg.p)
        terms = {"mse": _parts.mse(y_hat, y), "l1": weight / self.cfg.d_out * penalty}
        return Loss(_parts.add(terms), terms, acts.detach(), y_hat)
