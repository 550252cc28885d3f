"""Ahead: the next items of an iterator, made on a thread while the present one is used."""

import queue
import threading
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")
_PATIENCE = 0.05  # seconds between looks at whether nobody wants more


class _End:
    """What follows the last item: the error that ended it, or nothing."""

    def __init__(self, error: BaseException | None):
        self.error = error


class Ahead(Generic[T]):
    """An iterator that is read by a thread, at most `depth` items before its user.

    Every item comes, once and in order: where the user is slow, the thread waits. An error
    of the iterator is raised to the user at the place of the item it prevented.

    Args:
        source: what to read; nobody else may read it.
        depth: items held beside the one in use, at least 1.
    """

    def __init__(self, source: Iterator[T], depth: int = 1):
        self._source = source
        self._items: queue.Queue[T | _End] = queue.Queue(depth)
        self._closed = threading.Event()
        self._ended: _End | None = None
        self._thread = threading.Thread(target=self._read, name="saekit-ahead", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        error = None
        try:
            for item in self._source:
                if not self._put(item):
                    return
        except BaseException as caught:  # it is the user's: raised in `__next__`
            error = caught
        self._put(_End(error))

    def _put(self, item: "T | _End") -> bool:
        while not self._closed.is_set():
            try:
                self._items.put(item, timeout=_PATIENCE)
                return True
            except queue.Full:
                continue
        return False

    def __iter__(self) -> "Ahead[T]":
        return self

    def __next__(self) -> T:
        if self._ended is None:
            item = self._items.get()
            if not isinstance(item, _End):
                return item
            self._ended = item
        if self._ended.error is not None:
            raise self._ended.error
        raise StopIteration

    def close(self) -> None:
        """Let the thread end; what it had made is dropped."""
        self._closed.set()
        self._thread.join()
