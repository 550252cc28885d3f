"""Cross-entropy of the next token: clean, with reconstructions in place, and what these cost."""

from typing import ClassVar, final

import torch
from typing_extensions import override

from saekit.metrics.base import Batch, Metric, Sums, registry, total


def ce_sums(batch: Batch, *names: str) -> Sums:
    """Return ``n``, scored tokens, and the sum of the CE under each intervention, in nats."""
    values = batch.ce or {}
    n = len(values[names[0]]) if values else 0
    sums = {"n": torch.tensor(float(n), dtype=torch.float64)}
    nothing = torch.zeros((), dtype=torch.float64)
    return sums | {name: total(values[name]) if values else nothing for name in names}


def recovered(sums: Sums, ablated: str) -> float | None:
    """Return (CE_ablated - CE_spliced) / (CE_ablated - CE_clean), None if ablation helps."""
    harm = sums[ablated] - sums["clean"]
    return float((sums[ablated] - sums["spliced"]) / harm) if harm > 0 else None


@final
@registry.register
class CEClean(Metric):
    r"""Mean cross-entropy of the next token in the untouched model.

    .. math:: -\frac{1}{m} \sum_i \log p(t_{i+1} \mid t_{\le i})

    A property of the model and the text, not of the SAE: what the other losses are compared with.
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


@final
@registry.register
class CERecoveredZero(Metric):
    r"""Of the loss that setting activations to 0 adds, the share that reconstructions avoid.

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


@final
@registry.register
class CERecoveredMean(Metric):
    r"""Of the loss that their mean in place of activations adds, the share reconstructions avoid.

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
