"""MLPs whose weights never change: at a position they are one linear map of gradients.

A gradient g of what an MLP gives goes back as ((g W_last') * slope) W_first', a gated one's by two
such ways. Done a block of rows at a time, what lies between stays in the cache and is never held.
"""

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from typing_extensions import override

from saekit.models.fast_gradients.linear import (
    fast_products,
    product,
    reuse_of,
    rows_with_something,
    weight_of,
)

BLOCK_ROWS = 256  # that go through an MLP together
# Names of the parts: first layers (of which the second, if any, is not activated), activation
# function, last layer. What is not known stays as it is, its layers frozen one by one.
LAYOUTS = (
    (("gate_proj", "up_proj"), "act_fn", "down_proj"),
    (("dense_h_to_4h",), "act", "dense_4h_to_h"),
    (("c_fc",), "act", "c_proj"),
)


class _Parts(NamedTuple):
    first: tuple[nn.Module, ...]
    activation: nn.Module
    last: nn.Module
    fast: bool

    def product(self, layer: Any, x: Tensor) -> Tensor:
        return product(x, weight_of(layer), layer.bias, self.fast)


def freeze_mlps(module: nn.Module) -> None:
    """Have a frozen model's MLPs go back in blocks; same values, same gradients."""
    fast = fast_products(module)
    for layer in module.modules():
        if not type(layer).__name__.endswith("MLP"):
            continue
        there = dict(layer.named_children())
        dropout = there.pop("dropout", None)  # does nothing in evaluation
        for first, activation, last in LAYOUTS:
            if set(there) == {*first, activation, last}:
                parts = _Parts(tuple(there[n] for n in first), there[activation], there[last], fast)
                own: Any = layer
                own.forward = functools.partial(_forward, own.forward, parts, dropout)


def _forward(plain: Any, parts: _Parts, dropout: Any, x: Tensor) -> Tensor:
    layers = (*parts.first, parts.last)
    thawed = any(p.requires_grad for layer in layers for p in layer.parameters())
    if not torch.is_grad_enabled() or not x.requires_grad or thawed or x.ndim != 3:
        return plain(x)
    if dropout is not None and dropout.training:
        return plain(x)
    if any(layer._forward_hooks or layer._forward_pre_hooks for layer in layers):
        return plain(x)  # what lies between the layers is read or replaced
    return _MLP.apply(x, parts)  # type: ignore[return-value]


class _MLP(torch.autograd.Function):
    @override
    @staticmethod
    def forward(ctx: Any, x: Tensor, parts: _Parts) -> Tensor:
        reuse = reuse_of(x)
        x = reuse.once(x)
        with torch.enable_grad():
            leaf = parts.product(parts.first[0], x).requires_grad_()
            hidden = parts.activation(leaf)
            slope = torch.autograd.grad(hidden, leaf, torch.ones_like(hidden))[0]
        hidden, factors = hidden.detach(), [slope]
        if len(parts.first) == 2:
            other = parts.product(parts.first[1], x)
            factors = [slope.mul_(other), hidden]
            hidden = hidden * other
        dtype = reuse.products.dtype
        ctx.save_for_backward(*(f if dtype is None else f.to(dtype) for f in factors))
        ctx.parts, ctx.reuse = parts, reuse
        return reuse.again(parts.product(parts.last, hidden))

    @override
    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad = grads[0].contiguous()
        shape, reuse = grad.shape, ctx.reuse
        factors = [f.flatten(0, -2) for f in ctx.saved_tensors]  # [windows * n_ctx, hidden]
        flat = grad.view(-1, shape[-1])
        rows = rows_with_something(flat)
        if rows is None:
            d_x = torch.empty_like(flat)
            for part, of in _blocks(shape[0], shape[1], reuse.copies):
                d_x[part] = _pulled(ctx, flat[part], [f[of] for f in factors])
        else:
            d_x = torch.zeros_like(flat)
            of = rows // (reuse.copies * shape[1]) * shape[1] + rows % shape[1]
            if len(rows):
                d_x[rows] = _pulled(ctx, flat[rows], [f[of] for f in factors]).to(flat)
        return d_x.view(shape), None


def _blocks(batch: int, n_ctx: int, copies: int) -> Iterator[tuple[slice, slice]]:
    """Yield rows of gradients, and the positions they are of, which repeat for each copy."""
    if copies == 1:
        batch, n_ctx = 1, batch * n_ctx
    size, together = min(n_ctx, BLOCK_ROWS), max(BLOCK_ROWS // n_ctx, 1)
    for row in range(0, batch, copies):
        for copy in range(0, copies, together):
            many = min(together, copies - copy)
            for place in range(0, n_ctx, size):
                width = min(size, n_ctx - place)
                first, of = (row + copy) * n_ctx + place, row // copies * n_ctx + place
                yield slice(first, first + many * width), slice(of, of + width)


def _pulled(ctx: Any, grad: Tensor, factors: list[Tensor]) -> Tensor:
    """Return gradients of what an MLP reads, for rows of gradients of what it gives."""
    parts, products = ctx.parts, ctx.reuse.products
    hidden = products(grad, weight_of(parts.last), parts.fast)
    hidden = hidden.view(-1, *factors[0].shape)  # rows of several gradients share factors
    ways = [hidden * f for f in factors[1:]]
    found = products(hidden.mul_(factors[0]).flatten(0, 1), weight_of(parts.first[0]), parts.fast)
    for way, layer in zip(ways, parts.first[1:], strict=True):
        found += products(way.flatten(0, 1), weight_of(layer), parts.fast)
    return found
