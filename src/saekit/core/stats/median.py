"""The geometric median: the point with the smallest sum of distances."""

from jaxtyping import Float
from torch import Tensor

from saekit.core.errors import TrainingError

MEDIAN_TOLERANCE = 1e-6  # of the root mean square distance from the mean
MEDIAN_STEPS = 1000


def geometric_median(
    rows: Float[Tensor, "n *event width"], tolerance: float = MEDIAN_TOLERANCE
) -> Float[Tensor, "*event width"]:
    """Return the point whose distances to all rows have the smallest sum, in float64.

    Weiszfeld's steps, a mean weighted with inverse distances, until one is shorter than
    `tolerance` times the root mean square distance from the mean. A distance counts as at
    least that, so a row that is itself the median does not divide by 0.

    Args:
        rows: each place of the axes between has a median of its own.
        tolerance: relative length of the last step, above 0.

    Raises:
        TrainingError: it was not reached in 1000 steps.

    Source:
        Weiszfeld 1937; Gao et al. 2024, arXiv:2406.04093, appendix A.1 (its use for SAEs).
    """
    wide = rows.double()
    centre = wide.mean(0)
    rms = (wide - centre).square().sum(-1).mean(0).sqrt()  # [*event]
    least = (tolerance * rms).clamp_min(1e-300)[..., None]
    for _ in range(MEDIAN_STEPS):
        weight = 1 / (wide - centre).norm(dim=-1, keepdim=True).clamp_min(least)
        after = (wide * weight).sum(0) / weight.sum(0)
        moved = (after - centre).norm(dim=-1)
        centre = after
        if (moved <= tolerance * rms).all():
            return centre
    raise TrainingError(
        f"The geometric median was not found in {MEDIAN_STEPS} steps; set `centre` to mean."
    )
