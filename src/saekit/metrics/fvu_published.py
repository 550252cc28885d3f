"""FVU as MLSAE's code has it: the error over the variance about one number for all dimensions."""

from typing import ClassVar, final

import torch
from typing_extensions import override

from saekit.metrics.base import Batch, Metric, Sums, registry, total
from saekit.metrics.fvu import SMALLEST_SPREAD


@final
@registry.register
class FVUPublished(Metric):
    r"""Error over the variance of all entries about one mean, for published MLSAE figures.

    .. math:: \frac{\sum_{ij} (y_{ij} - \hat y_{ij})^2 / m}
              {\sum_{ij} (y_{ij} - \bar y)^2 / (m - 1)}

    over m entries: tokens i times dimensions j. The mean is one number for all dimensions, so
    that the offset of each dimension counts as variance: where a residual stream has large
    offsets this is a fraction of `fvu`, which takes the mean of each dimension off and is what
    to compare SAEs by. 0 is perfect; predicting the mean of each dimension gives less than 1.

    Source:
        tim-lawson/mlsae, metrics/layerwise_fvu.py@ba90c51.
        Differs: over all kept tokens, where the original takes sums of batches of 2,048
        tokens (and means over them in its tests) with special tokens as zeros.
    """

    name: ClassVar[str] = "fvu_published"
    label: ClassVar[str] = "FVU by MLSAE's formula"
    version: ClassVar[int] = 1
    unit: ClassVar[str] = "ratio"
    better: ClassVar[str] = "lower"
    undefined: ClassVar[str] = "the activations do not vary"

    @override
    def sums(self, batch: Batch) -> Sums:
        y = batch.y.double()
        err = batch.y_hat.double() - y
        return {
            "entries": torch.tensor(float(y.numel()), dtype=torch.float64),
            "y": total(y),
            "yy": total(y.square()),
            "ee": total(err.square_()),
        }

    @override
    def compute(self, sums: Sums) -> float | None:
        m = sums["entries"]
        if m < 2:
            return None
        spread = sums["yy"] - sums["y"].square() / m
        if spread <= SMALLEST_SPREAD * sums["yy"]:
            return None
        return float(sums["ee"] / m / (spread / (m - 1)))
