"""uvicorn's HTTP protocol with limits of time: for sending a request and for reading an answer."""

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

GRACE = 1.0  # seconds in which the answer 408 can be sent


class TimedProtocol(H11Protocol):
    """Closes connections whose client takes more than `seconds` to send a request, or to read a part of an answer.

    uvicorn itself waits without end for the headers of a request, for the rest of a body that it has answered already,
    and for a client that does not read.
    """

    seconds: float

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.reading: asyncio.TimerHandle | None = None
        self.writing: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.reading = self.loop.call_later(self.seconds + GRACE, transport.abort)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        incomplete = self.conn.their_state in (h11.IDLE, h11.SEND_BODY)
        if incomplete and self.reading is None:
            self.reading = self.loop.call_later(self.seconds + GRACE, self.transport.abort)
        elif not incomplete:
            self._cancel_reading()

    def pause_writing(self) -> None:
        super().pause_writing()
        self.writing = self.writing or self.loop.call_later(self.seconds, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._cancel_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._cancel_reading()
        self._cancel_writing()

    def _cancel_reading(self) -> None:
        if self.reading is not None:
            self.reading.cancel()
            self.reading = None

    def _cancel_writing(self) -> None:
        if self.writing is not None:
            self.writing.cancel()
            self.writing = None


def protocol_with(seconds: float) -> type[TimedProtocol]:
    """Return a protocol with a limit. uvicorn makes its objects, so the limit is an attribute of the class."""
    return type("Protocol", (TimedProtocol,), {"seconds": seconds})
