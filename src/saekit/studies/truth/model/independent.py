"""Independent firing: sparse positions of Bernoulli trials, at a cost per firing."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

Entries = tuple[Int[Tensor, "m"], Int[Tensor, "m"]]  # rows and features, ordered by both


def bernoulli(
    rates: Float[Tensor, "n_features"], n_rows: int, generator: torch.Generator
) -> Entries:
    """Return where independent trials come true, without touching those that do not.

    Trial (row, j) is a cell of length -ln(1 - p_j) on a line; a Poisson process of rate 1
    leaves a cell empty with probability 1 - p_j, independently of all others. Its points are
    running sums of exponentials, so they come in the order of rows and features.

    Args:
        rates: p, in [0, 1], float64.
        n_rows: trials of each feature.
        generator: source of chance, on the device of `rates`.

    Returns:
        Rows and features of the trials that came true, int64, ordered, none twice.

    Source:
        The Poisson process on a line; exact, not a thin-rate approximation.
    """
    # a certain trial would be an endless cell; one miss in 1e9 stands for none
    ends = torch.cumsum(-torch.log1p(-rates.clamp_max(1 - 1e-9)), 0)  # [n_features], of a row
    height = float(ends[-1]) if len(ends) else 0.0
    points = _arrivals(height * n_rows, generator, rates.device)
    rows = torch.div(points, height, rounding_mode="floor") if height else points
    # rounding may put a point at the very end of a row into the next
    within = (points - rows * height).clamp_(0, math.nextafter(height, 0))
    features = torch.searchsorted(ends, within, right=True)
    keys = rows.long().clamp_max_(n_rows - 1) * len(rates) + features
    keys = torch.unique_consecutive(keys)
    rows = torch.div(keys, max(len(rates), 1), rounding_mode="floor")
    return rows, keys - rows * len(rates)


def _arrivals(
    length: float, generator: torch.Generator, device: torch.device
) -> Float[Tensor, "m"]:
    """Return the points of a rate-1 Poisson process on [0, length), ordered, float64."""
    parts, reached = [], 0.0
    while reached < length:
        left = length - reached
        some = int(left + 6 * math.sqrt(left) + 16)
        gaps = torch.empty(some, dtype=torch.float64, device=device)
        gaps.exponential_(generator=generator)
        parts.append(gaps.cumsum_(0) + reached)
        reached = float(parts[-1][-1])
    if not parts:
        return torch.empty(0, dtype=torch.float64, device=device)
    points = torch.cat(parts)
    return points[: int(torch.searchsorted(points, length))]
