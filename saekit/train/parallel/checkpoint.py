"""Checkpoints of several processes: each writes its part, and any number of them reads it.

Parts are written by torch.distributed.checkpoint, into a folder of their own that counts only
once `COMMIT.json`, written last, is in it and the folder has its name. Its `.metadata` is a
pickle of PyTorch's: such a checkpoint is for the run that wrote it. Do not go on from one that
somebody else made. The finished SAE is safetensors, like every other.
"""

import json
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from saekit.activations.shuffle import Stream
from saekit.core import ranks
from saekit.core.errors import FormatError, ResourceError
from saekit.core.files import need_space, read_json, sha256_of, write_json
from saekit.core.parts import new_folder, put_folder
from saekit.core.ranks import Mesh
from saekit.train import checkpoint
from saekit.train.checkpoint import State
from saekit.train.parallel.shards import axis_of
from saekit.train.parallel.streams import is_own

COMMIT = "COMMIT.json"
TURNED = ".turned"  # ends the name of a matrix stored with its axes swapped, as it lies in memory


def write(
    folder: Path, state: State, run: str, mesh: Mesh, keep_step: int | None = None
) -> Path:
    """Write a checkpoint under `folder`: of one process as ever, of several in parts. Collective.

    Kept are the newest two, and that of `keep_step`.

    Raises:
        ResourceError: there is no space; older checkpoints are as they were.
    """
    if mesh.every.size == 1:
        return checkpoint.write(folder, state, run, keep_step)
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.state_dict_saver import save

    target = folder / checkpoint.name_of(state.step)
    part = folder / f".{target.name}.part"
    flat = _flat(state)
    n_bytes = sum(t.nbytes for t in flat.values())

    def begin() -> None:
        need_space(folder, n_bytes * mesh.every.size + 2**20)
        new_folder(part)

    mesh.every.on_first(begin)
    try:
        with ranks.talking():
            save({k: _spread(k, t, mesh) for k, t in flat.items()}, checkpoint_id=part)
    except CheckpointException as error:
        raise ResourceError(
            f"The checkpoint of step {state.step} could not be written: {error}. Older ones are "
            f"whole; free some space and go on from them."
        ) from error
    sums = {p.name: sha256_of(p) for p in part.glob(f"__{mesh.every.rank}_*.distcp")}
    said = [json.loads(t) for t in mesh.every.texts(json.dumps([sums, state.values["stream"]]))]

    def commit() -> None:
        sha256 = {name: s for found, _ in said for name, s in found.items()}
        stream = {key: value for _, found in said for key, value in found.items()}
        write_json(
            part / COMMIT,
            {
                "step": state.step,
                "run": run,
                "sha256": sha256 | {".metadata": sha256_of(part / ".metadata")},
                "values": state.values | {"stream": stream},
                "processes": mesh.every.size,
                "latent_shards": mesh.latent.size,
                "torch": torch.__version__,
            },
        )
        put_folder(part, target)
        checkpoint.drop_old(folder, keep_step)

    mesh.every.on_first(commit)
    return target


def newest(
    folder: Path, run: str, mesh: Mesh, stream: Stream, step: int | None = None
) -> tuple[State | None, list[str]]:
    """Return the newest whole checkpoint, or that of a step, and why newer ones were not taken.

    Collective.

    The first process decides which it is. Of a checkpoint that any number of processes wrote,
    returned is what this one holds: its latents, its streams.

    Raises:
        FormatError: checkpoints are there and all are damaged, or belong to another run.
    """
    found = mesh.every.on_first(lambda: _find(folder, run, step))
    name, complaints = json.loads(mesh.every.texts(json.dumps(found))[0])
    if name is None:
        return None, complaints
    path = folder / name
    if (path / COMMIT).exists():
        return _read_parts(path, mesh, stream), complaints
    return _cut(checkpoint.load(path), mesh), complaints


def _find(folder: Path, run: str, step: int | None) -> tuple[str | None, list[str]]:
    def check(path: Path) -> None:
        if (path / COMMIT).exists():
            checkpoint.check(path, run, COMMIT, "")
        else:
            checkpoint.check(path, run)

    path, complaints = checkpoint.newest_whole(folder, check, step)
    return None if path is None else path.name, complaints


class _Place(NamedTuple):
    """Where a stored tensor belongs."""

    group: str
    name: str
    turned: bool

    @classmethod
    def of(cls, key: str) -> "_Place":
        group, _, name = key.removesuffix(TURNED).partition(".")
        return cls(group, name, key.endswith(TURNED))

    def axis(self, ndim: int) -> int | None:
        """Return along which axis, as stored, latents lie; None where they do not."""
        if ndim == 0 or self.group == "stream":
            return None
        if self.group == "counters":
            return 0
        owner = self.name.rpartition(".")[0] if self.group == "optimiser" else self.name
        axis = axis_of(owner)
        return 1 - axis if self.turned and axis is not None else axis


def _flat(state: State) -> dict[str, Tensor]:
    """Return all tensors by `group.name`, each in the order of its memory."""
    flat = {}
    for group, tensors in state.tensors.items():
        for name, value in tensors.items():
            key, own = f"{group}.{name}", value.detach()
            if own.ndim == 2 and not own.is_contiguous() and own.t().is_contiguous():
                key, own = key + TURNED, own.t()
            flat[key] = own.contiguous()
    return flat


def _spread(key: str, own: Tensor, mesh: Mesh) -> Tensor:
    """Return a tensor that says which part of the whole it is."""
    axis = _Place.of(key).axis(own.ndim)
    if axis is None or mesh.latent.size == 1:
        return own
    from torch.distributed.tensor import DTensor, Replicate, Shard

    return DTensor.from_local(own, mesh.device_mesh, [Replicate(), Shard(axis)], run_check=False)


def _read_parts(path: Path, mesh: Mesh, stream: Stream) -> State:
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.state_dict_loader import load

    manifest = read_json(path / COMMIT)
    reader = FileSystemReader(path)
    wanted: dict[str, Any] = {}
    for key, stored in reader.read_metadata().state_dict_metadata.items():
        place = _Place.of(key)
        if place.group == "stream" and not is_own(stream, place.name):
            continue
        shape = list(stored.size)  # pyright: ignore[reportAttributeAccessIssue]
        axis = place.axis(len(shape))
        if axis is not None:
            shape[axis] //= mesh.latent.size
        dtype = stored.properties.dtype  # pyright: ignore[reportAttributeAccessIssue]
        wanted[key] = _spread(key, torch.empty(shape, dtype=dtype, device=mesh.every.device), mesh)
    try:
        with ranks.talking(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # known
            load(wanted, storage_reader=reader, no_dist=mesh.every.size == 1)
    except CheckpointException as error:
        raise FormatError(f"{path} could not be read: {error}.") from error
    groups: dict[str, dict[str, Tensor]] = {}
    for key, value in wanted.items():
        place = _Place.of(key)
        own = value.to_local() if hasattr(value, "to_local") else value
        own = own.t() if place.turned else own
        groups.setdefault(place.group, {})[place.name] = own.cpu()
    return State(manifest["step"], groups, manifest["values"])


def _cut(state: State, mesh: Mesh) -> State:
    """Return what one process holds of a checkpoint that one alone wrote."""
    if mesh.latent.size == 1:
        return state
    groups: dict[str, dict[str, Tensor]] = {}
    for group, tensors in state.tensors.items():
        groups[group] = {}
        for name, value in tensors.items():
            axis = _Place(group, name, False).axis(value.ndim)
            if axis is not None:
                share = mesh.latent.share(value.shape[axis])
                value = value.narrow(axis, share.start, share.stop - share.start)
            groups[group][name] = value
    return state._replace(tensors=groups)
