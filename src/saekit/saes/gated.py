"""Gated: one linear map decides which latents are on, a rescaled copy of it how strongly."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from saekit.core.codes import Codes
from saekit.core.config import setting
from saekit.kernels import choose, sparse
from saekit.saes import _parts
from saekit.saes._affine import LOW_BIAS, RATES, AffineConfig, AffineSAE
from saekit.saes.base import Loss, Scaling, Step, registry


@final
@registry.register
@dataclass(frozen=True, kw_only=True)
class Gated(AffineConfig):
    """One linear map decides which latents are on, and a rescaled copy of it how strongly.

    lin = x @ W_enc;  gate = lin + b_enc;  acts = 1[gate > 0] * relu(lin * exp(r_mag) + b_mag)
    y_hat = acts @ W_dec + b_dec
    loss = mean (y_hat - y)^2
           + l1_coefficient / d_out * mean_tokens sum_i relu(gate)_i |W_dec[i]|
           + mean (relu(gate) @ W_dec + b_dec - y)^2, the decoder held fixed in this term

    The penalty acts on the gate only, so activations do not shrink; the last term is what
    makes the gate worth opening.

    Args:
        l1_coefficient: weight of the penalty for inputs of mean square 1 a dimension.
        warm_up: share of training over which the penalty grows to its weight.

    Raises:
        ConfigError: a value is out of range.

    Source:
        Rajamanoharan et al. 2024, arXiv:2404.16014, section 3.
        Differs: errors are means over dimensions and the penalty is divided by d_out; b_dec
        is not subtracted before encoding (the biases take its part).
    """

    name: ClassVar[str] = "gated"
    l1_coefficient: float = setting(4.0, least=0)
    warm_up: float = setting(0.05, least=0, below=1, unit="of training")

    @classmethod
    @override
    def example(cls) -> "Gated":
        return cls(d_in=8, d_out=8, d_sae=16, l1_coefficient=0.1)

    @override
    def build(self, generator: torch.Generator) -> "GatedSAE":
        return GatedSAE(self, generator)


@final
class GatedSAE(AffineSAE):
    """The weights and maps of `Gated`; `b_enc` is the bias of the gate."""

    cfg: Gated
    r_mag: nn.Parameter  # [d_sae], log of how much steeper magnitudes are than gates
    b_mag: nn.Parameter  # [d_sae], act units

    def __init__(self, cfg: Gated, generator: torch.Generator):
        super().__init__(cfg, generator)
        self.b_enc.data.fill_(LOW_BIAS)
        self.r_mag = nn.Parameter(torch.zeros(cfg.d_sae))
        self.b_mag = nn.Parameter(torch.zeros(cfg.d_sae))

    @override
    def rate_scales(self) -> dict[str, float]:
        return RATES | {"b_mag": RATES["b_enc"], "r_mag": RATES["b_enc"]}

    def _open(self, x: Float[Tensor, "n d_in"]) -> tuple[Codes, Codes]:
        """Return the open gates and the activations there."""
        found = choose.above(x, self.W_enc, self.b_enc, torch.zeros_like(self.b_enc))
        bias = self.b_enc[found.latents]
        no_bias = torch.zeros_like(self.b_enc)
        linear = found._replace(values=(found.values - bias).detach())
        lin = sparse.pre_acts(x, self.W_enc, no_bias, linear)
        mag = lin * self.r_mag.exp()[found.latents] + self.b_mag[found.latents]
        return found._replace(values=lin + bias), found._replace(values=mag.relu())

    @override
    def encode(self, x: Float[Tensor, "..."]) -> Codes:
        flat, batch = sparse.flat_rows(x)
        return self._open(flat)[1]._replace(batch=batch)

    @override
    def loss(self, x: Float[Tensor, "n d_in"], y: Float[Tensor, "n d_out"], step: Step) -> Loss:
        gates, acts = self._open(x)
        y_hat = self.decode(acts)
        by_gate = sparse.decode(gates, self.W_dec.detach()) + self.b_dec.detach()
        weight = self.cfg.l1_coefficient * _parts.ramp(step.progress, self.cfg.warm_up)
        penalty = _parts.lp_norm(gates, self.W_dec, 1)
        terms = {
            "mse": _parts.mse(y_hat, y),
            "l1": weight / self.cfg.d_out * penalty,
            "gate": _parts.mse(by_gate, y),
        }
        return Loss(_parts.add(terms), terms, acts.detach().live(), y_hat)

    @override
    @torch.no_grad()
    def rescale(self, x: Scaling, y: Scaling) -> None:
        super().rescale(x, y)  # W_enc is now that of raw activations
        offset = x.mean.to(self.b_mag) @ self.W_enc
        self.b_mag.div_(x.scale).sub_(offset * self.r_mag.exp())
