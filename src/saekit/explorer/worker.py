"""Worker: the process that holds a model, as the server sees it: started late, watched, ended."""

import contextlib
import json
import os
import selectors
import subprocess
import sys
from typing import Any

from saekit.core.machine import all_memory, memory_of
from saekit.core.registry import used_files
from saekit.explorer.problems import Problem

COMMAND = "from saekit.explorer.work import main; main()"
SHARE = 0.8  # of the machine's memory, where no limit was given
IDLE_SECONDS = 900.0
LOOK_SECONDS = 0.1  # between looks at memory and at what the user wants
END_SECONDS = 2.0  # to end by itself before it is killed


class Worker:
    """A process that does jobs, one at a time. Used by one thread.

    Args:
        memory_bytes: above it the process is ended and its job fails; None: a share of what the
            machine has.
    """

    def __init__(self, memory_bytes: int | None = None):
        total = all_memory()
        self.memory_bytes = memory_bytes or (None if total is None else int(total * SHARE))
        self.model: str | None = None  # the language model in memory
        self._process: subprocess.Popen[bytes] | None = None
        self._selector: selectors.DefaultSelector | None = None
        self._buffer = bytearray()

    @property
    def pid(self) -> int | None:
        """The process; None: there is none now."""
        return None if self._process is None else self._process.pid

    def send(self, kind: str, args: dict[str, Any]) -> None:
        """Give it a job; it is started where it does not run.

        Raises:
            Problem: it cannot be started.
        """
        if self._process is not None and self._process.poll() is not None:
            self.end()
        if self._process is None:
            self._start()
        assert self._process is not None and self._process.stdin is not None
        line = json.dumps({"kind": kind, "args": args}) + "\n"
        try:
            self._process.stdin.write(line.encode("utf-8", "backslashreplace"))
            self._process.stdin.flush()
        except OSError as error:
            self.end()
            raise Problem(503, f"The worker process went away: {error}.", "Try again.") from error

    def look(self) -> dict[str, Any] | None:
        """Wait a moment for an answer and return it; None: none came yet.

        Raises:
            Problem: the process ended, or has more memory than it may.
        """
        if (line := self._line()) is None:
            assert self._selector is not None and self._process is not None
            self._check_memory()
            if self._selector.select(LOOK_SECONDS):
                data = os.read(self._process.stdout.fileno(), 2**20)  # type: ignore[union-attr]
                if not data:
                    raise self._gone()
                self._buffer += data
            line = self._line()
        if line is None:
            return None
        answer = json.loads(line)
        if "progress" not in answer:
            self.model = answer.pop("model", None)
        return answer

    def end(self) -> None:
        """End the process, whatever it does."""
        process, self._process, self.model = self._process, None, None
        self._buffer.clear()
        if self._selector is not None:
            self._selector.close()
            self._selector = None
        if process is None:
            return
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):  # what was not written to a process that is gone
                    stream.close()

    def _start(self) -> None:
        own = os.pathsep.join(map(str, used_files()))
        env = dict(os.environ)
        if own:
            env["SAEKIT_USE"] = os.pathsep.join(filter(None, [env.get("SAEKIT_USE", ""), own]))
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", COMMAND],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=env,
                start_new_session=True,  # Ctrl-C is for the server, which ends it
            )
        except OSError as error:
            raise Problem(503, f"The worker process cannot be started: {error}.") from error
        self._selector = selectors.DefaultSelector()
        assert self._process.stdout is not None
        self._selector.register(self._process.stdout, selectors.EVENT_READ)

    def _line(self) -> bytes | None:
        end = self._buffer.find(b"\n")
        if end < 0:
            return None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line

    def _check_memory(self) -> None:
        if self.memory_bytes is None or self.pid is None:
            return
        used = memory_of(self.pid)
        if used is not None and used > self.memory_bytes:
            self.end()
            raise Problem(
                503,
                f"The job took {used / 1e9:.1f} GB of memory, more than the "
                f"{self.memory_bytes / 1e9:.1f} GB that it may; it was ended.",
                "Start the server with a larger --memory, or give the job less.",
            )

    def _gone(self) -> Problem:
        assert self._process is not None
        try:
            code = self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            code = None
        self.end()
        why = "was killed" if code is not None and code < 0 else "ended"
        return Problem(
            500,
            f"The worker process {why} in the middle of the job (exit status {code}); the terminal "
            f"of the server may say more. The next job starts a new one.",
            "Try again with less text, or with more memory free.",
        )
