"""Held: what was read or made of late, kept in memory up to a number of bytes."""

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Any, final


@final
class Held:
    """Values by key; where they are too many bytes, those not used for longest go first.

    The value that was put last stays, whatever its size. It may be used from any thread.

    Args:
        most_bytes: of all values together.
    """

    def __init__(self, most_bytes: int):
        self.most_bytes = most_bytes
        self.n_bytes = 0
        self._values: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: Hashable) -> Any:
        """Return a value; None: it is not held."""
        with self._lock:
            if (found := self._values.get(key)) is None:
                return None
            self._values.move_to_end(key)
            return found[0]

    def put(self, key: Hashable, value: Any, n_bytes: int) -> None:
        """Hold a value, in the place of one of the same key.

        Args:
            key: names it.
            value: what is held.
            n_bytes: that it takes.
        """
        with self._lock:
            self.n_bytes += n_bytes - self._values.pop(key, (None, 0))[1]
            self._values[key] = (value, n_bytes)
            while self.n_bytes > self.most_bytes and len(self._values) > 1:
                self.n_bytes -= self._values.popitem(last=False)[1][1]
