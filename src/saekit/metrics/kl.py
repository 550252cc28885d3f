"""KL: how far reconstructing moves the language model's predictions."""

from typing import ClassVar, final

import torch
from typing_extensions import override

from saekit.metrics.base import Batch, Metric, Sums, registry, total


@final
@registry.register
class KL(Metric):
    r"""Mean KL divergence of predictions with reconstructions in place from the clean ones.

    .. math:: \frac{1}{m} \sum_i \sum_t p(t) \log \frac{p(t)}{p_{y \to \hat y}(t)}

    0 is perfect; predicting the mean gives the divergence under mean ablation. It does not
    look at the text's next token, so unlike a rise of the loss it cannot cancel out.

    Source:
        Karvonen et al. 2025, arXiv:2503.09532 (SAEBench core).
        Differs: in nats, not set off against ablation.
    """

    name: ClassVar[str] = "kl"
    label: ClassVar[str] = "KL, clean to spliced (nats)"
    place: ClassVar[int] = 8
    version: ClassVar[int] = 1
    unit: ClassVar[str] = "nats/token"
    better: ClassVar[str] = "lower"
    scale: ClassVar[str] = "log"
    needs: ClassVar[frozenset[str]] = frozenset({"kl"})

    @override
    def sums(self, batch: Batch) -> Sums:
        values = batch.kl["spliced"] if batch.kl else torch.zeros(0)
        return {
            "n": torch.tensor(float(len(values)), dtype=torch.float64),
            "spliced": total(values),
        }

    @override
    def compute(self, sums: Sums) -> float | None:
        return float(sums["spliced"] / sums["n"]) if sums["n"] else None
