"""Dense matrix products by the library that is fast on this processor."""

import torch
from jaxtyping import Float
from torch import Tensor

from saekit.core import machine


def linear(
    x: Float[Tensor, "n d_in"],
    weight: Float[Tensor, "d_out d_in"],
    bias: Float[Tensor, "d_out"] | None = None,
    *,
    out: Float[Tensor, "n d_out"] | None = None,
) -> Float[Tensor, "n d_out"]:
    """Return ``x @ weight.T + bias``, without a graph.

    Args:
        x: rows.
        weight: rows.
        bias: of each column of the result.
        out: memory for the result, used where the library can.
    """
    if machine.onednn_float32() and x.dtype == torch.float32 and x.device.type == "cpu":
        op = torch.ops.mkldnn._linear_pointwise
        return op(x, weight, bias, "none", [], "")
    if bias is None:
        return torch.mm(x, weight.t(), out=out)
    return torch.addmm(bias, x, weight.t(), out=out)


def matmul(a: Float[Tensor, "n m"], b: Float[Tensor, "m p"]) -> Float[Tensor, "n p"]:
    """Return ``a @ b`` without a graph, whichever way the two are stored."""
    return linear(a, b.t())
