"""Norms, measured: what a norm multiplies by and adds, whatever its class calls them."""

import copy
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

_SIZE = 100.0  # of the inputs: next to its square, the epsilon of a norm is nothing
_TOLERANCE = 1e-3


class Affine(NamedTuple):
    """A norm as ``gain * normalised + bias``.

    Args:
        centred: the mean is subtracted first (LayerNorm); else only the length is divided out.
        gain: float32, on the CPU, ``[width]``.
        bias: likewise.
    """

    centred: bool
    gain: Float[Tensor, "width"]
    bias: Float[Tensor, "width"]

    def normalised(self, x: Float[Tensor, "*n width"]) -> Float[Tensor, "*n width"]:
        """Return activations of mean square 1 (and mean 0, if centred): what gain multiplies."""
        return _normalised(x, self.centred)

    def without(self, y: Float[Tensor, "*n width"]) -> Float[Tensor, "*n width"]:
        """Return what the norm gave before it multiplied and added; no gain may be 0."""
        wide = torch.promote_types(y.dtype, torch.float32)
        return ((y.to(wide) - self.bias.to(y.device)) / self.gain.to(y.device)).to(y)

    def again(self, x: Float[Tensor, "*n width"]) -> Float[Tensor, "*n width"]:
        """Return what the norm makes of activations that it has normalised."""
        wide = torch.promote_types(x.dtype, torch.float32)
        return (x.to(wide) * self.gain.to(x.device) + self.bias.to(x.device)).to(x)


@torch.no_grad()
def measure(norm: nn.Module, width: int) -> Affine | None:
    """Return what a norm does, from what it makes of two inputs; None if it is no such norm.

    Classes keep the gain as a weight, as a weight less 1, or have none, so it is measured: 0 gives
    the bias, a known input the gain, and another one must be as both say.

    Args:
        norm: with its weights, which are copied to float32 on the CPU, unless accelerate keeps
            them on disk.
        width: of its input.
    """
    place = torch.arange(width)
    first = _SIZE * (1 - 2 * (place % 2)) * (1 + place / width)
    second = _SIZE * torch.cos(2.4 * place + 1)
    try:
        # Weights that are kept elsewhere come with a pass alone.
        plain: Any = norm if any(p.is_meta for p in norm.parameters()) else _copied(norm)
        bias, one, other, moved = (
            plain(x[None, None])[0, 0].float().cpu()
            for x in (torch.zeros(width), first, second, second + _SIZE)
        )
    except Exception:  # it takes other inputs than activations alone
        return None
    if bias.shape != (width,):
        return None
    centred = bool(torch.allclose(moved, other, rtol=_TOLERANCE, atol=_TOLERANCE))
    first = first - first.mean() if centred else first
    gain = (one - bias) / _normalised(first, centred)
    says = gain * _normalised(second, centred) + bias
    if not says.isfinite().all():
        return None
    error = (says - other).abs().max() / other.abs().max().clamp_min(1e-30)
    return Affine(centred, gain, bias) if error < _TOLERANCE else None


def _copied(norm: nn.Module) -> nn.Module:
    """Return a float32 copy on the CPU without what was hung on the original."""
    found = copy.copy(norm)
    found.__dict__ = dict(norm.__dict__)
    found.__dict__.pop("forward", None)  # hooks of other libraries replace it
    for name in ("_forward_hooks", "_forward_pre_hooks"):
        found.__dict__[name] = type(norm.__dict__[name])()
    found.__dict__["_parameters"] = {
        n: None if p is None else nn.Parameter(p.detach().float().cpu(), requires_grad=False)
        for n, p in norm._parameters.items()
    }
    return found


def _normalised(x: Tensor, centred: bool) -> Tensor:
    x = x - x.mean(-1, keepdim=True) if centred else x
    return x / x.square().mean(-1, keepdim=True).sqrt()
