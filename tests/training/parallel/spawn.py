"""Processes of a test, started as torchrun would start them."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def environment(**more: str) -> dict[str, str]:
    path = f"{ROOT / 'src'}:{ROOT}"
    own = {"OMP_NUM_THREADS": "1", "PYTHONPATH": path, "SAEKIT_RANKS_TIMEOUT_SECONDS": "120"}
    return dict(os.environ) | own | more


def spawn(n: int, case: str, found: Path, **settings: Any) -> tuple[list[int], list[str]]:
    """Run a case on n processes; return their exit codes and what they said on stderr."""
    port = str(free_port())
    running = []
    for rank in range(n):
        env = environment(
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE=str(n),
            LOCAL_WORLD_SIZE=str(n),
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=port,
        )
        words = [sys.executable, "-m", "tests.training.parallel.worker", case, str(found)]
        words += [json.dumps(settings)] if settings else []
        running.append(
            subprocess.Popen(words, env=env, cwd=ROOT, stderr=subprocess.PIPE, text=True)
        )
    errors = [p.communicate(timeout=240)[1] for p in running]
    return [p.returncode for p in running], errors


def result(n: int, case: str, scratch: Path, **settings: Any) -> dict[str, Any]:
    """Return what the first of n processes found."""
    found = scratch / f"{case}-{n}.json"
    codes, errors = spawn(n, case, found, **settings)
    assert codes == [0] * n, errors
    return json.loads(found.read_text())
