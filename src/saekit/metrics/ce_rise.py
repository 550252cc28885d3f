"""CE rise: what reconstructing costs the language model."""

from typing import ClassVar, final

from typing_extensions import override

from saekit.metrics._ce import ce_sums
from saekit.metrics.base import Batch, Metric, Sums, registry


@final
@registry.register
class CERise(Metric):
    r"""Mean rise of the cross-entropy when reconstructions replace activations.

    .. math:: CE_{spliced} - CE_{clean}

    0 is perfect; predicting the mean costs what mean ablation costs. It is paired by token,
    so its interval is far narrower than those of the two losses. It can be negative by chance.

    Source:
        Gao et al. 2024, arXiv:2406.04093, section 4.1 (downstream loss).
        Differs: nothing known.
    """

    name: ClassVar[str] = "ce_rise"
    label: ClassVar[str] = "cross-entropy rise (nats)"
    place: ClassVar[int] = 5
    version: ClassVar[int] = 1
    unit: ClassVar[str] = "nats/token"
    better: ClassVar[str] = "lower"
    needs: ClassVar[frozenset[str]] = frozenset({"ce"})

    @override
    def sums(self, batch: Batch) -> Sums:
        return ce_sums(batch, "clean", "spliced")

    @override
    def compute(self, sums: Sums) -> float | None:
        return float((sums["spliced"] - sums["clean"]) / sums["n"]) if sums["n"] else None
