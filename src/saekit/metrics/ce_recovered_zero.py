"""CE recovered (zero): the loss saved beside zero ablation."""

from typing import ClassVar, final

from typing_extensions import override

from saekit.metrics._ce import ce_sums, recovered
from saekit.metrics.base import Batch, Metric, Sums, registry


@final
@registry.register
class CERecoveredZero(Metric):
    r"""Share of the loss that zeroing the activations costs, which reconstructions avoid.

    .. math:: (CE_{zero} - CE_{spliced}) \;/\; (CE_{zero} - CE_{clean})

    1 is perfect. Predicting the mean already gives a high value where zero is no activation
    the model ever meets: the mean is the harder baseline. Undefined where the ablation does
    not raise the loss.

    Source:
        Karvonen et al. 2025, arXiv:2503.09532 (SAEBench core, ce_loss_score).
        Differs: the same tokens are ablated as are reconstructed, not every position.
    """

    name: ClassVar[str] = "ce_recovered_zero"
    label: ClassVar[str] = "recovered, vs zero ablation"
    place: ClassVar[int] = 6
    version: ClassVar[int] = 1
    unit: ClassVar[str] = "ratio"
    better: ClassVar[str] = "higher"
    scale: ClassVar[str] = "rest"
    needs: ClassVar[frozenset[str]] = frozenset({"ce"})
    undefined: ClassVar[str] = "zero ablation does not raise the loss"

    @override
    def sums(self, batch: Batch) -> Sums:
        return ce_sums(batch, "clean", "spliced", "zero")

    @override
    def compute(self, sums: Sums) -> float | None:
        return recovered(sums, "zero")
