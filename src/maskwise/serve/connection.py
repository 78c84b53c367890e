"""uvicorn's HTTP, with the two time-outs that it lacks: for clients that never finish asking, or never read."""

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 10.0
"""For the head of a request, from the connection or the first byte."""
STALL_SECONDS = 30.0
"""For a client to take what was written, once buffers are full."""


class Connection(H11Protocol):
    """The transport's callbacks, each with a clock that it starts or stops."""

    _head: asyncio.TimerHandle | None = None
    _stall: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._head = self.loop.call_later(HEAD_SECONDS, transport.abort)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        is_busy = self.cycle is not None and not self.cycle.response_complete
        if is_busy:
            self._head = _stopped(self._head)
        elif self._head is None:
            self._head = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stall = self.loop.call_later(STALL_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stall = _stopped(self._stall)

    def connection_lost(self, exc: Exception | None) -> None:
        self._head, self._stall = _stopped(self._head), _stopped(self._stall)
        super().connection_lost(exc)


def _stopped(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
