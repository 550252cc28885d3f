"""The training log: JSON lines, the one record that curves are drawn from."""

from pathlib import Path
from typing import Any, TextIO

from saekit.core.files import read_json_lines, replace_with, to_json_line


class Log:
    """Appends records to a JSON-lines file.

    Args:
        path: the file; None: nothing is written.
        keep_to_step: on resume, records of later steps are dropped: those steps come again.
    """

    def __init__(self, path: Path | None, keep_to_step: int | None = None):
        self.path = path
        self.last_seconds = 0.0
        self._file: TextIO | None = None
        self._begin(-1 if keep_to_step is None else keep_to_step)

    def _begin(self, keep_to_step: int) -> None:
        if self.path is None:
            return
        kept: list[dict[str, Any]] = []
        if keep_to_step >= 0 and self.path.exists():
            kept = [r for r in read_json_lines(self.path) if r.get("step", 0) <= keep_to_step]
        replace_with(self.path, "".join(to_json_line(r) + "\n" for r in kept).encode())
        self.last_seconds = max((r.get("seconds", 0.0) for r in kept), default=0.0)
        self._file = self.path.open("a", encoding="utf-8")

    def rewind(self, step: int) -> None:
        """Drop the records of later steps: those steps come again."""
        self.close()
        self._begin(step)

    def write(self, kind: str, **record: Any) -> None:
        """Append one record."""
        if self._file is not None:
            self._file.write(to_json_line({"kind": kind, **record}) + "\n")
            self._file.flush()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
