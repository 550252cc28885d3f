"""How strong each latent is when it is on: a histogram of the size of its activations."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Int
from torch import Tensor
from typing_extensions import override

from saekit.activations.latents import LatentStore
from saekit.analysis.base import Analysis, registry
from saekit.core.config import setting
from saekit.core.result import Table


@registry.register
@dataclass(frozen=True, kw_only=True)
class ActHistogram(Analysis):
    """Count each latent's activations by size, in bins of equal width up to its largest.

    Bin i of n holds sizes |a| in (i m / n, (i + 1) m / n], m the largest size of the latent.

    Args:
        bins: number of bins of each latent's histogram.

    Raises:
        ConfigError: `bins` is out of range.

    Source:
        Bricken et al. 2023, "Towards Monosemanticity", the activation histograms of its feature
        pages. Differs: sizes, so that negative activations count; bins end at the maximum.
    """

    name: ClassVar[str] = "act_histogram"
    bins: int = setting(12, least=2)

    def counts(self, store: LatentStore) -> Int[Tensor, "d_sae bins"]:
        """Return the counts; all 0 where a latent is never on. Reads the store twice."""
        largest = torch.zeros(store.d_sae)
        for shard in store.shards():
            entries = shard.by_latent()
            latents, sizes = entries.latents(), entries.values.abs()
            largest.scatter_reduce_(0, latents, sizes, "amax")
        found = torch.zeros(store.d_sae * self.bins, dtype=torch.int64)
        for shard in store.shards():
            entries = shard.by_latent()
            latents, sizes = entries.latents(), entries.values.abs().double()
            share = sizes / largest[latents].double()  # in (0, 1]
            # A size on the edge of two bins is in the lower one, as the definition has it.
            spot = (share * self.bins).ceil().long().clamp(1, self.bins) - 1
            found += torch.bincount(latents * self.bins + spot, minlength=len(found))
        return found.view(store.d_sae, self.bins)

    @override
    def run(self, latents: LatentStore) -> Table:
        counts = self.counts(latents)
        columns = {f"bin_{i}": counts[:, i].tolist() for i in range(self.bins)}
        units = dict.fromkeys(columns, "tokens")
        return Table(columns={"latent": list(range(latents.d_sae)), **columns}, units=units)
