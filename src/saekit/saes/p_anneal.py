"""P-anneal: a ReLU autoencoder whose penalty goes from L1 towards L0 in training."""

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
class PAnneal(AffineConfig):
    """A ReLU autoencoder whose penalty goes from L1 towards L0 in training.

    acts = relu(x @ W_enc + b_enc);  y_hat = acts @ W_dec + b_dec
    loss = mean (y_hat - y)^2  +  l1_coefficient / d_out * c * mean_tokens sum_i size_i^p

    with size_i = acts_i |W_dec[i]|. p falls linearly from 1 to `end_p`. The factor c, held
    fixed in each step, makes the penalty as large as that of L1 on the same batch, so that
    annealing changes which activations are pressed and not how much they are in all.

    Args:
        l1_coefficient: weight of the penalty for inputs of mean square 1 a dimension.
        end_p: power at the end of training.
        anneal_from: share of training after which p begins to fall.
        smoothing: sizes below about this count less, and the slope at 0 is finite; act units.
        warm_up: share of training over which the penalty grows to its weight.

    Raises:
        ConfigError: a value is out of range.

    Source:
        Karvonen et al. 2024, arXiv:2408.00113, section 4.
        Differs: c is computed in each batch, not carried from step to step; smoothing;
        decoder norms are free and weigh the penalty.
    """

    name: ClassVar[str] = "p_anneal"
    decoder: Literal["unit", "free"] = "free"
    l1_coefficient: float = setting(1.2, least=0)
    end_p: float = setting(0.2, above=0, most=1)
    anneal_from: float = setting(0.2, least=0, below=1, unit="of training")
    smoothing: float = setting(1e-2, above=0)
    warm_up: float = setting(0.05, least=0, below=1, unit="of training")

    @classmethod
    @override
    def example(cls) -> "PAnneal":
        return cls(d_in=8, d_out=8, d_sae=16, l1_coefficient=0.1)

    @override
    def build(self, generator: torch.Generator) -> "PAnnealSAE":
        return PAnnealSAE(self, generator)

    def p_at(self, progress: float) -> float:
        """Return the power when so much of training is done."""
        falling = max(progress - self.anneal_from, 0) / (1 - self.anneal_from)
        return 1 + (self.end_p - 1) * min(falling, 1)


@final
class PAnnealSAE(AffineSAE):
    """The weights and maps of `PAnneal`."""

    cfg: PAnneal

    def __init__(self, cfg: PAnneal, generator: torch.Generator):
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
        cfg = self.cfg
        acts = self.encode(x)
        y_hat = self.decode(acts)
        weight = cfg.l1_coefficient * _parts.ramp(step.progress, cfg.warm_up)
        sizes = acts.values * self.W_dec.norm(dim=-1)[acts.latents]
        p = cfg.p_at(step.progress)
        powers = (sizes + cfg.smoothing).pow(p) - cfg.smoothing**p
        like_l1 = (sizes.sum() / powers.sum().clamp_min(1e-30)).detach()
        penalty = like_l1 * powers.sum() / max(len(x), 1)
        terms = {"mse": _parts.mse(y_hat, y), "lp": weight / cfg.d_out * penalty}
        return Loss(_parts.add(terms), terms, acts.detach(), y_hat)
