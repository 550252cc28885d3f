"""FVU: the share of the activations' variance that a reconstruction leaves unexplained."""

from typing import ClassVar, final

import torch
from typing_extensions import override

from saekit.metrics.base import Batch, Metric, Sums, registry, total

# A variance below this share of the mean square is rounding of float64 sums, not spread.
SMALLEST_SPREAD = 1e-13


@final
@registry.register
class FVU(Metric):
    r"""Share of the activations' variance that reconstructions leave unexplained, over all tokens.

    .. math:: \sum_i |y_i - \hat y_i|^2 \;/\; \sum_i |y_i - \bar y|^2

    The mean is taken per dimension over all tokens: a ratio of sums, not a mean of ratios
    per batch. 0 is perfect, predicting the mean gives exactly 1, there is no upper bound.
    Scaling or shifting y and y_hat together changes nothing. So that they add up in any
    order, square sums are kept about 0, in float64: next to an offset of 10,000 times the
    spread, 1e-7 of the value is lost, and at a million times, where float32 activations
    hardly hold the spread at all, 1e-3.

    Source:
        Gao et al. 2024, arXiv:2406.04093, section 2 (normalised MSE).
        Differs: nothing known.
    """

    name: ClassVar[str] = "fvu"
    label: ClassVar[str] = "variance unexplained (FVU)"
    place: ClassVar[int] = 1
    version: ClassVar[int] = 1
    unit: ClassVar[str] = "ratio"
    better: ClassVar[str] = "lower"
    scale: ClassVar[str] = "log"
    undefined: ClassVar[str] = "the activations do not vary"

    @override
    def sums(self, batch: Batch) -> Sums:
        y = batch.y.double()
        err = batch.y_hat.double() - y
        return {
            "n": torch.tensor(float(len(y)), dtype=torch.float64),
            "y": y.sum(0).cpu(),  # [d_out]
            "yy": y.square().sum(0).cpu(),  # [d_out]
            "ee": total(err.square_()),
        }

    @override
    def compute(self, sums: Sums) -> float | None:
        n = sums["n"]
        if n < 1:
            return None
        spread = (sums["yy"] - sums["y"].square() / n).sum()
        if spread <= SMALLEST_SPREAD * sums["yy"].sum():
            return None
        return float(sums["ee"] / spread)
