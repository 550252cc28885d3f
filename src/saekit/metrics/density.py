"""Density: how often a typical latent fires."""

import math
from typing import ClassVar, final

from typing_extensions import override

from saekit.core.stats.student import Z
from saekit.metrics._firing import firing_counts
from saekit.metrics.base import Batch, Metric, Sums, registry


@final
@registry.register
class Density(Metric):
    r"""Median, over latents that fired at all, of the share of tokens a latent fires on.

    .. math:: \mathrm{median}_{j : c_j > 0}\; c_j / n, \quad c_j = |\{i : a_{ij} \ne 0\}|

    The mean over all latents would only be L0 / d_sae again. No value is best; a code that
    predicts the mean never fires and has none, and neither does a perfect reconstruction
    have one of its own. With an even number of latents the lower of the middle two counts.
    On fewer tokens the rarest latents drop out and the median rises, so no text
    is left out for the interval: it is that of order statistics over live latents.

    Source:
        Bricken et al. 2023, Towards Monosemanticity (feature density).
        Differs: one number in place of a histogram; latents that never fired are left to
        the metric of dead latents.
    """

    name: ClassVar[str] = "density"
    label: ClassVar[str] = "median firing share of live latents"
    version: ClassVar[int] = 1
    unit: ClassVar[str] = "share of tokens"
    better: ClassVar[str] = "neither"
    undefined: ClassVar[str] = "no latent fired"
    resampled: ClassVar[bool] = False

    @override
    def sums(self, batch: Batch) -> Sums:
        return firing_counts(batch)

    @override
    def compute(self, sums: Sums) -> float | None:
        live = sums["fired"][sums["fired"] > 0]
        return float(live.median() / sums["n"]) if len(live) else None

    @override
    def interval(self, sums: Sums) -> tuple[float, float, int]:
        live = sums["fired"][sums["fired"] > 0].sort().values / sums["n"]
        n = len(live)
        half = Z / 2 * math.sqrt(n)  # ranks: a binomial of n and 1/2
        low, high = math.floor((n - 1) / 2 - half), math.ceil((n - 1) / 2 + half)
        return float(live[max(low, 0)]), float(live[min(high, n - 1)]), n
