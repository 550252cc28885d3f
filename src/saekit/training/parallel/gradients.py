"""Gradients of several processes as those of one."""

import torch
from torch import Tensor, nn

from saekit.core.processes import Group, Mesh
from saekit.training.parallel.shards import axis_of


@torch.no_grad()
def average(module: nn.Module, group: Group) -> None:
    """Replace gradients by their means over processes that saw other rows.

    They are summed in place, in the order of their memory; nothing of their size is made.
    """
    if group.size == 1:
        return
    parts = []
    for parameter in module.parameters():
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        if not _as_stored(parameter.grad).is_contiguous():  # optimisers want the parameter's order
            parameter.grad = torch.empty_like(parameter).copy_(parameter.grad)
        parts.append(_as_stored(parameter.grad))
    group.add_in_place(parts, 1 / group.size)


def _as_stored(grad: Tensor) -> Tensor:
    """Return a view whose axes are in the order of memory."""
    return grad.permute(sorted(range(grad.ndim), key=lambda axis: -grad.stride(axis)))


@torch.no_grad()
def clip(module: nn.Module, longest: float, mesh: Mesh) -> None:
    """Shorten gradients, those of all latents together, to a norm.

    Latents of other processes count by their sum of squares; what every process has, once.
    """
    if mesh.latent.size == 1:
        _clip_whole([p.grad for p in module.parameters() if p.grad is not None], longest)
        return
    grads = {n: p.grad for n, p in module.named_parameters() if p.grad is not None}
    shared = [g for n, g in grads.items() if axis_of(n) is not None]
    whole = [g for n, g in grads.items() if axis_of(n) is None]
    total = (mesh.latent.sum(_squares(shared)) + _squares(whole)).sqrt()
    share = (longest / (total + 1e-6)).clamp(max=1.0)
    for grad in grads.values():
        grad.mul_(share)


def _clip_whole(grads: list[Tensor], longest: float) -> None:
    total = torch.nn.utils.get_total_norm(grads)
    share = longest / (total + 1e-6)
    if share.device.type == "cpu" and share >= 1:
        return  # a factor of 1 is a pass over all of them
    share = share.clamp(max=1.0)
    for grad in grads:
        grad.mul_(share)


def _squares(grads: list[Tensor]) -> Tensor:
    return torch.stack([g.norm().square() for g in grads] or [torch.zeros(())]).sum()
