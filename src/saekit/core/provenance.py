"""Where a number came from: code, versions, machine, command and time."""

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from saekit.core import machine
from saekit.core.registry import own_parts

LIBRARIES = ("torch", "transformers", "tokenizers", "numpy", "safetensors")


def collect(seed: int | None = None) -> dict[str, Any]:
    """Return a JSON-ready record of what is running here.

    Args:
        seed: the seed of the run, where there is one.
    """
    import torch

    parts = own_parts()
    return ({"parts": parts} if parts else {}) | {
        "saekit": metadata.version("saekit"),
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
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "seed": seed,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _version(library: str) -> str | None:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Return the commit of a source checkout, with `+changes` where it was edited."""
    root = Path(__file__).parents[2]
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


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
