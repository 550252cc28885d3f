"""Toy: an architecture in one file, as somebody would add one."""

from dataclasses import dataclass
from typing import ClassVar, final

from saekit.kernels import sparse
from saekit.kernels.choose import top_latents
from saekit.saes import _parts
from saekit.saes._affine import AffineSAE, AuxKConfig
from saekit.saes.base import Loss, registry


@final
@registry.register
@dataclass(frozen=True, kw_only=True)
class ToySAE(AuxKConfig):
    """Keep the k largest pre-activations of each token, and never look at dead latents.

    Args:
        k: latents kept per token, 1..d_sae.

    Source:
        Ours.
    """

    name: ClassVar[str] = "toy_sae"
    k: int = 4

    def __post_init__(self):
        super().__post_init__()
        _parts.check_k("k", self.k, self.d_sae)

    @classmethod
    def example(cls):
        return cls(d_in=8, d_out=8, d_sae=16, k=3)

    def build(self, generator):
        return ToyCode(self, generator)


class ToyCode(AffineSAE):
    """The weights and maps of `ToySAE`."""

    def encode(self, x):
        flat, batch = sparse.flat_rows(x)
        chosen = top_latents(flat, self.W_enc, self.b_enc, self.cfg.k)
        pre = sparse.pre_acts(flat, self.W_enc, self.b_enc, chosen)
        return chosen._replace(values=pre.relu(), batch=batch)

    def loss(self, x, y, step):
        acts = self.encode(x)
        y_hat = self.decode(acts)
        terms = {"mse": _parts.mse(y_hat, y)}
        return Loss(_parts.add(terms), terms, acts.detach(), y_hat)
