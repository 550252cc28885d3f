"""CE clean: the language model's own loss, nothing replaced."""

from typing import ClassVar, final

from typing_extensions import override

from saekit.metrics._ce import ce_sums
from saekit.metrics.base import Batch, Metric, Sums, registry


@final
@registry.register
class CEClean(Metric):
    r"""Mean cross-entropy of the next token in the untouched model.

    .. math:: -\frac{1}{m} \sum_i \log p(t_{i+1} \mid t_{\le i})

    A property of the model and the text, not of the SAE: what the other losses stand beside.
    A perfect reconstruction and a predicted mean leave it as it is.

    Source:
        Shannon 1948 (cross-entropy).
        Differs: nothing known.
    """

    name: ClassVar[str] = "ce_clean"
    label: ClassVar[str] = "cross-entropy, clean (nats)"
    place: ClassVar[int] = 3
    version: ClassVar[int] = 1
    unit: ClassVar[str] = "nats/token"
    better: ClassVar[str] = "neither"
    scale: ClassVar[str] = "log"
    needs: ClassVar[frozenset[str]] = frozenset({"ce"})

    @override
    def sums(self, batch: Batch) -> Sums:
        return ce_sums(batch, "clean")

    @override
    def compute(self, sums: Sums) -> float | None:
        return float(sums["clean"] / sums["n"]) if sums["n"] else None
