"""The training log: JSON lines, the one record that curves are drawn from."""

import contextlib
from pathlib import Path
from typing import Any, TextIO

from saekit.core.errors import ResourceError
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
        """Append one record.

        Raises:
            ResourceError: the disk is full.
        """
        if self._file is None:
            return
        try:
            self._file.write(to_json_line({"kind": kind, **record}) + "\n")
            self._file.flush()
        except OSError as error:
            self._abandon()
            raise ResourceError(
                f"Could not write {self.path}: {error.strerror}. Free some space and go on with "
                f"the run: checkpoints before this are kept."
            ) from error

    def _abandon(self) -> None:
        """Let go of a file whose disk is full: closing it would try to write again."""
        assert self._file is not None
        file, self._file = self._file, None
        with contextlib.suppress(OSError):
            file.close()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
