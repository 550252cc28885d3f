"""Checkpoints: everything a run needs to go on as if it had not stopped, or nothing."""

import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from saekit.core.errors import FormatError
from saekit.core.files import (
    digest,
    need_space,
    read_json,
    read_tensors,
    sha256_of,
    write_json,
    write_tensors,
)

KEPT = 2  # the newest, and the one before in case the newest is damaged


class State(NamedTuple):
    """What a checkpoint holds."""

    step: int
    tensors: dict[str, dict[str, Tensor]]  # group ("weights", "optimiser", ...) to tensors
    values: dict[str, Any]  # JSON-ready


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
    part = folder / f".{target.name}.{os.getpid()}.part"
    shutil.rmtree(part, ignore_errors=True)
    try:
        sums = {}
        for group, tensors in state.tensors.items():
            write_tensors(part / f"{group}.safetensors", tensors)
            sums[group] = sha256_of(part / f"{group}.safetensors")
        manifest = {"step": state.step, "run": run, "sha256": sums, "values": state.values}
        write_json(part / "checkpoint.json", manifest)
        if target.exists():
            shutil.rmtree(target)
        part.rename(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    drop_old(folder, keep_step)
    return target


def drop_old(folder: Path, keep_step: int | None) -> None:
    """Delete all checkpoints but the newest two, and that of a step."""
    for old in steps(folder)[:-KEPT]:
        if keep_step is None or old.name != name_of(keep_step):
            shutil.rmtree(old)


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
    complaints: list[str] = []
    for path in reversed(steps(folder, step)):
        try:
            return read(path, run), complaints
        except FormatError as error:
            complaints.append(str(error))
    if complaints:
        raise FormatError(
            f"No checkpoint under {folder} can be used: {' '.join(complaints)} "
            f"Train anew into another folder."
        )
    return None, []


def read(path: Path, run: str) -> State:
    """Read one checkpoint.

    Raises:
        FormatError: it is damaged, or belongs to another run.
    """
    manifest = read_json(path / "checkpoint.json")
    if manifest["run"] != run:
        raise FormatError(f"{path.name} belongs to a run with other settings.")
    tensors = {}
    for group, expected in manifest["sha256"].items():
        file = path / f"{group}.safetensors"
        if not file.exists() or sha256_of(file) != expected:
            raise FormatError(f"{file.name} of {path.name} is damaged.")
        tensors[group] = read_tensors(file)
    return State(manifest["step"], tensors, manifest["values"])


def _flat(value: Any, path: str = "") -> dict[str, str]:
    if isinstance(value, dict):
        items = [_flat(v, f"{path}.{k}") for k, v in value.items()]
        return {k: v for item in items for k, v in item.items()}
    return {path: repr(value)}
