"""AbsTopK: keep the k pre-activations of each token that are largest in size, with their sign."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from saekit.core.codes import Codes
from saekit.core.config import setting
from saekit.kernels import choose, sparse
from saekit.saes import _parts
from saekit.saes._affine import SHORT_COLUMNS, AffineSAE, AuxKConfig
from saekit.saes.base import Loss, Step, registry


@final
@registry.register
@dataclass(frozen=True, kw_only=True)
class AbsTopK(AuxKConfig):
    """Keep the k pre-activations of each token that are largest in size, with their sign.

    acts = keep_k_by_size(x @ W_enc + b_enc);  y_hat = acts @ W_dec + b_dec

    A latent is on where it is not 0, and one latent can stand for a direction and its
    opposite.

    Args:
        k: latents kept per token, 1..d_sae.

    Raises:
        ConfigError: a value is out of range.

    Source:
        Zhu et al. 2025, arXiv:2510.00404 (AbsTopK).
        Differs: b_dec is not subtracted before encoding (b_enc takes its part).
    """

    name: ClassVar[str] = "abs_topk"
    k: int = setting(32, least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        _parts.check_k("k", self.k, self.d_sae)

    @classmethod
    @override
    def example(cls) -> "AbsTopK":
        return cls(d_in=8, d_out=8, d_sae=16, k=3)

    @override
    def build(self, generator: torch.Generator) -> "AbsTopKSAE":
        return AbsTopKSAE(self, generator)


@final
class AbsTopKSAE(AffineSAE):
    """The weights and maps of `AbsTopK`."""

    cfg: AbsTopK
    encoder_length = SHORT_COLUMNS

    @override
    def encode(self, x: Float[Tensor, "..."]) -> Codes:
        flat, batch = sparse.flat_rows(x)
        chosen = choose.top_latents(flat, self.W_enc, self.b_enc, self.cfg.k, by_size=True)
        pre = sparse.pre_acts(flat, self.W_enc, self.b_enc, chosen)
        return chosen._replace(values=pre, batch=batch)

    @override
    def loss(self, x: Float[Tensor, "n d_in"], y: Float[Tensor, "n d_out"], step: Step) -> Loss:
        acts = self.encode(x)
        y_hat = self.decode(acts)
        terms = {"mse": _parts.mse(y_hat, y)}
        terms = self.with_aux(terms, x, y, y_hat, step.dead, signed=True)
        return Loss(_parts.add(terms), terms, acts.detach(), y_hat)
