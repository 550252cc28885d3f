"""Journal: every reply as it came, a line each, never rewritten."""

import contextlib
import dataclasses
import json
import os
import threading
from pathlib import Path
from typing import Any, final

from saekit.core import parts
from saekit.core.border import ordinary
from saekit.core.errors import FormatError, ResourceError
from saekit.core.files import read_json_lines
from saekit.generators.base import Failure, Reply, Request


@final
class Journal:
    """What was asked and what came back, in a file that only grows.

    A line is written to the disk before the reply is used. A line that a killed writer left
    unfinished is cut away when the journal is opened.

    Args:
        path: the file; made where there is none. None: nothing outlives this object.

    Raises:
        FormatError: it holds something else.
    """

    def __init__(self, path: Path | None):
        self.path, self._lock = path, threading.Lock()
        self._replies: dict[str, Reply] = {}
        if path is not None and (path.exists() or path.is_symlink()):
            ordinary(path)
            _mend(path)
            for line in read_json_lines(path):
                if line.get("kind") == "reply":
                    self._replies[str(line.get("key"))] = reply_from(line.get("reply"), path)

    def get(self, key: str) -> Reply | None:
        """Return the reply to a request that was answered before."""
        return self._replies.get(key)

    def keep(self, key: str, request: Request, reply: Reply, **about: Any) -> None:
        """Add a reply.

        Args:
            key: of the request.
            request: what was asked.
            reply: what came.
            about: more that is worth keeping: seconds, attempts, whether it was cached.

        Raises:
            ResourceError: the disk refuses it.
        """
        self._add(
            {
                "kind": "reply",
                "key": key,
                "request": dataclasses.asdict(request),
                "reply": dataclasses.asdict(reply),
                **about,
            }
        )
        self._replies[key] = reply

    def note(self, key: str, failure: Failure, attempt: int) -> None:
        """Add a try that gave no reply."""
        self._add({"kind": "failure", "key": key, "attempt": attempt} | dataclasses.asdict(failure))

    def _add(self, record: dict[str, Any]) -> None:
        if self.path is None:
            return
        data = (json.dumps(record, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")
        with self._lock:
            try:
                parts.make_folder(self.path.parent)
                flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)
                fd = os.open(self.path, flags, 0o666)
                try:
                    whole = os.fstat(fd).st_size
                    try:
                        while data:
                            data = data[os.write(fd, data) :]
                        os.fsync(fd)
                    except OSError:
                        with contextlib.suppress(OSError):  # no half line where the disk is full
                            os.ftruncate(fd, whole)
                        raise
                finally:
                    os.close(fd)
            except OSError as error:
                raise ResourceError(
                    f"Could not write to {self.path}: {error.strerror or error}. What it holds "
                    f"stays; free some space and run the same command again."
                ) from error


def reply_from(raw: Any, path: Path) -> Reply:
    """Return a reply from its record.

    Raises:
        FormatError: it is none.
    """
    try:
        reply = Reply(**(raw | {"logprobs": tuple(raw.get("logprobs") or ())}))
    except (TypeError, AttributeError) as error:
        raise FormatError(f"{path} holds a reply that is none: {raw!r:.80}") from error
    if not isinstance(reply.text, str):
        raise FormatError(f"{path} holds a reply whose text is {reply.text!r:.40}.")
    return reply


def _mend(path: Path) -> None:
    """Cut away a last line without an end, which a killed writer left."""
    with path.open("rb+") as file:
        end = file.seek(0, os.SEEK_END)
        at = end
        while at:
            step = min(at, 2**16)
            file.seek(at - step)
            found = file.read(step).rfind(b"\n")
            if found >= 0:
                at = at - step + found + 1
                break
            at -= step
        if at < end:
            file.truncate(at)
