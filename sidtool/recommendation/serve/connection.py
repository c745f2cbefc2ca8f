"""The connection of a client: how long it waits for a request, and which of too many ends."""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol


class Connection(H11Protocol):
    """uvicorn's connection with the parser h11, which limits the bytes of a head, and these rules.

    The head of a request must have arrived `timeout_keep_alive` seconds after the connection was
    opened or its last answer was written. Where `limit_concurrency` connections are open, a new one
    ends those that have waited longest for a request. A client that has sent its request may end
    its half of the connection."""

    def connection_made(self, transport: Any) -> None:
        """Called by the loop."""
        super().connection_made(transport)
        self._timer: asyncio.TimerHandle | None = None
        self._client_ended = False
        self._wait()
        if self.limit_concurrency and len(self.connections) >= self.limit_concurrency:
            self._make_room(self.limit_concurrency)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop."""
        super().connection_lost(exc)
        if self._timer is not None:
            self._timer.cancel()

    def eof_received(self) -> bool:
        """Called by the loop at the end of the client's half -> whether ours stays open."""
        self._client_ended = True
        return not self._is_waiting

    def on_response_complete(self) -> None:
        """Called when an answer was written."""
        self._wait()
        super().on_response_complete()  # begins the next request if it has arrived
        if self._client_ended and self._is_waiting:
            self.transport.close()

    @property
    def _is_waiting(self) -> bool:
        """Whether there is no whole request to answer."""
        return self.cycle is None or self.cycle.response_complete or self.cycle.more_body

    def _wait(self) -> None:
        """Start the time of the next head."""
        if self._timer is not None:
            self._timer.cancel()
        self._since = self.loop.time()
        self._timer = self.loop.call_later(self.timeout_keep_alive, self._end_after, self.cycle)

    def _end_after(self, cycle: Any) -> None:
        """End the connection if no request has begun after that of `cycle`."""
        if self.cycle is cycle:
            self.transport.abort()

    def _make_room(self, limit: int) -> None:
        """End the oldest tenth of them, so that not each new one has to look for the oldest."""
        idle = [
            connection
            for connection in self.connections
            if connection is not self
            and connection._is_waiting
            and not connection.transport.get_write_buffer_size()
        ]
        idle.sort(key=lambda connection: connection._since)
        for connection in idle[: 1 + limit // 10]:
            self.connections.discard(connection)
            connection.transport.close()
