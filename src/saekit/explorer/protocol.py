"""HTTP of uvicorn, with an end to waiting for a client that does not say what it wants."""

import asyncio
from typing import Any

from typing_extensions import override
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 10.0  # for the first line and the headers of a request


class BoundedProtocol(H11Protocol):
    """A connection is closed where no whole head of a request comes in time.

    uvicorn ends only connections that are idle after an answer; one that sends a byte now and
    then, or none, it would keep for ever.
    """

    _head: asyncio.TimerHandle | None = None

    @override
    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._wait_for_head()

    @override
    def handle_events(self) -> None:
        before = self.scope
        try:
            super().handle_events()
        except UnicodeDecodeError:  # an address in other bytes than ASCII
            self.send_400_response("The address has bytes that must be written as %XX.")
        if self.scope is not before:
            self._stop_waiting()

    @override
    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle.response_complete and not self.transport.is_closing():
            self._stop_waiting()
            self._wait_for_head()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def _wait_for_head(self) -> None:
        self._head = self.loop.call_later(HEAD_SECONDS, self._late)

    def _stop_waiting(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def _late(self) -> None:
        self._head = None
        if not self.transport.is_closing():
            self.transport.close()
