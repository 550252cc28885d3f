"""GroupMax: the largest pre-activation of each group of latents."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from saekit.core.codes import Codes
from saekit.core.config import setting
from saekit.core.errors import ConfigError
from saekit.kernels import products, sparse
from saekit.saes import _parts
from saekit.saes._affine import SHORT_COLUMNS, AffineSAE, AuxKConfig
from saekit.saes.base import Loss, Step, registry

CHUNK_TOKENS = 512  # pre-activations of so many tokens at once


@final
@registry.register
@dataclass(frozen=True, kw_only=True)
class GroupMax(AuxKConfig):
    """The largest pre-activation of each of k groups of latents, where it is above 0.

    Group j is latents j d_sae / k to (j + 1) d_sae / k - 1, and with pre = x @ W_enc + b_enc

        acts_i = relu(pre_i) if i is the largest of its group, else 0;  y_hat = acts @ W_dec + b_dec

    Dead latents are revived by an auxiliary loss.

    Args:
        k: groups, and latents kept per token at most; divides d_sae.

    Raises:
        ConfigError: a value is out of range, or k does not divide d_sae.

    Source:
        eai-sparsify 1.3.3, `fused_encoder.py` (activation `groupmax`).
        Differs: b_dec is not subtracted before encoding (b_enc takes its part).
    """

    name: ClassVar[str] = "group_max"
    k: int = setting(32, least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        _parts.check_k("k", self.k, self.d_sae)
        if self.d_sae % self.k:
            raise ConfigError(
                f"`k` must divide `d_sae` into groups of one size; got k={self.k}, "
                f"d_sae={self.d_sae}. Use another of them."
            )

    @classmethod
    @override
    def example(cls) -> "GroupMax":
        return cls(d_in=8, d_out=8, d_sae=16, k=4)

    @override
    def build(self, generator: torch.Generator) -> "GroupMaxSAE":
        return GroupMaxSAE(self, generator)


@final
class GroupMaxSAE(AffineSAE):
    """The weights and maps of `GroupMax`."""

    cfg: GroupMax
    encoder_length = SHORT_COLUMNS

    @torch.no_grad()
    def _largest(self, x: Float[Tensor, "n d_in"]) -> Codes:
        """Return the latent of each group whose pre-activation is largest, the first of equals."""
        k, values, latents = self.cfg.k, [], []
        firsts = torch.arange(k, device=x.device) * (self.cfg.d_sae // k)
        for part in x.split(CHUNK_TOKENS):
            pre = products.linear(part, self.W_enc.t(), self.b_enc).unflatten(-1, (k, -1))
            places = pre.argmax(-1, keepdim=True)
            values.append(pre.gather(-1, places)[..., 0])
            latents.append(firsts + places[..., 0])
        return Codes.fixed(torch.cat(values), torch.cat(latents), self.cfg.d_sae)

    @override
    def encode(self, x: Float[Tensor, "..."]) -> Codes:
        flat, batch = sparse.flat_rows(x)
        chosen = self._largest(flat)
        pre = sparse.pre_acts(flat, self.W_enc, self.b_enc, chosen)
        return chosen._replace(values=pre.relu(), batch=batch)

    @override
    def loss(self, x: Float[Tensor, "n d_in"], y: Float[Tensor, "n d_out"], step: Step) -> Loss:
        acts = self.encode(x)
        y_hat = self.decode(acts)
        terms = self.with_aux({"mse": _parts.mse(y_hat, y)}, x, y, y_hat, step.dead)
        return Loss(_parts.add(terms), terms, acts.detach(), y_hat)
