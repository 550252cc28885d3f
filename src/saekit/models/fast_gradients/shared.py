"""What many gradients through one graph share, worked out once, in the forward pass.

A graph that one pass of seeds after another goes back through needs the derivative of each
activation function and the weights of each attention once; plain autograd takes them anew for
every seed.
"""

import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode
from typing_extensions import override

from saekit.models.fast_gradients.linear import reuse_of

ACTIVATIONS = (nn.GELU, nn.SiLU, nn.ReLU, nn.Tanh)
KNOWN = {"attn_mask", "dropout_p", "scale", "is_causal", "enable_gqa"}
KEPT_TOKENS = 256  # up to this context attention weights are kept: they grow with its square


def freeze_activations(module: nn.Module) -> None:
    """Have a model's activation functions keep their derivative; same values, same gradients."""
    for layer in module.modules():
        own: Any = layer
        known = type(layer).__module__ == "transformers.activations" or type(layer) in ACTIVATIONS
        if known and not list(layer.parameters()):
            own.forward = functools.partial(_activated, own.forward)


def _activated(plain: Any, x: Tensor) -> Tensor:
    if torch.is_grad_enabled() and x.requires_grad:
        return _Elementwise.apply(x, plain)  # type: ignore[return-value]
    return plain(x)


class _Elementwise(torch.autograd.Function):
    @override
    @staticmethod
    def forward(ctx: Any, x: Tensor, plain: Any) -> Tensor:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            y = plain(leaf)
            slope = torch.autograd.grad(y, leaf, torch.ones_like(y))[0]
        ctx.save_for_backward(slope)
        return y.detach()

    @override
    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return grads[0] * ctx.saved_tensors[0], None


class SharedAttention(TorchFunctionMode):
    """Within it, causal attention over short rows on a CPU keeps its weights for the gradient."""

    @override
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is nn.functional.scaled_dot_product_attention and _fits(*args, **kwargs):
            query, key, value = args[:3]
            return _Attention.apply(query, key, value, kwargs.get("scale"))
        return func(*args, **kwargs)


def _fits(query: Tensor, *others: Any, **how: Any) -> bool:
    if len(others) != 2 or set(how) - KNOWN or query.dtype not in (torch.float32, torch.float64):
        return False
    plain = how.get("attn_mask") is None and not how.get("dropout_p") and how.get("is_causal")
    return bool(
        plain
        and torch.is_grad_enabled()
        and query.requires_grad
        and query.ndim == 4
        and query.device.type == "cpu"
        and query.shape[-2] == others[0].shape[-2] <= KEPT_TOKENS
    )


class _Attention(torch.autograd.Function):
    """softmax(q k' scale) v, causal; keys and values may serve several heads of queries."""

    @override
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Tensor:
        ctx.scale = q.shape[-1] ** -0.5 if scale is None else scale
        reuse = reuse_of(q)
        q, k, v = (reuse.once(x) for x in (q, k, v))
        groups = q.shape[1] // k.shape[1]
        k, v = (x.repeat_interleave(groups, 1) if groups > 1 else x for x in (k, v))
        seen = torch.ones(q.shape[-2], q.shape[-2], dtype=torch.bool).tril()
        weights = (q @ k.mT).mul_(ctx.scale).masked_fill_(~seen, -torch.inf).softmax(-1)
        ctx.groups, ctx.copies, dtype = groups, reuse.copies, reuse.products.dtype
        ctx.save_for_backward(*(x.to(dtype or x.dtype).contiguous() for x in (q, k, v, weights)))
        return reuse.again(weights @ v)

    @override
    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, weights = ctx.saved_tensors  # [windows, heads, n_ctx, ...], the same for copies
        d_out = grads[0].unflatten(0, (-1, ctx.copies)).transpose(1, 2).to(q.dtype).contiguous()
        d_v = weights.mT[:, :, None] @ d_out
        weights = weights[:, :, None]
        d_scores = (d_out.flatten(2, 3) @ v.mT).unflatten(2, d_out.shape[2:4]).mul_(weights)
        d_scores.addcmul_(weights, d_scores.sum(-1, keepdim=True), value=-1).mul_(ctx.scale)
        d_q = (d_scores.flatten(2, 3) @ k).view(d_out.shape)
        found = (d_q, d_scores.mT @ q[:, :, None], d_v)
        d_q, d_k, d_v = (x.transpose(1, 2).flatten(0, 1).to(grads[0].dtype) for x in found)
        if ctx.groups > 1:
            d_k, d_v = (x.unflatten(1, (-1, ctx.groups)).sum(2) for x in (d_k, d_v))
        return d_q, d_k, d_v, None
