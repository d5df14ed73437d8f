"""A socket between server and worker -> messages, one line of JSON each, small: results and requests go as files."""

from __future__ import annotations

import socket
from threading import Lock
from typing import Any

import orjson

Message = dict[str, Any]
_CHUNK = 65536


class Gone(Exception):
    """The process at the other end is no more."""


class Channel:
    """One end; `send` may be called from several threads, `receive` from one."""

    def __init__(self, end: socket.socket) -> None:
        self._end, self._rest, self._sending = end, b"", Lock()

    def fileno(self) -> int:
        """For selectors."""
        return self._end.fileno()

    def send(self, message: Message) -> None:
        """Raises Gone."""
        try:
            with self._sending:
                self._end.sendall(orjson.dumps(message) + b"\n")
        except OSError as error:
            raise Gone from error

    def receive(self) -> list[Message]:
        """Wait for something, then give the messages that are complete; Gone at the end."""
        try:
            found = self._end.recv(_CHUNK)
        except OSError as error:
            raise Gone from error
        if not found:
            raise Gone
        *lines, self._rest = (self._rest + found).split(b"\n")
        return [orjson.loads(line) for line in lines]

    def close(self) -> None:
        """The other end will find this one gone."""
        self._end.close()
