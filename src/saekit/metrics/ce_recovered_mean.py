"""CE recovered (mean): the loss saved beside mean ablation."""

from typing import ClassVar, final

from typing_extensions import override

from saekit.metrics._ce import ce_sums, recovered
from saekit.metrics.base import Batch, Metric, Sums, registry


@final
@registry.register
class CERecoveredMean(Metric):
    r"""Share of the loss that putting their mean in place costs, which reconstructions avoid.

    .. math:: (CE_{mean} - CE_{spliced}) \;/\; (CE_{mean} - CE_{clean})

    1 is perfect; predicting the mean gives 0, and what is worse than the mean is negative.
    Undefined where the ablation does not raise the loss.

    Source:
        Karvonen et al. 2025, arXiv:2503.09532 (SAEBench core, ce_loss_score).
        Differs: the mean in place of zero; the same tokens are ablated as are reconstructed, not
        every position.
    """

    name: ClassVar[str] = "ce_recovered_mean"
    label: ClassVar[str] = "recovered, vs mean ablation"
    place: ClassVar[int] = 7
    version: ClassVar[int] = 1
    unit: ClassVar[str] = "ratio"
    better: ClassVar[str] = "higher"
    scale: ClassVar[str] = "rest"
    needs: ClassVar[frozenset[str]] = frozenset({"ce"})
    undefined: ClassVar[str] = "mean ablation does not raise the loss"

    @override
    def sums(self, batch: Batch) -> Sums:
        return ce_sums(batch, "clean", "spliced", "mean")

    @override
    def compute(self, sums: Sums) -> float | None:
        return recovered(sums, "mean")
