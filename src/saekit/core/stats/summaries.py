"""What figures show of many numbers: quartiles, means of equal bins, points brought to one size."""

import torch
from jaxtyping import Float
from torch import Tensor


def quartiles(values: Float[Tensor, "n *columns"]) -> Float[Tensor, "3 *columns"]:
    """Return the lower quartile, the median and the upper quartile over the first axis."""
    at = torch.tensor([0.25, 0.5, 0.75], dtype=values.dtype, device=values.device)
    return torch.quantile(values, at, dim=0)


def equal_bins(
    x: Float[Tensor, "n"], y: Float[Tensor, "n"], bins: int
) -> tuple[list[float], list[float]]:
    """Return the means of x and of y in bins of x that hold equally many values; none is empty."""
    edges = torch.quantile(x, torch.linspace(0, 1, bins + 1, dtype=x.dtype))
    which = torch.bucketize(x, edges[1:-1])
    filled = [which == k for k in range(bins) if (which == k).any()]
    return [float(x[at].mean()) for at in filled], [float(y[at].mean()) for at in filled]


def within_unit(points: Float[Tensor, "n axes"]) -> Float[Tensor, "n axes"]:
    """Return points about their mean, the farthest coordinate at 1."""
    away = points - points.mean(0)
    return away / (float(away.abs().max()) or 1.0)
