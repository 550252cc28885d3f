"""CE spliced: the language model's loss with reconstructions in place."""

from typing import ClassVar, final

from typing_extensions import override

from saekit.metrics._ce import ce_sums
from saekit.metrics.base import Batch, Metric, Sums, registry


@final
@registry.register
class CESpliced(Metric):
    r"""Mean cross-entropy of the next token with reconstructions in place of activations.

    .. math:: -\frac{1}{m} \sum_i \log p_{y \to \hat y}(t_{i+1} \mid t_{\le i})

    A perfect reconstruction gives the clean loss; predicting the mean gives the loss under
    mean ablation.

    Source:
        Bricken et al. 2023, Towards Monosemanticity (loss with the dictionary inserted).
        Differs: nothing known.
    """

    name: ClassVar[str] = "ce_spliced"
    label: ClassVar[str] = "cross-entropy, spliced (nats)"
    place: ClassVar[int] = 4
    version: ClassVar[int] = 1
    unit: ClassVar[str] = "nats/token"
    better: ClassVar[str] = "lower"
    scale: ClassVar[str] = "log"
    needs: ClassVar[frozenset[str]] = frozenset({"ce"})

    @override
    def sums(self, batch: Batch) -> Sums:
        return ce_sums(batch, "spliced")

    @override
    def compute(self, sums: Sums) -> float | None:
        return float(sums["spliced"] / sums["n"]) if sums["n"] else None
