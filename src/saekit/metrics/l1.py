"""L1: how much activation a token gets in all."""

from typing import ClassVar, final

import torch
from typing_extensions import override

from saekit.metrics.base import Batch, Metric, Sums, registry, total


@final
@registry.register
class L1(Metric):
    r"""Mean sum of absolute latent activations of a token.

    .. math:: \frac{1}{n} \sum_i \sum_j |a_{ij}|

    In the model's own units, and only comparable between SAEs whose directions have one
    length. A code that predicts the mean has 0; a perfect reconstruction has no L1 of its own.

    Source:
        Bricken et al. 2023, Towards Monosemanticity (the sparsity penalty).
        Differs: nothing known.
    """

    name: ClassVar[str] = "l1"
    label: ClassVar[str] = "sum of activations per token (L1)"
    version: ClassVar[int] = 1
    unit: ClassVar[str] = "act units/token"
    better: ClassVar[str] = "neither"
    scale: ClassVar[str] = "log"

    @override
    def sums(self, batch: Batch) -> Sums:
        return {
            "n": torch.tensor(float(batch.acts.n_rows), dtype=torch.float64),
            "absolute": total(batch.acts.values.double().abs()),
        }

    @override
    def compute(self, sums: Sums) -> float | None:
        return float(sums["absolute"] / sums["n"]) if sums["n"] else None
