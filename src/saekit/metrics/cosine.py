"""Cosine: how well a reconstruction keeps the direction of activations."""

from typing import ClassVar, final

import torch
from typing_extensions import override

from saekit.metrics.base import Batch, Metric, Sums, registry, total


@final
@registry.register
class Cosine(Metric):
    r"""Mean cosine between activations and their reconstruction.

    .. math:: \frac{1}{n} \sum_i \frac{y_i \cdot \hat y_i}{|y_i|\,|\hat y_i|}

    A token where either vector is exactly zero has no direction: it is left out, and counted
    under ``undefined`` in the sums. 1 is perfect; predicting the mean gives the mean cosine
    with it, which is far from 0 where activations share an offset.

    Source:
        Karvonen et al. 2025, arXiv:2503.09532 (SAEBench core).
        Differs: zero vectors are left out, not taken as 0.
    """

    name: ClassVar[str] = "cosine"
    label: ClassVar[str] = "cosine of prediction and target"
    version: ClassVar[int] = 1
    unit: ClassVar[str] = "ratio"
    better: ClassVar[str] = "higher"
    scale: ClassVar[str] = "rest"
    undefined: ClassVar[str] = "no token where both activation and reconstruction are non-zero"

    @override
    def sums(self, batch: Batch) -> Sums:
        y, y_hat = batch.y.double(), batch.y_hat.double()
        lengths = y.norm(dim=-1) * y_hat.norm(dim=-1)  # [n]
        known = lengths > 0
        dots = (y * y_hat).sum(-1)
        return {
            "n": total(known),
            "undefined": torch.tensor(float(len(y)), dtype=torch.float64) - total(known),
            "cosine": total(dots[known] / lengths[known]),
        }

    @override
    def compute(self, sums: Sums) -> float | None:
        return float(sums["cosine"] / sums["n"]) if sums["n"] else None
