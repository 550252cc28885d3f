"""Multi-TopK: TopK whose dictionary must also serve a larger k."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from saekit.core.codes import Codes
from saekit.core.config import setting
from saekit.core.errors import ConfigError
from saekit.kernels import choose, sparse
from saekit.saes import _parts
from saekit.saes._affine import SHORT_COLUMNS, AffineSAE, AuxKConfig
from saekit.saes.base import Loss, Step, registry


@final
@registry.register
@dataclass(frozen=True, kw_only=True)
class MultiTopK(AuxKConfig):
    """TopK whose dictionary must also serve a larger k, so that k can be changed in use.

    acts = relu(keep_k(x @ W_enc + b_enc));  y_hat = acts @ W_dec + b_dec
    loss = error(k) + wide_coefficient * error(wide_k)

    Args:
        k: latents kept per token in use and in the first error, 1..d_sae.
        wide_k: latents kept in the second error, more than `k`, at most d_sae; null: 4 k, or
            d_sae where that is less.
        wide_coefficient: weight of the second error.

    Raises:
        ConfigError: a value is out of range.

    Source:
        Gao et al. 2024, arXiv:2406.04093, section 5.3 (L(k) + L(4k) / 8).
        Differs: b_dec is not subtracted before encoding (b_enc takes its part).
    """

    name: ClassVar[str] = "multi_topk"
    k: int = setting(32, least=1)
    wide_k: int | None = setting(None, least=2, hint="Usual is 4 times k.")
    wide_coefficient: float = setting(1 / 8, least=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        _parts.check_k("k", self.k, self.d_sae)
        if self.wide_k is not None and not self.k < self.wide_k <= self.d_sae:
            raise ConfigError(
                f"`wide_k` must be above k and at most d_sae; got wide_k={self.wide_k}, "
                f"k={self.k}, d_sae={self.d_sae}. Usual is 4 times k."
            )

    @property
    @override
    def latents_per_token(self) -> int:
        return self.k + self.widest  # each error has a code of its own

    @property
    def widest(self) -> int:
        """Latents kept in the second error."""
        return self.wide_k or min(4 * self.k, self.d_sae)

    @classmethod
    @override
    def example(cls) -> "MultiTopK":
        return cls(d_in=8, d_out=8, d_sae=16, k=3, wide_k=6)

    @override
    def build(self, generator: torch.Generator) -> "MultiTopKSAE":
        return MultiTopKSAE(self, generator)


@final
class MultiTopKSAE(AffineSAE):
    """The weights and maps of `MultiTopK`."""

    cfg: MultiTopK
    encoder_length = SHORT_COLUMNS

    def _encode(self, x: Float[Tensor, "n d_in"], k: int) -> Codes:
        """Return the k largest of each token, from the largest down."""
        chosen = choose.top_latents(x, self.W_enc, self.b_enc, k, in_order=True)
        pre = sparse.pre_acts(x, self.W_enc, self.b_enc, chosen)
        return chosen._replace(values=pre.relu())

    @override
    def encode(self, x: Float[Tensor, "..."]) -> Codes:
        flat, batch = sparse.flat_rows(x)
        return self._encode(flat, self.cfg.k)._replace(batch=batch)

    @override
    def loss(self, x: Float[Tensor, "n d_in"], y: Float[Tensor, "n d_out"], step: Step) -> Loss:
        k, widest = self.cfg.k, self.cfg.widest
        acts = self._encode(x, widest)
        beyond = (torch.arange(len(acts.values), device=x.device) % widest >= k).long()
        y_hat, y_wide = _parts.decode_levels(self, acts, beyond, 2).unbind(1)
        terms = {
            "mse": _parts.mse(y_hat, y),
            "wide": self.cfg.wide_coefficient * _parts.mse(y_wide, y),
        }
        terms = self.with_aux(terms, x, y, y_hat, step.dead)
        return Loss(_parts.add(terms), terms, acts.detach().only(beyond == 0), y_hat)
