"""BatchTopK: keep the k * n largest pre-activations of a batch of n tokens."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from saekit.core.processes import Mesh
from saekit.saes import _parts
from saekit.saes._batch_choice import BatchChoiceConfig, BatchChoiceSAE
from saekit.saes.base import Loss, Step, registry


@final
@registry.register
@dataclass(frozen=True, kw_only=True)
class BatchTopK(BatchChoiceConfig):
    """Keep the k * n largest pre-activations of a batch of n tokens.

    In training the batch shares its budget; in use a latent is on above one fixed
    threshold, the running mean of the smallest value that training kept, so that a code
    never depends on its batch.

    Raises:
        ConfigError: a value is out of range.

    Source:
        Bussmann et al. 2024, arXiv:2412.06410, section 3.
        Differs: bias-corrected threshold; b_dec is not subtracted before encoding.
    """

    name: ClassVar[str] = "batch_topk"

    @classmethod
    @override
    def example(cls) -> "BatchTopK":
        return cls(d_in=8, d_out=8, d_sae=16, k=3.0)

    @override
    def build(self, generator: torch.Generator) -> "BatchTopKSAE":
        return BatchTopKSAE(self, generator)

    @override
    def build_share(self, generator: torch.Generator, mesh: Mesh) -> "BatchTopKSAE":
        return BatchTopKSAE(self, generator, mesh)


@final
class BatchTopKSAE(BatchChoiceSAE):
    """The weights and maps of `BatchTopK`."""

    @override
    def loss(self, x: Float[Tensor, "n d_in"], y: Float[Tensor, "n d_out"], step: Step) -> Loss:
        acts = self.choose(x, step)
        y_hat = self.decode(acts)
        terms = self.with_aux({"mse": _parts.mse(y_hat, y)}, x, y, y_hat, step.dead)
        return Loss(_parts.add(terms), terms, acts.detach(), y_hat)
