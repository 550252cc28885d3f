"""Checkpoints: everything a run needs to go on as if it had not stopped, or nothing."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from saekit.core import parts
from saekit.core.border import inside, reading
from saekit.core.errors import FormatError
from saekit.core.files import (
    digest,
    need_space,
    read_object,
    read_tensors,
    sha256_of,
    write_json,
    write_tensors,
)

MANIFEST, ENDING = "checkpoint.json", ".safetensors"
KEPT = 2  # the newest, and the one before in case the newest is damaged
LEAST_BETWEEN = 50  # times what a checkpoint takes to write, so that all take 2 % at most


class State(NamedTuple):
    """What a checkpoint holds."""

    step: int
    tensors: dict[str, dict[str, Tensor]]  # group ("weights", "optimiser", ...) to tensors
    values: dict[str, Any]  # JSON-ready


class Clock:
    """Tells when a checkpoint is due by time.

    Args:
        minutes: between checkpoints; infinite: never due.
    """

    def __init__(self, minutes: float):
        self._least = 60 * minutes
        self._next = time.monotonic() + self._least

    @property
    def due(self) -> bool:
        """Time is up."""
        return time.monotonic() >= self._next

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Within this a checkpoint is written; the next is due by how long that takes."""
        began = time.monotonic()
        yield
        ended = time.monotonic()
        self._next = ended + max(self._least, LEAST_BETWEEN * (ended - began))


def run_digest(run: dict[str, Any]) -> str:
    """Return the identity of a run's description: a checkpoint belongs to one."""
    return digest([str(sorted(_flat(run).items()))])


def write(folder: Path, state: State, run: str, keep_step: int | None = None) -> Path:
    """Write a checkpoint under `folder` and drop all but the newest two, and that of a step.

    The files go to a folder with another name, which is renamed when they are whole.

    Raises:
        ResourceError: there is no space; older checkpoints are as they were.
    """
    n_bytes = sum(t.nbytes for group in state.tensors.values() for t in group.values())
    need_space(folder, n_bytes + 2**20)
    target = folder / name_of(state.step)
    part = parts.new_folder(parts.part_of(target))
    try:
        sums = {}
        for group, tensors in state.tensors.items():
            write_tensors(part / f"{group}{ENDING}", tensors)
            sums[group] = sha256_of(part / f"{group}{ENDING}")
        manifest = {"step": state.step, "run": run, "sha256": sums, "values": state.values}
        write_json(part / MANIFEST, manifest)
        parts.put_folder(part, target)
    finally:
        parts.remove(part)
    drop_old(folder, keep_step)
    return target


def drop_old(folder: Path, *keep_steps: int | None) -> None:
    """Delete all checkpoints but the newest two, and those of some steps."""
    kept = {name_of(step) for step in keep_steps if step is not None}
    for old in steps(folder)[:-KEPT]:
        if old.name not in kept:
            parts.discard(old)


def steps(folder: Path, step: int | None = None) -> list[Path]:
    """Return the checkpoints under a folder, oldest first; of one step, where it is named."""
    return sorted(folder.glob("step-*" if step is None else name_of(step)))


def name_of(step: int) -> str:
    """Return the name of the folder of a step's checkpoint."""
    return f"step-{step:09d}"


def newest(folder: Path, run: str, step: int | None = None) -> tuple[State | None, list[str]]:
    """Return the newest checkpoint that is whole, and why newer ones were passed over.

    Args:
        folder: of checkpoints.
        run: see `run_digest`.
        step: only the checkpoint of this step will do.

    Raises:
        FormatError: checkpoints are there and all are damaged, or belong to another run.
    """
    path, complaints = newest_whole(folder, lambda path: check(path, run), step)
    return None if path is None else load(path), complaints


def newest_whole(
    folder: Path, check: Callable[[Path], None], step: int | None = None
) -> tuple[Path | None, list[str]]:
    """Return the newest checkpoint that `check` does not refuse, and why newer ones were.

    Raises:
        FormatError: checkpoints are there and all were refused.
    """
    complaints: list[str] = []
    for path in reversed(steps(folder, step)):
        try:
            check(path)
        except FormatError as error:
            complaints.append(str(error))
        else:
            return path, complaints
    if complaints:
        raise FormatError(
            f"No checkpoint under {folder} can be used: {' '.join(complaints)} "
            f"Train anew into another folder."
        )
    return None, []


def check(path: Path, run: str, manifest: str = MANIFEST, ending: str = ENDING) -> None:
    """Refuse a checkpoint that is damaged or belongs to another run; nothing is loaded.

    Args:
        path: of the checkpoint.
        run: see `run_digest`.
        manifest: name of the file that has the digests of the others.
        ending: of their names, where the manifest leaves it out.

    Raises:
        FormatError: it is.
    """
    with reading(path, "a checkpoint"):
        _check(path, run, manifest, ending)


def _check(path: Path, run: str, manifest: str, ending: str) -> None:
    said = read_object(path / manifest)
    if said["run"] != run:
        raise FormatError(f"{path.name} belongs to a run with other settings.")
    for name, expected in said["sha256"].items():
        file = inside(path, f"{name}{ending}")
        if not file.exists() or sha256_of(file) != expected:
            raise FormatError(f"{file.name} of {path.name} is damaged.")


def load(path: Path) -> State:
    """Return what a checkpoint holds that `check` did not refuse."""
    with reading(path, "a checkpoint"):
        manifest = read_object(path / MANIFEST)
        files = {group: inside(path, f"{group}{ENDING}") for group in manifest["sha256"]}
        tensors = {group: read_tensors(file) for group, file in files.items()}
        return State(manifest["step"], tensors, manifest["values"])


def _flat(value: Any, path: str = "") -> dict[str, str]:
    if isinstance(value, dict):
        items = [_flat(v, f"{path}.{k}") for k, v in value.items()]
        return {k: v for item in items for k, v in item.items()}
    return {path: repr(value)}
