"""The mesh of a training, and what of a run has to fit it."""

import os

from saekit.core.errors import ConfigError
from saekit.core.processes import ALONE, Group, Mesh, world
from saekit.training.fit import Fit
from saekit.training.memory import Plan

SHARED_BY_LATENT = (
    "weights",
    "gradients",
    "moments",
    "mean weights",
    "rounded weights",
    "scores",
    "dense codes",
)
SHARED_BY_ROW = ("batch", "dense codes")


def open_mesh(latent_shards: int = 1) -> Mesh:
    """Return the mesh of the processes of the session: neighbours share latents.

    Collective: every process must call it with the same number.

    Args:
        latent_shards: processes over which the latents of an SAE are dealt.

    Raises:
        ConfigError: the processes cannot be dealt so.
    """
    everyone = world()
    if latent_shards < 1 or everyone.size % latent_shards:
        raise ConfigError(
            f"`latent_shards` must divide the processes; got latent_shards={latent_shards} and "
            f"{everyone.size} of them. Start more: torchrun --standalone --nproc-per-node "
            f"{max(latent_shards, 1)} -m saekit train ..."
        )
    if everyone.size == 1:
        return ALONE
    from torch.distributed.device_mesh import init_device_mesh

    shape = (everyone.size // latent_shards, latent_shards)
    mesh = init_device_mesh(everyone.device.type, shape, mesh_dim_names=("data", "latent"))

    def of(axis: str) -> Group:
        handle = mesh.get_group(axis)
        return Group(mesh.get_local_rank(axis), handle.size(), handle, everyone.device)

    return Mesh(of("data"), of("latent"), everyone, mesh)


def check_fits(fit: Fit, mesh: Mesh) -> None:
    """Refuse what several processes cannot train as one would.

    Raises:
        ConfigError: a setting needs all latents, or all rows, in one place.
    """
    shards = mesh.latent.size
    if fit.sae.d_sae % shards:
        raise ConfigError(
            f"`d_sae` must be a multiple of latent_shards; got d_sae={fit.sae.d_sae}, "
            f"latent_shards={shards}."
        )
    if mesh.every.size > 1 and fit.resample is not None:
        raise ConfigError(
            f"`resample` draws from the rows of one process; got {mesh.every.size} processes. Set "
            f"it to null; `topk` and `batch_topk` revive dead latents by their auxiliary loss."
        )
    if shards > 1 and fit.optimiser.kind == "muon":
        raise ConfigError(
            "`muon` turns whole matrices, of which a process has a part; got latent_shards="
            f"{shards}. Use optimiser.kind adam, adamw, signum or schedule_free."
        )


def plan_of_one(planned: Plan, mesh: Mesh, streams: int) -> Plan:
    """Return what one process holds of what one alone would.

    Args:
        planned: of the whole run.
        mesh: the processes.
        streams: parts of the text, each with its part of the buffer.
    """
    parts = dict(planned.parts)
    for name in parts:
        parts[name] //= mesh.latent.size if name in SHARED_BY_LATENT else 1
        parts[name] //= mesh.data.size if name in SHARED_BY_ROW else 1
    if "activations" in parts:
        parts["activations"] //= min(streams, mesh.every.size)
    on_cpu = mesh.every.device.type == "cpu"
    free = planned.free
    if free is not None and on_cpu:  # shared with the other processes of this machine
        free //= int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return Plan(parts, free)
