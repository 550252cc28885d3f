"""TopK: keep the k largest pre-activations of each token."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from saekit.core.codes import Codes
from saekit.core.config import setting
from saekit.core.processes import Mesh
from saekit.kernels import shared, sparse
from saekit.saes import _parts
from saekit.saes._affine import SHORT_COLUMNS, AffineSAE, AuxKConfig
from saekit.saes.base import Loss, Step, registry


@final
@registry.register
@dataclass(frozen=True, kw_only=True)
class TopK(AuxKConfig):
    """Keep the k largest pre-activations of each token.

    acts = relu(keep_k(x @ W_enc + b_enc));  y_hat = acts @ W_dec + b_dec

    Dead latents are revived by an auxiliary loss.

    Args:
        k: latents kept per token, 1..d_sae.
        start_k: latents kept at the start of training; null: `k`.
        anneal: share of training over which `start_k` becomes `k`, linearly.

    Raises:
        ConfigError: a value is out of range.

    Source:
        Gao et al. 2024, arXiv:2406.04093, sections 2.3 and A.2.
        Differs: b_dec is not subtracted before encoding (b_enc takes its part).
    """

    name: ClassVar[str] = "topk"
    k: int = setting(32, least=1)
    start_k: int | None = setting(None, least=1)
    anneal: float = setting(0.0, least=0, below=1, unit="of training")

    def __post_init__(self) -> None:
        super().__post_init__()
        _parts.check_k("k", self.k, self.d_sae)
        _parts.check_annealing(self.start_k, self.anneal, self.d_sae)

    @classmethod
    @override
    def example(cls) -> "TopK":
        return cls(d_in=8, d_out=8, d_sae=16, k=3)

    @override
    def build(self, generator: torch.Generator) -> "TopKSAE":
        return TopKSAE(self, generator)

    @override
    def build_share(self, generator: torch.Generator, mesh: Mesh) -> "TopKSAE":
        return TopKSAE(self, generator, mesh)


@final
class TopKSAE(AffineSAE):
    """The weights and maps of `TopK`."""

    cfg: TopK
    encoder_length = SHORT_COLUMNS

    def _encode(self, x: Float[Tensor, "n d_in"], k: int) -> Codes:
        chosen = shared.top_latents(x, self.W_enc, self.b_enc, k, self.mesh.latent)
        pre = sparse.pre_acts(x, self.W_enc, self.b_enc, chosen)
        return chosen._replace(values=pre.relu())

    @override
    def encode(self, x: Float[Tensor, "..."]) -> Codes:
        flat, batch = sparse.flat_rows(x)
        return self._encode(flat, self.cfg.k)._replace(batch=batch)

    @override
    def loss(self, x: Float[Tensor, "n d_in"], y: Float[Tensor, "n d_out"], step: Step) -> Loss:
        cfg = self.cfg
        k = round(_parts.annealed(cfg.k, cfg.start_k, cfg.anneal, step.progress))
        acts = self._encode(x, k)
        y_hat = self.decode(acts)
        terms = self.with_aux({"mse": _parts.mse(y_hat, y)}, x, y, y_hat, step.dead)
        return Loss(_parts.add(terms), terms, acts.detach(), y_hat)
