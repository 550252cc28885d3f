"""Nearest: the directions of another dictionary that are most alike, for each of one, in blocks.

Never a table of all pairs: memory is that of `CHUNK` cosines and of what is returned.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saekit.core.errors import DataError, ShapeError
from saekit.core.finite import all_finite

CHUNK = 2**25  # cosines held at once


class Nearest(NamedTuple):
    """The k largest cosines of each row with another dictionary, and the best of each column."""

    columns: Int[Tensor, "n k"]  # the nearest first; of ties the order is not fixed beyond it
    cosines: Float[Tensor, "n k"]
    back: Int[Tensor, "m"]  # the row nearest to each column, of ties the lowest
    back_cosines: Float[Tensor, "m"]


def unit(directions: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Return directions at length 1 in float32; one without a length stays 0.

    Raises:
        DataError: one is not of finite numbers, or too long for float32.
    """
    rows = directions.detach().float()
    if not all_finite(lengths := torch.linalg.vector_norm(rows, dim=1)):
        row = int((~lengths.isfinite()).nonzero()[0])
        raise DataError(
            f"Direction {row} has no finite length: it has NaN or infinite numbers, or numbers "
            f"above 1e38. The SAE is damaged: load or train it again."
        )
    return torch.nn.functional.normalize(rows, dim=1)


def check_widths(one: Float[Tensor, "n d"], other: Float[Tensor, "m width"]) -> None:
    """Refuse dictionaries whose directions have nothing to do with each other.

    Raises:
        ShapeError: widths differ.
    """
    if one.shape[1] != other.shape[1]:
        raise ShapeError(
            f"Directions are {one.shape[1]} wide and those of the other SAE {other.shape[1]}. "
            f"Compare SAEs of one site of one model."
        )


def nearest(
    directions: Float[Tensor, "n d"], others: Float[Tensor, "m width"], k: int = 1
) -> Nearest:
    """Return the k most similar directions of another dictionary for each of one, and back.

    Cosines keep their sign. A row without a length has cosine 0 with everything.

    Args:
        directions: of one dictionary, at least one.
        others: of another, at least one; where they are decides where cosines are computed.
        k: how many, at most as many as there are others.

    Raises:
        ShapeError: widths differ.
    """
    check_widths(directions, others)
    one, other = unit(directions), unit(others)
    n, m = len(one), len(other)
    k = min(k, m)
    back = torch.full((m,), -2.0, device=other.device)
    back_at = torch.zeros(m, dtype=torch.int64, device=other.device)
    columns, cosines = torch.empty(n, k, dtype=torch.int64), torch.empty(n, k)
    step = max(1, min(CHUNK // m, n))
    # In one place: blocks this large that come and go are not always given back.
    place = one.new_empty(step, m, device=other.device)
    for begin in range(0, n, step):
        part = one[begin : begin + step].to(other.device)
        cosine = torch.matmul(part, other.T, out=place[: len(part)]).clamp_(-1, 1)
        found = cosine.max(1, keepdim=True) if k == 1 else cosine.topk(k, dim=1)
        columns[begin : begin + step], cosines[begin : begin + step] = (
            found.indices.cpu(),
            found.values.cpu(),
        )
        up = cosine.amax(0)  # places only of those that rise: torch is slow at them down columns
        better = (up > back).nonzero()[:, 0]
        back[better] = up[better]
        back_at[better] = cosine[:, better].argmax(0) + begin
    return Nearest(columns, cosines, back_at.cpu(), back.cpu())
