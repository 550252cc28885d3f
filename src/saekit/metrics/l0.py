"""L0: how many latents fire on a token."""

from typing import ClassVar, final

import torch
from typing_extensions import override

from saekit.metrics.base import Batch, Metric, Sums, registry, total


@final
@registry.register
class L0(Metric):
    r"""Mean number of latents that fire (are not 0) on a token.

    .. math:: \frac{1}{n} \sum_i |\{j : a_{ij} \ne 0\}|

    What is good depends on what it buys: compare other scores at equal L0. A code that
    predicts the mean has 0; a perfect reconstruction has no L0 of its own.

    Source:
        Rajamanoharan et al. 2024, arXiv:2404.16014.
        Differs: nothing known.
    """

    name: ClassVar[str] = "l0"
    label: ClassVar[str] = "latents per token (L0)"
    place: ClassVar[int] = 2
    version: ClassVar[int] = 1
    unit: ClassVar[str] = "latents/token"
    better: ClassVar[str] = "neither"
    scale: ClassVar[str] = "log"

    @override
    def sums(self, batch: Batch) -> Sums:
        return {
            "n": torch.tensor(float(batch.acts.n_rows), dtype=torch.float64),
            "fired": total(batch.acts.values != 0),
        }

    @override
    def compute(self, sums: Sums) -> float | None:
        return float(sums["fired"] / sums["n"]) if sums["n"] else None
