"""Jobs: what the pages ask of a model, kept by the server, so that a closed page loses nothing."""

import dataclasses
import json
import secrets
import threading
import time
from collections import deque
from datetime import UTC, datetime
from typing import Any, Literal

from saekit.explorer.problems import Problem
from saekit.explorer.worker import IDLE_SECONDS, Worker

State = Literal["waiting", "running", "done", "failed", "cancelled"]
OVER = ("done", "failed", "cancelled")
MOST_WAITING = 32
MOST_KEPT, KEPT_BYTES = 100, 32 * 1024 * 1024  # finished jobs, and their results in all
# A job of minutes must not hold up one of a second: each lane has a worker of its own.
LONG = frozenset({"index"})


@dataclasses.dataclass
class Job:
    """One job and where it stands.

    Args:
        id: its name in the API.
        kind: what is done.
        asked: what the page asked, for the list of jobs.
        args: what the worker gets.
    """

    id: str
    kind: str
    asked: dict[str, Any]
    args: dict[str, Any]
    state: State = "waiting"
    progress: dict[str, Any] = dataclasses.field(
        default_factory=lambda: {"text": "waiting", "fraction": None}
    )
    result: Any = None
    error: dict[str, Any] | None = None
    made: str = dataclasses.field(default_factory=lambda: _now())
    n_bytes: int = 0

    def record(self, *, whole: bool = True) -> dict[str, Any]:
        """Return it JSON-ready; with `whole` its result too."""
        found = {
            "id": self.id,
            "kind": self.kind,
            "asked": self.asked,
            "state": self.state,
            "progress": self.progress,
            "made": self.made,
            "error": self.error,
        }
        return found | {"result": self.result} if whole else found


class Board:
    """All jobs of a server.

    Args:
        memory_bytes: see `Worker`.
        idle_seconds: a worker without a job is ended after this time.
    """

    def __init__(self, memory_bytes: int | None = None, idle_seconds: float = IDLE_SECONDS):
        self._jobs: dict[str, Job] = {}
        self._changed = threading.Condition()
        self._closed = False
        self._lanes = [
            _Lane(self, frozenset(), Worker(memory_bytes), idle_seconds),
            _Lane(self, LONG, Worker(memory_bytes), idle_seconds),
        ]

    @property
    def model(self) -> str | None:
        """The language model in the memory of the worker of short jobs; None: none is."""
        return self._lanes[0].worker.model

    def pids(self) -> list[int]:
        """Return the worker processes there are."""
        return [lane.worker.pid for lane in self._lanes if lane.worker.pid is not None]

    def add(self, kind: str, asked: dict[str, Any], args: dict[str, Any]) -> Job:
        """Put a job at the end of its queue and return it.

        Raises:
            Problem: too many wait.
        """
        job = Job(secrets.token_hex(8), kind, asked, args)
        with self._changed:
            if sum(one.state == "waiting" for one in self._jobs.values()) >= MOST_WAITING:
                raise Problem(
                    429, f"{MOST_WAITING} jobs wait already.", "Wait for them, or cancel some."
                )
            self._jobs[job.id] = job
            lane = self._lanes[1 if kind in LONG else 0]
            lane.queue.append(job)
            lane.start()
            self._changed.notify_all()
        return job

    def get(self, name: str) -> Job:
        """Return a job.

        Raises:
            Problem: there is none of this id, or it was dropped to make room for later ones.
        """
        with self._changed:
            if name not in self._jobs:
                raise Problem(
                    404,
                    f"There is no job {name[:40]!r}: the server keeps the last {MOST_KEPT} since "
                    f"it was started.",
                    "Ask again.",
                )
            return self._jobs[name]

    def all(self) -> list[Job]:
        """Return the jobs that are kept, the newest first."""
        with self._changed:
            return list(self._jobs.values())[::-1]

    def wait(self, name: str, seconds: float) -> Job:
        """Return a job once it is over, or after some seconds.

        Raises:
            Problem: there is none of this id.
        """
        job, until = self.get(name), time.monotonic() + seconds
        with self._changed:
            while job.state not in OVER and (left := until - time.monotonic()) > 0:
                self._changed.wait(left)
        return job

    def cancel(self, name: str) -> Job:
        """Stop a job and return it; one that is over stays as it is.

        Raises:
            Problem: there is none of this id.
        """
        job = self.get(name)
        with self._changed:
            if job.state == "waiting":
                self._lanes[1 if job.kind in LONG else 0].queue.remove(job)
            if job.state not in OVER:
                # Its lane sees that, and ends the process that works on it.
                job.state, job.progress = "cancelled", {"text": "cancelled", "fraction": None}
            self._changed.notify_all()
        return job

    def close(self) -> None:
        """End all work."""
        with self._changed:
            self._closed = True
            for job in self._jobs.values():
                if job.state not in OVER:
                    job.state = "cancelled"
            self._changed.notify_all()
        for lane in self._lanes:
            lane.join()

    def _trim(self) -> None:
        over = [job for job in self._jobs.values() if job.state in OVER]
        n_bytes = sum(job.n_bytes for job in over)
        while over and (len(over) > MOST_KEPT or (n_bytes > KEPT_BYTES and len(over) > 1)):
            oldest = over.pop(0)
            n_bytes -= oldest.n_bytes
            del self._jobs[oldest.id]


class _Lane:
    """A queue of jobs, with the thread and the worker that do them."""

    def __init__(self, board: Board, kinds: frozenset[str], worker: Worker, idle_seconds: float):
        self.board, self.kinds, self.worker = board, kinds, worker
        self.queue: deque[Job] = deque()
        self._idle_seconds = idle_seconds
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Have a thread look at the queue."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="jobs", daemon=True)
            self._thread.start()

    def join(self) -> None:
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        board = self.board
        try:
            while (job := self._next()) is not None:
                self._do(job)
                with board._changed:
                    board._trim()
                    board._changed.notify_all()
        finally:
            self.worker.end()

    def _next(self) -> Job | None:
        """Wait for a job and return it; None: the server is closed."""
        changed = self.board._changed
        with changed:
            while not self.queue and not self.board._closed:
                idle = self.worker.pid is not None
                if not changed.wait(self._idle_seconds if idle else None) and not self.queue:
                    self.worker.end()
            if self.board._closed:
                return None
            job = self.queue.popleft()
            job.state, job.progress = "running", {"text": "starting", "fraction": None}
            changed.notify_all()
            return job

    def _do(self, job: Job) -> None:
        try:
            self.worker.send(job.kind, job.args)
            while True:
                if job.state == "cancelled":
                    self.worker.end()
                    return
                answer = self.worker.look()
                if answer is None:
                    continue
                if "progress" not in answer:
                    break
                self._set(job, progress=answer["progress"])
        except Problem as problem:
            self._set(job, state="failed", error=problem.record())
            return
        except Exception as error:  # the lane goes on whatever a worker wrote
            self.worker.end()
            said = Problem(500, f"The worker gave no answer that can be read: {error!r:.200}")
            self._set(job, state="failed", error=said.record())
            return
        if "error" in answer:
            self._set(job, state="failed", error=answer["error"])
            return
        n_bytes = len(json.dumps(answer["result"]))
        text = {"text": "done", "fraction": 1.0}
        self._set(job, state="done", result=answer["result"], progress=text, n_bytes=n_bytes)

    def _set(self, job: Job, **values: Any) -> None:
        with self.board._changed:
            if job.state != "cancelled":
                for name, value in values.items():
                    setattr(job, name, value)
            self.board._changed.notify_all()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
