"""Dead: the share of latents that never fired."""

import math
from typing import ClassVar, final

from typing_extensions import override

from saekit.metrics._firing import Z, firing_counts
from saekit.metrics.base import Batch, Metric, Sums, registry


@final
@registry.register
class Dead(Metric):
    r"""Share of latents that fired on none of the tokens.

    .. math:: |\{j : a_{ij} = 0 \;\forall i\}| \;/\; d_{sae}

    It can only fall as more tokens are looked at, so it says nothing without their number:
    a latent silent on n tokens fires on less than 3/n of text (with 95 % confidence, tokens
    taken as independent). For the same reason text is not resampled: the interval is
    Wilson's over latents, for this much text. 0 is perfect; a code that predicts the mean
    has 1.

    Source:
        Bricken et al. 2023, Towards Monosemanticity; Hanley and Lippman-Hand 1983, JAMA 249
        (the rule of three).
        Differs: nothing known.
    """

    name: ClassVar[str] = "dead"
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
        weight = Z * Z / n
        centre = (share + weight / 2) / (1 + weight)
        half = math.sqrt(weight * (share * (1 - share) + weight / 4)) / (1 + weight)
        return max(centre - half, 0.0), min(centre + half, 1.0), n
