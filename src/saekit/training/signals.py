"""Ctrl-C and SIGTERM ask for a stop; the loop stops where it can save."""

import signal
import threading
from types import FrameType
from typing import Any


class StopRequest:
    """A context in which SIGINT and SIGTERM set `asked` instead of ending the process.

    A second signal of the same kind acts as it would have without this context.
    """

    def __init__(self) -> None:
        self.asked: str | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.asked = signal.Signals(number).name
        signal.signal(number, self._before[number])

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
