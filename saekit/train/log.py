"""The training log: JSON lines, the one record that curves are drawn from."""

from pathlib import Path
from typing import Any

from saekit.core.files import read_json_lines, replace_with, to_json_line


class Log:
    """Appends records to a JSON-lines file.

    Args:
        path: the file.
        keep_to_step: on resume, records of later steps are dropped: those steps come again.
    """

    def __init__(self, path: Path, keep_to_step: int | None = None):
        self.path = path
        kept: list[dict[str, Any]] = []
        if keep_to_step is not None and path.exists():
            kept = [r for r in read_json_lines(path) if r.get("step", 0) <= keep_to_step]
        replace_with(path, "".join(to_json_line(r) + "\n" for r in kept).encode())
        self.last_seconds = max((r.get("seconds", 0.0) for r in kept), default=0.0)
        self._file = path.open("a", encoding="utf-8")

    def write(self, kind: str, **record: Any) -> None:
        """Append one record."""
        self._file.write(to_json_line({"kind": kind, **record}) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class NoLog:
    """The log of a process that is not the one that writes."""

    def __init__(self, path: Path, keep_to_step: int | None = None):
        self.path, self.last_seconds = path, 0.0

    def write(self, kind: str, **record: Any) -> None:
        """Leave out a record."""

    def close(self) -> None:
        """Do nothing."""
