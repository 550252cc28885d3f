"""Shrinkage: the factor by which reconstructions are too short or too long."""

from typing import ClassVar, final

from typing_extensions import override

from saekit.metrics.base import Batch, Metric, Sums, registry, total


@final
@registry.register
class Shrinkage(Metric):
    r"""How far reconstructions are too short: below 1 where dividing them by it would fit better.

    .. math:: \gamma = \sum_i |\hat y_i|^2 \;/\; \sum_i \hat y_i \cdot y_i

    It is the :math:`\gamma` at which :math:`\hat y / \gamma` has the least squared error.
    1 is perfect; predicting the mean gives 1 too, so it tells of bias, not of quality.

    Source:
        Rajamanoharan et al. 2024, arXiv:2404.16014 (relative reconstruction bias).
        Differs: nothing known. What SAELens' synthetic evaluation calls shrinkage is another
        quantity, the mean of |y_hat| / |y| over tokens, near `l2_ratio` here: a reconstruction
        half as long and at 60 degrees has 0.5 there, and 1 here.
    """

    name: ClassVar[str] = "shrinkage"
    label: ClassVar[str] = "shrinkage"
    version: ClassVar[int] = 1
    unit: ClassVar[str] = "ratio"
    better: ClassVar[str] = "neither"
    scale: ClassVar[str] = "log"
    undefined: ClassVar[str] = "reconstructions do not point the way activations do"

    @override
    def sums(self, batch: Batch) -> Sums:
        y, y_hat = batch.y.double(), batch.y_hat.double()
        return {"dot": total(y * y_hat), "square": total(y_hat.square())}

    @override
    def compute(self, sums: Sums) -> float | None:
        return float(sums["square"] / sums["dot"]) if sums["dot"] > 0 else None
