"""Linear layers whose weights never change: gradients of their inputs alone, as fast as here.

A latent at one position has a gradient that is 0 at all others until attention spreads it; such
rows are not multiplied. Where a batch holds each row several times, so that one pass gives as
many gradients of it, what the graph keeps is worked out and kept once (`Reuse`).
"""

import contextlib
import functools
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from typing_extensions import override

from saekit.core import machine

SPARSE_ROWS = 0.5  # where fewer rows than this share are not 0, only they are multiplied
MATMULS = ("float32", "bfloat16")
PACKED_ROWS = 1024  # the number of rows that packed weights are laid out for; others work too


class Products:
    """Products of gradients with weights, of which each is packed once for many of them.

    Args:
        matmul: "float32" is the model's own precision; in "bfloat16" gradients and weights are
            rounded before they are multiplied, and the product after.
        room_bytes: for weights in the order that the product reads; those beyond it are
            multiplied as they lie.
    """

    def __init__(self, matmul: str = "float32", room_bytes: int = 0):
        self.matmul, self.room_bytes = matmul, room_bytes
        self.packed: dict[tuple[int, ...], Tensor] = {}

    @property
    def dtype(self) -> torch.dtype | None:
        """What products are in; None: what the gradients are in."""
        return torch.bfloat16 if self.matmul == "bfloat16" else None

    def __call__(self, grad: Tensor, weight: Tensor, fast: bool) -> Tensor:
        """Return ``grad @ weight``, ``[n, in]``, for a weight ``[out, in]``."""
        if self.dtype is not None:
            fast = machine.bfloat16_products() and grad.device.type == "cpu"
            grad = grad.to(self.dtype)
        key = (weight.data_ptr(), *weight.stride())
        if (found := self.packed.get(key)) is None:
            found = weight.to(self.dtype or weight.dtype).t()
            n_bytes = weight.numel() * found.element_size()
            if n_bytes <= self.room_bytes and (fast or self.dtype is not None):
                if fast:
                    found = torch.ops.mkldnn._reorder_linear_weight(found.contiguous(), PACKED_ROWS)
                self.packed[key] = found
                self.room_bytes -= n_bytes
        return product(grad, found, None, fast)


class Reuse(NamedTuple):
    """How passes of gradients reuse what one has.

    Args:
        rows: of the batch; layers that get another number take no notice.
        copies: the batch holds each row so many times, one after another.
        products: of gradients.
    """

    rows: int = 0
    copies: int = 1
    products: Products = Products()  # noqa: RUF012 - without room it keeps nothing

    def once(self, x: Tensor) -> Tensor:
        """Return each row of a batch once."""
        return x[:: self.copies] if self.copies > 1 else x

    def again(self, y: Tensor) -> Tensor:
        """Return what was made of rows taken once, as often as the batch holds them."""
        return y.repeat_interleave(self.copies, 0) if self.copies > 1 else y


_state = threading.local()


@contextlib.contextmanager
def reusing(reuse: Reuse) -> Iterator[None]:
    """Within it, graphs of frozen models are made for such passes."""
    _state.reuse = reuse
    try:
        yield
    finally:
        del _state.reuse


def reuse_of(x: Tensor) -> Reuse:
    """Return how what is made of a batch can be reused."""
    found = getattr(_state, "reuse", None) or Reuse()
    return found if len(x) == found.rows else found._replace(copies=1)


def freeze_linears(module: nn.Module) -> None:
    """Have a frozen model's linear layers use these products; same weights, same sums."""
    fast = fast_products(module)
    for layer in module.modules():
        own: Any = layer
        if type(layer) is nn.Linear:
            own.forward = functools.partial(_forward, layer, None, fast)
        elif _is_turned(layer):
            own.forward = functools.partial(_forward, layer, own.forward, fast)


def fast_products(module: nn.Module) -> bool:
    """Return whether a model's products are for oneDNN."""
    weight = next(module.parameters())
    plain = weight.device.type == "cpu" and weight.dtype == torch.float32
    return plain and machine.onednn_float32()


def _forward(layer: Any, plain: Any, fast: bool, x: Tensor) -> Tensor:
    weight = weight_of(layer)
    thawed = any(p.requires_grad for p in layer.parameters())
    if torch.is_grad_enabled() and (x.requires_grad or thawed):
        if thawed:
            return nn.functional.linear(x, weight, layer.bias)
        return _Linear.apply(x, weight, layer.bias, fast)  # type: ignore[return-value]
    if not fast or plain is not None:
        return nn.functional.linear(x, weight, layer.bias) if plain is None else plain(x)
    return product(x, weight, layer.bias, fast)


def weight_of(layer: Any) -> Tensor:
    """Return the weight of a linear layer, ``[out, in]``."""
    return layer.weight.t() if _is_turned(layer) else layer.weight


def _is_turned(layer: nn.Module) -> bool:
    """Tell GPT-2's linear layers, which hold their weight as ``[in, out]``."""
    return type(layer).__name__ == "Conv1D"


def product(x: Tensor, weight: Tensor, bias: Tensor | None, fast: bool) -> Tensor:
    """Return ``x @ weight.t() + bias``."""
    if not fast:
        return nn.functional.linear(x, weight, bias)
    flat = x.reshape(-1, x.shape[-1])
    op = torch.ops.mkldnn._linear_pointwise
    return op(flat, weight, bias, "none", [], "").view(*x.shape[:-1], -1)


class _Linear(torch.autograd.Function):
    @override
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, fast: bool) -> Tensor:
        reuse = reuse_of(x)
        ctx.weight, ctx.fast = weight, fast  # not saved: no gradient of theirs is wanted
        ctx.products = reuse.products
        return reuse.again(product(reuse.once(x), weight, bias, fast))

    @override
    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad, weight = grads[0], ctx.weight
        flat = grad.reshape(-1, grad.shape[-1])
        rows = rows_with_something(flat)
        if rows is None:
            d_x = ctx.products(flat, weight, ctx.fast).to(grad.dtype)
        else:
            d_x = flat.new_zeros(len(flat), weight.shape[1])
            if len(rows):
                d_x[rows] = ctx.products(flat[rows], weight, ctx.fast).to(grad.dtype)
        return d_x.view(*grad.shape[:-1], -1), None, None, None


def rows_with_something(grad: Tensor) -> Tensor | None:
    """Return which rows are not 0, where they are few; None where they are not."""
    if grad.device.type != "cpu" or grad.shape[-1] < 1:  # finding them would wait for the device
        return None
    # One column tells most dense gradients at once; only what may be sparse is read in full.
    if int(grad[:, 0].count_nonzero()) >= SPARSE_ROWS * len(grad):
        return None
    rows = ((grad.amax(-1) != 0) | (grad.amin(-1) != 0)).nonzero().squeeze(-1)  # NaN is something
    return rows if len(rows) < SPARSE_ROWS * len(grad) else None
