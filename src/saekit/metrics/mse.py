"""MSE: the mean squared error of a reconstruction."""

from typing import ClassVar, final

import torch
from typing_extensions import override

from saekit.metrics.base import Batch, Metric, Sums, registry, total


@final
@registry.register
class MSE(Metric):
    r"""Mean squared error per token and dimension.

    .. math:: \frac{1}{n\, d_{out}} \sum_i |y_i - \hat y_i|^2

    0 is perfect; predicting the mean gives the mean variance of a dimension. In the square
    of the model's own units, so it compares SAEs of one site only; FVU has no such limit.

    Source:
        Gao et al. 2024, arXiv:2406.04093, section 2.
        Differs: nothing known.
    """

    name: ClassVar[str] = "mse"
    label: ClassVar[str] = "squared error per dimension (MSE)"
    version: ClassVar[int] = 1
    unit: ClassVar[str] = "act units²"
    better: ClassVar[str] = "lower"
    scale: ClassVar[str] = "log"

    @override
    def sums(self, batch: Batch) -> Sums:
        err = batch.y_hat.double() - batch.y.double()
        return {
            "entries": torch.tensor(float(err.numel()), dtype=torch.float64),
            "ee": total(err.square_()),
        }

    @override
    def compute(self, sums: Sums) -> float | None:
        return float(sums["ee"] / sums["entries"]) if sums["entries"] else None
