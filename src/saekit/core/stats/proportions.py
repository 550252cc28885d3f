"""Intervals of shares."""

import math

from saekit.core.stats.student import Z


def wilson(share: float, n: int) -> tuple[float, float]:
    """Return the 95 % interval of a share of n independent units, within 0 to 1.

    Source:
        Wilson 1927, Probable inference, J. Am. Stat. Assoc. 22 (score interval).
    """
    weight = Z * Z / n
    centre = (share + weight / 2) / (1 + weight)
    half = math.sqrt(weight * (share * (1 - share) + weight / 4)) / (1 + weight)
    return max(centre - half, 0.0), min(centre + half, 1.0)
