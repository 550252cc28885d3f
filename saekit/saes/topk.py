"""TopK: keep the k largest pre-activations of each token."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from saekit.core.codes import Codes
from saekit.saes import _parts, _sparse
from saekit.saes.base import SAE, Loss, SAEConfig, Scaling, Step, registry


@final
@registry.register
@dataclass(frozen=True, kw_only=True)
class TopK(SAEConfig):
    """Keep the k largest pre-activations of each token.

    acts = relu(keep_k(x @ W_enc + b_enc));  y_hat = acts @ W_dec + b_dec

    Decoder rows have length 1. Dead latents are revived by an auxiliary loss.

    Args:
        k: latents kept per token, 1..d_sae.
        aux_coefficient: weight of the auxiliary loss; 0 turns it off.
        aux_k: dead latents used by it per token; null: half of d_in.

    Raises:
        ConfigError: `k` or a coefficient is out of range.

    Source:
        Gao et al. 2024, arXiv:2406.04093, sections 2.3 and A.2.
        Differs: b_dec is not subtracted before encoding (b_enc takes its part).
    """

    name: ClassVar[str] = "topk"
    k: int = 32
    aux_coefficient: float = 1 / 32
    aux_k: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _parts.check_k(self.k, self.d_sae)
        _parts.check_coefficient("aux_coefficient", self.aux_coefficient)

    @classmethod
    @override
    def example(cls) -> "TopK":
        return cls(d_in=8, d_out=8, d_sae=16, k=3)

    @override
    def build(self, generator: torch.Generator) -> "TopKSAE":
        return TopKSAE(self, generator)


@final
class TopKSAE(SAE):
    """The weights and maps of `TopK`."""

    W_enc: nn.Parameter  # [d_in, d_sae]
    W_dec: nn.Parameter  # [d_sae, d_out], unit rows
    b_enc: nn.Parameter  # [d_sae]
    b_dec: nn.Parameter  # [d_out]

    def __init__(self, cfg: TopK, generator: torch.Generator):
        super().__init__()
        self.cfg: TopK = cfg
        _parts.tied_init(self, cfg.d_in, cfg.d_out, cfg.d_sae, generator)

    def _encode(self, x: Float[Tensor, "n d_in"]) -> Codes:
        chosen = _parts.top_latents(x, self.W_enc, self.b_enc, self.cfg.k)
        pre = _sparse.pre_acts(x, self.W_enc, self.b_enc, chosen)
        return chosen._replace(values=pre.relu())

    @override
    def encode(self, x: Float[Tensor, "..."]) -> Codes:
        flat, batch = _sparse.flat_rows(x)
        return self._encode(flat)._replace(batch=batch)

    @override
    def decode(self, acts: Codes) -> Float[Tensor, "..."]:
        return _parts.decode(self, acts)

    @override
    def directions(self) -> Float[Tensor, "d_sae d_out"]:
        return self.W_dec

    @override
    def loss(self, x: Float[Tensor, "n d_in"], y: Float[Tensor, "n d_out"], step: Step) -> Loss:
        acts = self._encode(x)
        y_hat = self.decode(acts)
        terms = {"mse": _parts.mse(y_hat, y)}
        if self.cfg.aux_coefficient:
            aux = _parts.aux_k(self, x, y_hat - y, step.dead, self.cfg.aux_k)
            terms["aux"] = self.cfg.aux_coefficient * aux
        return Loss(_parts.add(terms), terms, acts.detach(), y_hat)

    @override
    def before_step(self) -> None:
        _parts.project_out(self.W_dec)

    @override
    def after_step(self, out: Loss) -> None:
        _parts.unit_rows(self.W_dec)

    @override
    def rescale(self, x: Scaling, y: Scaling) -> None:
        _parts.to_raw_units(self, x, y)
