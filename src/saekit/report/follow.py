"""Follow: records of a training log as they come, until the run is over."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from saekit.core.errors import FormatError
from saekit.core.files import read_json_lines
from saekit.training import standing


def status(run: Path) -> str:
    """Return how a run stands: running, done, failed, interrupted, or killed without a word.

    Raises:
        FormatError: the folder holds no run.
    """
    if not (run / standing.MANIFEST).exists():
        raise FormatError(f"{run} holds no run: it has no manifest.json. Give a run's folder.")
    return standing.status(run)


def records(run: Path) -> list[dict[str, Any]]:
    """Return the whole lines of a run's log."""
    path = run / "log.jsonl"
    return list(read_json_lines(path)) if path.exists() else []


def follow(run: Path, *, wait: bool, every_seconds: float = 2.0) -> Iterator[dict[str, Any]]:
    """Yield the records of a log in order; with `wait`, go on until the run is over.

    A run that goes back to a checkpoint, or is taken up again, writes some steps anew: they are
    yielded again.

    Args:
        run: the folder.
        wait: look for more every few seconds while the run is running.
        every_seconds: how often.
    """
    given: list[dict[str, Any]] = []
    while True:
        # Asked first, so that the last records are not missed.
        over = status(run) != standing.RUNNING
        found = records(run)
        same = 0
        while same < min(len(given), len(found)) and given[same] == found[same]:
            same += 1
        yield from found[same:]
        given = found
        if over or not wait:
            return
        time.sleep(every_seconds)
