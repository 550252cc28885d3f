"""Dead: the share of latents that never fired."""

from typing import ClassVar, final

from typing_extensions import override

from saekit.core.stats.proportions import wilson
from saekit.metrics._firing import firing_counts
from saekit.metrics.base import Batch, Metric, Sums, registry


@final
@registry.register
class Dead(Metric):
    r"""Share of latents that fired on none of the tokens.

    .. math:: |\{j : a_{ij} = 0 \;\forall i\}| \;/\; d_{sae}

    It can only fall as more tokens are looked at, so it says nothing without their number:
    a latent silent on n tokens fires on less than 3/n of text (with 95 % confidence, tokens
    taken as independent). For the same reason no text is left out for the interval: it is
    Wilson's over latents, for this much text. 0 is perfect; a code that predicts the mean
    has 1.

    Source:
        Bricken et al. 2023, Towards Monosemanticity; Hanley and Lippman-Hand 1983, JAMA 249
        (the rule of three).
        Differs: nothing known.
    """

    name: ClassVar[str] = "dead"
    label: ClassVar[str] = "dead latents (share)"
    place: ClassVar[int] = 9
    version: ClassVar[int] = 1
    unit: ClassVar[str] = "share of latents"
    better: ClassVar[str] = "lower"
    resampled: ClassVar[bool] = False

    @override
    def sums(self, batch: Batch) -> Sums:
        return firing_counts(batch)

    @override
    def compute(self, sums: Sums) -> float | None:
        return float((sums["fired"] == 0).double().mean()) if sums["n"] else None

    @override
    def interval(self, sums: Sums) -> tuple[float, float, int]:
        n, share = len(sums["fired"]), float((sums["fired"] == 0).double().mean())
        return *wilson(share, n), n
