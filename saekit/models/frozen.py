"""Linear layers whose weights never change: gradients of their inputs alone, as fast as here.

A latent at one position has a gradient that is 0 at all others until attention spreads it; such
rows are not multiplied.
"""

import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from typing_extensions import override

from saekit.core import machine

SPARSE_ROWS = 0.5  # where fewer rows than this share are not 0, only they are multiplied


def freeze_linears(module: nn.Module) -> None:
    """Have a frozen model's linear layers use these products; same weights, same sums."""
    fast = machine.onednn_float32() and _on_cpu_in_float32(module)
    for layer in module.modules():
        own: Any = layer
        if type(layer) is nn.Linear:
            own.forward = functools.partial(_forward, layer, None, fast)
        elif type(layer).__name__ == "Conv1D":  # GPT-2's: the weight is [in, out]
            own.forward = functools.partial(_forward, layer, own.forward, fast)


def _on_cpu_in_float32(module: nn.Module) -> bool:
    weight = next(module.parameters())
    return weight.device.type == "cpu" and weight.dtype == torch.float32


def _forward(layer: Any, plain: Any, fast: bool, x: Tensor) -> Tensor:
    weight = layer.weight if plain is None else layer.weight.t()  # [out, in]
    thawed = any(p.requires_grad for p in layer.parameters())
    if torch.is_grad_enabled() and (x.requires_grad or thawed):
        if thawed:
            return nn.functional.linear(x, weight, layer.bias)
        return _Linear.apply(x, weight, layer.bias, fast)  # type: ignore[return-value]
    if not fast or plain is not None:
        return nn.functional.linear(x, weight, layer.bias) if plain is None else plain(x)
    return _product(x, weight, layer.bias, fast)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None, fast: bool) -> Tensor:
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
        ctx.weight, ctx.fast = weight, fast  # not saved: no gradient of theirs is wanted
        return _product(x, weight, bias, fast)

    @override
    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad, weight = grads[0], ctx.weight
        flat = grad.reshape(-1, grad.shape[-1])
        rows = _rows_with_something(flat)
        if rows is None:
            d_x = _product(flat, weight.t(), None, ctx.fast)
        else:
            d_x = flat.new_zeros(len(flat), weight.shape[1])
            if len(rows):
                d_x[rows] = _product(flat[rows], weight.t(), None, ctx.fast)
        return d_x.view(*grad.shape[:-1], -1), None, None, None


def _rows_with_something(grad: Tensor) -> Tensor | None:
    """Return which rows are not 0, where they are few; None where they are not."""
    if grad.device.type != "cpu" or grad.shape[-1] < 1:  # finding them would wait for the device
        return None
    # One column tells most dense gradients at once; only what may be sparse is read in full.
    if int(grad[:, 0].count_nonzero()) >= SPARSE_ROWS * len(grad):
        return None
    rows = grad.any(-1).nonzero().squeeze(-1)
    return rows if len(rows) < SPARSE_ROWS * len(grad) else None
