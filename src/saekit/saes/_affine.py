"""The frame of most architectures: an affine encoder, a choice of latents, an affine decoder."""

import abc
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from saekit.core.codes import Codes
from saekit.core.config import setting
from saekit.core.processes import ALONE, Mesh
from saekit.saes import _parts, _start
from saekit.saes.base import SAE, Loss, SAEConfig, Scaling, Start

# Adam moves every number by about the learning rate. Biases are of the size of pre-activations,
# many times that of an entry of a unit column, and decoder rows gain from faster steps than
# encoder columns: measured, docs/measurements/training.md.
RATES = {"W_dec": 3.0, "b_enc": 5.0}
# Where latents are chosen by rank, short columns keep the first predictions from overshooting.
SHORT_COLUMNS = 0.3
# Where a latent is on above 0, this bias has a fifteenth of them on for inputs of mean square 1 a
# dimension; from half of them, training ends at more latents and a larger error.
LOW_BIAS = -1.5


@dataclass(frozen=True, kw_only=True)
class AffineConfig(SAEConfig):
    """Sizes, and what keeps the decoder's scale.

    Args:
        decoder: "unit": rows of length 1, kept so by removing the part of the gradient along
            them and dividing by their length after each step; "free": no constraint.
    """

    decoder: Literal["unit", "free"] = "unit"


@dataclass(frozen=True, kw_only=True)
class AuxKConfig(AffineConfig):
    """An architecture whose dead latents learn from what the living ones missed.

    Args:
        aux_coefficient: weight of that loss; 0 turns it off.
        aux_k: dead latents used by it per token; null: half of d_in.
    """

    aux_coefficient: float = setting(1 / 32, least=0)
    aux_k: int | None = setting(None, least=1)


class AffineSAE(SAE, abc.ABC):
    """The weights most architectures have, and what follows from them alone."""

    cfg: AffineConfig
    W_enc: nn.Parameter  # [d_in, d_sae], latent-major: see _sparse
    W_dec: nn.Parameter  # [d_sae, d_out]
    b_enc: nn.Parameter  # [d_sae]
    b_dec: nn.Parameter  # [d_out]

    encoder_length: ClassVar[float] = 1.0  # of encoder columns at the start

    def __init__(self, cfg: AffineConfig, generator: torch.Generator, mesh: Mesh = ALONE):
        super().__init__()
        self.cfg, self.mesh = cfg, mesh
        _parts.tied_init(self, cfg.d_in, cfg.d_out, cfg.d_sae, generator, mesh)
        self.W_enc.data.mul_(self.encoder_length)

    @override
    def start(
        self,
        way: Start,
        x: Float[Tensor, "n d_in"],
        y: Float[Tensor, "n d_out"],
        generator: torch.Generator,
    ) -> None:
        _start.begin(self, way, x, y, generator)

    @override
    def start_rows(self, way: Start) -> int:
        return _start.rows_wanted(way, self.cfg.d_in, self.cfg.d_sae)

    @override
    def rate_scales(self) -> dict[str, float]:
        return RATES

    @override
    def decode(self, acts: Codes) -> Float[Tensor, "..."]:
        return _parts.decode(self, acts, self.mesh)

    @override
    def directions(self) -> Float[Tensor, "d_sae d_out"]:
        return self.W_dec

    @override
    def before_step(self) -> None:
        if self.cfg.decoder == "unit":
            _parts.project_out(self.W_dec)

    @override
    def after_step(self, out: Loss) -> None:
        if self.cfg.decoder == "unit":
            _parts.unit_rows(self.W_dec)

    @override
    def rescale(self, x: Scaling, y: Scaling) -> None:
        _parts.to_raw_units(self, x, y)

    def with_aux(
        self,
        terms: dict[str, Tensor],
        x: Float[Tensor, "n d_in"],
        y: Float[Tensor, "n d_out"],
        y_hat: Float[Tensor, "n d_out"],
        dead: Tensor,
        *,
        signed: bool = False,
    ) -> dict[str, Tensor]:
        """Return loss terms with that of the dead latents, where it is on."""
        assert isinstance(self.cfg, AuxKConfig)
        weight = self.cfg.aux_coefficient
        if not weight:
            return terms
        if self.mesh.latent.size == 1 and not dead.any():
            return terms | {"aux": weight * x.new_zeros(())}
        aux = _parts.aux_k(self, x, y_hat - y, dead, self.cfg.aux_k, signed=signed, mesh=self.mesh)
        return terms | {"aux": weight * aux}
