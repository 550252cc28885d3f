"""Checkpoints of several processes: each writes its part, and any number of them reads it.

A part is a safetensors file, in a folder that counts only once `COMMIT.json`, written last, is in
it and the folder has its name. Latents are dealt over the processes of a latent group: their parts
along the axis of latents follow each other in its order. What all hold the first writes, and what
belongs to a stream of text the first of those who read that stream.
"""

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from saekit.activations.shuffle import Stream
from saekit.core.border import inside, ordinary, reading
from saekit.core.errors import FormatError, ResourceError
from saekit.core.files import need_space, read_object, sha256_of, write_json, write_tensors
from saekit.core.parts import new_folder, put_folder
from saekit.core.processes import Mesh
from saekit.training import checkpoint
from saekit.training.checkpoint import State
from saekit.training.parallel.shards import axis_of
from saekit.training.parallel.streams import is_own

COMMIT = "COMMIT.json"
TURNED = ".turned"  # ends the name of a matrix stored with its axes swapped, as it lies in memory


def write(folder: Path, state: State, run: str, mesh: Mesh, keep_step: int | None = None) -> Path:
    """Write a checkpoint under `folder`: of one process as ever, of several in parts. Collective.

    Kept are the newest two, and that of `keep_step`.

    Raises:
        ResourceError: there is no space; older checkpoints are as they were.
    """
    if mesh.every.size == 1:
        return checkpoint.write(folder, state, run, keep_step)
    target = folder / checkpoint.name_of(state.step)
    part = folder / f".{target.name}.part"
    own = {k: t for k, t in _flat(state).items() if _is_written(_Place.of(k), t.ndim, mesh)}
    n_bytes = sum(t.nbytes for t in own.values())

    def begin() -> None:
        need_space(folder, n_bytes * mesh.every.size + 2**20)
        new_folder(part)

    mesh.every.on_first(begin)
    file = part / f"part-{mesh.every.rank:05d}.safetensors"
    record = {"file": file.name, "latent": mesh.latent.rank, "stream": state.values["stream"]}
    try:
        write_tensors(file, own)
        record["sha256"] = sha256_of(file)
    except ResourceError as error:
        record["failed"] = str(error)
    records = [json.loads(t) for t in mesh.every.texts(json.dumps(record))]
    if failed := [r["failed"] for r in records if "failed" in r]:
        raise ResourceError(
            f"The checkpoint of step {state.step} could not be written: {failed[0]} Older ones "
            f"are whole; free some space and go on from them."
        )

    def commit() -> None:
        stream = {key: value for r in records for key, value in r["stream"].items()}
        write_json(
            part / COMMIT,
            {
                "step": state.step,
                "run": run,
                "sha256": {r["file"]: r["sha256"] for r in records},
                "latent": {r["file"]: r["latent"] for r in records},
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


def _is_written(place: "_Place", ndim: int, mesh: Mesh) -> bool:
    """Tell whether this process is the one that writes a tensor, or its latents of it."""
    if place.group == "stream":  # a state holds only the streams that its process answers for
        return True
    return mesh.every.first if place.axis(ndim) is None else mesh.data.first


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
            if "latent" not in read_object(path / COMMIT):
                raise FormatError(
                    f"{path.name} was written by an older saekit in a form of PyTorch's that runs "
                    f"what is in it. Finish the run with the version that began it."
                )
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
        if ndim == 0 or self.group in ("stream", "batches"):
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


def _read_parts(path: Path, mesh: Mesh, stream: Stream) -> State:
    """Return what this process holds of the checkpoint in a folder, which `check` let pass."""
    from safetensors import safe_open

    groups: dict[str, dict[str, Tensor]] = {}
    with reading(path, "a checkpoint"), contextlib.ExitStack() as stack:
        manifest = read_object(path / COMMIT)
        opened: list[Any] = []
        for name in sorted(manifest["sha256"], key=lambda n: manifest["latent"][n]):
            ordinary(inside(path, name))
            opened.append(stack.enter_context(safe_open(path / name, framework="pt")))
        holders: dict[str, list[Any]] = {}
        for part in opened:
            names = part.keys()
            for key in names:
                holders.setdefault(key, []).append(part)
        for key, parts in holders.items():
            place = _Place.of(key)
            if place.group == "stream" and not is_own(stream, place.name):
                continue
            own = _joined(key, parts, mesh)
            own = own.t() if place.turned else own
            groups.setdefault(place.group, {})[place.name] = own
        return State(manifest["step"], groups, manifest["values"])


def _joined(key: str, parts: Sequence[Any], mesh: Mesh) -> Tensor:
    """Return the latents of this process from parts that follow each other; or all, of no axis."""
    shape = parts[0].get_slice(key).get_shape()
    axis = _Place.of(key).axis(len(shape))
    if axis is None:
        return parts[0].get_tensor(key)
    slices = [part.get_slice(key) for part in parts]
    sizes = [one.get_shape()[axis] for one in slices]
    share = mesh.latent.share(sum(sizes))
    pieces, first = [], 0
    for one, size in zip(slices, sizes, strict=True):
        a, b = max(share.start - first, 0), min(share.stop - first, size)
        if a < b:
            pieces.append(one[a:b] if axis == 0 else one[:, a:b])
        first += size
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, axis)


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
