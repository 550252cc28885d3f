"""Where a number came from: code, versions, machine, command and time."""

import functools
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from saekit.core import machine
from saekit.core.registry import own_parts

LIBRARIES = ("torch", "transformers", "tokenizers", "numpy", "safetensors")
_called: list[str] | None = None  # the words of saekit's own command line, where it runs


def called(words: Sequence[str] | None) -> None:
    """Note the words of the command that runs, or None when it has ended.

    `python -m saekit`, torchrun and a call from Python give a process other words than these.
    """
    global _called  # noqa: PLW0603 - of the process, as sys.argv is
    _called = None if words is None else ["saekit", *words]


def place(path: Path) -> str:
    """Return a folder as a record names it: the user's own is `~`, so that no name is given away.

    `Path.expanduser` takes it back.
    """
    home, full = Path.home(), path.absolute()
    return str(Path("~") / full.relative_to(home)) if full.is_relative_to(home) else str(full)


def collect(seed: int | None = None) -> dict[str, Any]:
    """Return a JSON-ready record of what is running here.

    Args:
        seed: the seed of the run, where there is one.
    """
    import torch

    parts = own_parts()
    return ({"parts": parts} if parts else {}) | {
        "saekit": _version("saekit"),
        "commit": _commit(),
        "python": platform.python_version(),
        "libraries": {n: v for n in LIBRARIES if (v := _version(n))},
        "machine": {
            "system": platform.platform(),
            "processor": _processor(),
            "cores": os.cpu_count(),
            **machine.describe(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
        "command": _called or [Path(sys.argv[0]).name, *sys.argv[1:]],
        "folder": place(Path.cwd()),
        "seed": seed,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def shortfall(asked: int, read: int, of: str, unit: str = "tokens") -> list[str]:
    """Return a note that a text has less than was asked for; none where it has enough.

    Args:
        asked: how much was asked for.
        read: how much was read.
        of: the text, as "test text".
        unit: what is counted.
    """
    if read >= asked:
        return []
    return [f"asked for {asked:,} {unit}; the {of} has {read:,}, and all of them were read"]


@functools.cache  # each look reads a file of the library's: at every checkpoint, milliseconds
def _version(library: str) -> str | None:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return None


@functools.cache
def _commit() -> str | None:
    """Return the commit of a source checkout, with `+changes` where it was edited."""
    root = Path(__file__).parents[3]  # above src
    if not (root / ".git").exists():
        return None
    try:
        head = _git(root, "rev-parse", "HEAD")
        return head + ("+changes" if _git(root, "status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(root: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(root), *words], capture_output=True, text=True, check=True, timeout=10
    )
    return done.stdout.strip()


@functools.cache
def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
