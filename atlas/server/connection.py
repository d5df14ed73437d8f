"""One TCP connection -> requests, each with a head of bounded size and time, and an answer that the client does take.

uvicorn bounds neither: a client that sends headers for ever, or reads an answer a byte at a time, would hold its
connection and what the answer takes of memory.
"""

from __future__ import annotations

import asyncio

import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_BYTES = 64 << 10  # of the address and the headers of one request
HEAD_SECONDS = 10.0  # from the first byte of a request, or from the connection, to the end of the headers
STILL_SECONDS = 30.0  # that a client may take none of its answer
MOST = 800  # connections at once; a process may have 1024 files open on most machines


class Connection(HttpToolsProtocol):
    """uvicorn's protocol with limits; the library takes a class."""

    _size = _raw = 0
    _left = 0  # bytes of the answer not taken when last looked at
    _too_large = False
    _waiting: asyncio.TimerHandle | None = None
    _still: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request; one connection too many is closed at once."""
        super().connection_made(transport)
        if len(self.connections) > MOST:
            transport.abort()
        else:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the clocks."""
        self._waited()
        self._taken()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on; what is not yet a request must become one in time."""
        super().data_received(data)
        if self.transport.is_closing() or self.transport.get_protocol() is not self:  # a WebSocket's by now
            return
        if self._waiting is not None:  # one header without an end reaches no other method
            self._count_raw(len(data))
        elif self._idle and self.timeout_keep_alive_task is None:
            self._wait()

    def on_message_begin(self) -> None:
        """Count anew."""
        super().on_message_begin()
        self._size = self._raw = 0
        self._waited()
        self._wait()

    def on_url(self, url: bytes) -> None:
        """Part of the address."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header."""
        self._count(len(name) + len(value) + 4)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is whole."""
        self._waited()
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """The one shape of errors, also for what is no HTTP."""
        status, told = ("400 Bad Request", "this is no HTTP request")
        if self._too_large:
            status = "431 Request Header Fields Too Large"
            told = f"the address and the headers are larger than {HEAD_BYTES:,} bytes"
        self._close_with(status, told)

    def pause_writing(self) -> None:
        """The client does not take its answer: it may for a while."""
        super().pause_writing()
        self._left = self.transport.get_write_buffer_size()
        self._still = self.loop.call_later(STILL_SECONDS, self._look)

    def resume_writing(self) -> None:
        """It did."""
        self._taken()
        super().resume_writing()

    def _count(self, size: int) -> None:
        self._size += size
        if self._size > HEAD_BYTES:
            self._too_large = True
            raise ValueError("the head is too large")  # the parser stops, and send_400_response is called

    def _count_raw(self, size: int) -> None:
        self._raw += size
        if self._raw > 2 * HEAD_BYTES:
            self._too_large = True
            self.send_400_response("")

    @property
    def _idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _wait(self) -> None:
        self._waiting = self.loop.call_later(HEAD_SECONDS, self._late)

    def _waited(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _late(self) -> None:
        self._waiting = None
        if not self._idle:  # an answer is on its way; the next request may still come
            self._wait()
        elif not self.transport.is_closing():
            self._close_with("408 Request Timeout", f"no request came in within {HEAD_SECONDS:g} s")

    def _taken(self) -> None:
        if self._still is not None:
            self._still.cancel()
            self._still = None

    def _look(self) -> None:
        left = self.transport.get_write_buffer_size()
        if left >= self._left:
            self.transport.abort()
            return
        self._left = left
        self._still = self.loop.call_later(STILL_SECONDS, self._look)

    def _close_with(self, status: str, error: str) -> None:
        body = orjson.dumps({"error": error, "details": None})
        head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        safe = "x-content-type-options: nosniff\r\ncache-control: no-store\r\nconnection: close\r\n\r\n"
        self.transport.write((head + safe).encode() + body)
        self.transport.close()
