"""ReLU: the sparse autoencoder with an L1 penalty."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from saekit.core.codes import Codes
from saekit.saes import _parts
from saekit.saes.base import SAE, Loss, SAEConfig, Scaling, Step, registry

START_NORM = 0.1


@final
@registry.register
@dataclass(frozen=True, kw_only=True)
class ReLU(SAEConfig):
    """Positive pre-activations, kept few by an L1 penalty weighted with decoder norms.

    acts = relu(x @ W_enc + b_enc);  y_hat = acts @ W_dec + b_dec
    loss = mean (y_hat - y)^2  +  l1_coefficient / d_out * mean_tokens sum_i acts_i |W_dec[i]|

    Both terms are the paper's divided by `d_out`. Decoder norms are free: the penalty does
    not change when a latent's scale moves between encoder and decoder.

    Args:
        l1_coefficient: weight of the penalty for inputs of mean square 1 a dimension.
        warm_up: share of training over which the penalty grows to its weight, 0 <= share < 1.

    Raises:
        ConfigError: a value is out of range.

    Source:
        Conerly et al. 2024, "Circuits Updates - April 2024", Transformer Circuits Thread.
        Differs: all decoder rows start at one norm, 0.1, and encoder columns at 1.
    """

    name: ClassVar[str] = "relu"
    l1_coefficient: float = 5.0
    warm_up: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        _parts.check_coefficient("l1_coefficient", self.l1_coefficient)
        _parts.check_share("warm_up", self.warm_up)

    @classmethod
    @override
    def example(cls) -> "ReLU":
        return cls(d_in=8, d_out=8, d_sae=16, l1_coefficient=0.1)

    @override
    def build(self, generator: torch.Generator) -> "ReLUSAE":
        return ReLUSAE(self, generator)


@final
class ReLUSAE(SAE):
    """The weights and maps of `ReLU`."""

    W_enc: nn.Parameter  # [d_in, d_sae]
    W_dec: nn.Parameter  # [d_sae, d_out]
    b_enc: nn.Parameter  # [d_sae]
    b_dec: nn.Parameter  # [d_out]

    def __init__(self, cfg: ReLU, generator: torch.Generator):
        super().__init__()
        self.cfg: ReLU = cfg
        _parts.tied_init(self, cfg.d_in, cfg.d_out, cfg.d_sae, generator)
        # Half the latents are on at the start: short decoder rows keep their sum in range.
        self.W_dec.data.mul_(START_NORM)

    @override
    def encode(self, x: Float[Tensor, "..."]) -> Codes:
        return _parts.encode_above(self, x, torch.zeros_like(self.b_enc))

    @override
    def decode(self, acts: Codes) -> Float[Tensor, "..."]:
        return _parts.decode(self, acts)

    @override
    def directions(self) -> Float[Tensor, "d_sae d_out"]:
        return self.W_dec

    @override
    def loss(self, x: Float[Tensor, "n d_in"], y: Float[Tensor, "n d_out"], step: Step) -> Loss:
        acts = self.encode(x)
        y_hat = self.decode(acts)
        weight = self.cfg.l1_coefficient * _parts.ramp(step.progress, self.cfg.warm_up)
        l1 = (acts.values * self.W_dec.norm(dim=-1)[acts.latents]).sum() / len(x)
        terms = {"mse": _parts.mse(y_hat, y), "l1": weight / self.cfg.d_out * l1}
        return Loss(_parts.add(terms), terms, acts.detach(), y_hat)

    @override
    def rescale(self, x: Scaling, y: Scaling) -> None:
        _parts.to_raw_units(self, x, y)
