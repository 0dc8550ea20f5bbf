"""Connections that wait for a request: the time limit for its headers, and which connections give way to others."""

import asyncio
from typing import ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


class Connection(H11Protocol):
    """A connection that is closed where the headers of a request do not arrive in time.

    uvicorn limits the seconds between requests alone, and counts open connections as requests. Here a connection
    without a request in work is closed for a new one where the most allowed connections are open.
    """

    header_seconds: ClassVar[float] = 10.0  # time from the first byte or the opening until the headers are complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Starts the clock of the first request."""
        self._clock: asyncio.TimerHandle | None = None
        self.waits_since = self.loop.time()  # seconds of the loop's clock
        self._make_room()
        super().connection_made(transport)
        self._start_clock()

    def data_received(self, data: bytes) -> None:
        """Reads a part of a request; the clock runs until its headers are complete."""
        super().data_received(data)
        if self.conn.their_state is h11.IDLE:
            self._start_clock()
        else:
            self._stop_clock()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stops the clock."""
        self._stop_clock()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Begins to wait for the next request."""
        self.waits_since = self.loop.time()
        super().on_response_complete()

    @property
    def waits(self) -> bool:
        """Whether the connection has no request in work."""
        return self.cycle is None or self.cycle.response_complete

    def _start_clock(self) -> None:
        if self._clock is None and not self.transport.is_closing():
            self._clock = self.loop.call_later(self.header_seconds, self.timeout_keep_alive_handler)

    def _stop_clock(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None

    def _make_room(self) -> None:
        """Closes connections that wait, those that never sent a request first, until another one may be open."""
        while self.limit_concurrency is not None and len(self.connections) + 1 >= self.limit_concurrency:
            waiting = [one for one in self.connections if isinstance(one, Connection) and one.waits]
            if not waiting:
                break
            oldest = min(waiting, key=lambda one: (one.cycle is not None, one.waits_since))
            self.connections.discard(oldest)
            oldest.timeout_keep_alive_handler()
