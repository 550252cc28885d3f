"""A line of progress: how far, how fast, how long still."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import TextIO

Heard = Callable[[str, int, int | None], None]  # title, units done, units in all
_heard: list[Heard] = []


@contextlib.contextmanager
def heard(listener: Heard) -> Iterator[None]:
    """A context in which a function is told how far every `Progress` of this process is."""
    _heard.append(listener)
    try:
        yield
    finally:
        _heard.remove(listener)


class Progress:
    """Shows done / total, units per second and the time left on one line of stderr.

    On a terminal the line is redrawn; elsewhere a line is printed now and then, so that a
    log stays readable.

    Args:
        title: what is being done.
        total: units in all; None where it is not known.
        unit: the plural of what is counted, as "tokens".
        shown: False silences it.
        stream: where to write; stderr where None.
    """

    def __init__(
        self,
        title: str,
        total: int | None,
        unit: str = "tokens",
        *,
        shown: bool = True,
        stream: TextIO | None = None,
    ):
        self.title, self.total, self.unit, self.shown = title, total, unit, shown
        self.stream = stream or sys.stderr
        self.redraw = self.stream.isatty()
        self.period_seconds = 0.2 if self.redraw else 10.0
        self.done = 0
        self.note = ""
        self._began = self._drawn = time.monotonic()
        self._before = 0

    def start_at(self, done: int) -> None:
        """Say what had been done before, so that it does not count as speed."""
        self.done = self._before = done

    def add(self, n: int, note: str = "") -> None:
        """Count `n` more units; `note` stands at the end of the line."""
        self.done += n
        self.note = note or self.note
        for listener in _heard:
            listener(self.title, self.done, self.total)
        now = time.monotonic()
        if now - self._drawn >= self.period_seconds:
            self._drawn = now
            self._draw(now, last=False)

    def reach(self, done: int, note: str = "") -> None:
        """Count up to `done` units in all, but none beyond the total, which a last batch may pass.

        Args:
            done: units so far, from the beginning.
            note: see `add`.
        """
        self.add((done if self.total is None else min(done, self.total)) - self.done, note)

    def close(self) -> None:
        """Draw the last state and end the line."""
        self._draw(time.monotonic(), last=True)

    def _draw(self, now: float, *, last: bool) -> None:
        if not self.shown:
            return
        seconds = now - self._began
        rate = (self.done - self._before) / max(seconds, 1e-9)
        share = "" if not self.total else f" {100 * self.done / self.total:3.0f}%"
        of = "" if not self.total else f" / {self.total:,}"
        parts = [f"{self.title:<9}{share} {self.done:,}{of} {self.unit}, {rate:,.0f}/s"]
        if last:
            parts.append(f"{clock(seconds)} taken")
        elif self.total and rate > 0:
            parts.append(f"{clock(max(self.total - self.done, 0) / rate)} left")
        line = ", ".join(parts) + (f"  {self.note}" if self.note else "")
        if self.redraw:
            self.stream.write("\r\x1b[2K" + line[:160] + ("\n" if last else ""))
        else:
            self.stream.write(line + "\n")
        self.stream.flush()


def clock(seconds: float) -> str:
    """Return seconds as `42s`, `3m05s` or `2h07m`."""
    whole = int(seconds + 0.5)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def seconds_left(done: float, total: float, per_second: float) -> float:
    """Return how long the rest takes at a speed above 0; 0 where all is done."""
    return max(total - done, 0) / per_second
