"""Latents dealt over processes: what each holds, and the whole again."""

import torch
from torch import Tensor

from saekit.core.processes import Group, Mesh
from saekit.saes.base import SAE, SAEConfig
from saekit.training.resample import AXES

SENT_NUMBERS = 2**26  # of each process at once, when the whole is put together


def axis_of(name: str) -> int | None:
    """Return along which axis of a parameter latents lie; None where each process has it all."""
    return AXES.get(name)


def build(cfg: SAEConfig, generator: torch.Generator, mesh: Mesh) -> SAE:
    """Initialise what one process holds: all latents, or its share of them.

    The numbers are those of one process alone.

    Raises:
        ConfigError: latents of this architecture cannot be shared.
    """
    if mesh.latent.size > 1:
        return cfg.build_share(generator, mesh)
    sae = cfg.build(generator)
    for part in sae.modules():
        if isinstance(part, SAE):
            part.mesh = mesh
    return sae


def whole(sae: SAE, mesh: Mesh) -> SAE | None:
    """Return the SAE of all latents, on the CPU of the first process; None on the others.

    Collective. Weights cross in parts, so that no device holds more than its share.
    """
    if mesh.latent.size == 1:
        return sae if mesh.every.first else None
    if not mesh.data.first:
        return None  # the first of the data groups has all that is needed
    found: dict[str, Tensor] = {}
    for name, value in sae.state_dict().items():
        axis = axis_of(name)
        full = value.cpu() if axis is None else _collected(value, axis, mesh.latent)
        if full is not None:
            found[name] = full
    if not mesh.every.first:
        return None
    full = sae.cfg.build(torch.Generator().manual_seed(0))
    full.load_state_dict(found)
    return full


def _collected(value: Tensor, axis: int, group: Group) -> Tensor | None:
    rows = value.movedim(axis, 0)
    height = max(SENT_NUMBERS // max(rows[:1].numel(), 1), 1)
    parts: list[list[Tensor]] = [[] for _ in range(group.size)]
    for piece in rows.split(height):
        got = group.collect(piece)
        for part, new in zip(parts, got or [], strict=False):
            part.append(new.cpu())
    if not group.first:
        return None
    return torch.cat([piece for part in parts for piece in part]).movedim(0, axis)
