"""Answers that depend only on the atlas and the address -> kept, with an ETag; a replaced file makes all of them old.

Sits before routing: a kept answer costs a look at the file's date and one in a table. Runs in the event loop alone.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LARGEST = 1 << 20  # bytes of an answer that is kept
_ENTRY = 2048  # bytes that an entry takes besides its body: headers, keys, objects


@dataclass(frozen=True)
class _Kept:
    start: Message
    body: bytes

    @property
    def size(self) -> int:
        return len(self.body) + _ENTRY


class Cache:
    """ASGI middleware; an endpoint marks what may be kept by `scope["state"]["keep"] = True`."""

    def __init__(self, app: ASGIApp, fingerprint: Callable[[], str], size: int) -> None:
        self._app, self._fingerprint, self._size = app, fingerprint, size
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._of = ""  # the fingerprint of what is kept
        self.held = 0  # bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer from what is kept, else keep what is answered."""
        if scope["type"] != "http" or scope["method"] != "GET":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        tag, known = self._tag(scope, headers.get("accept", "")), headers.get("if-none-match", "")
        kept = self._kept.get(tag)
        if kept is None:
            await self._app(scope, receive, _Keeping(self._put, scope, send, tag, known))
            return
        self._kept.move_to_end(tag)
        if _matches(known, tag):
            await _unchanged(kept.start, send)
            return
        await send({**kept.start, "headers": list(kept.start["headers"])})
        await send({"type": "http.response.body", "body": kept.body})

    def _tag(self, scope: Scope, accept: str) -> str:
        now = self._fingerprint()
        if now != self._of:
            self._kept.clear()
            self._of, self.held = now, 0
        asked = (now, scope["path"], scope["query_string"].decode("latin-1"), accept)
        return f'"{hashlib.sha256(repr(asked).encode()).hexdigest()[:32]}"'

    def _put(self, tag: str, kept: _Kept) -> None:
        if tag in self._kept:  # two asked at once
            self.held -= self._kept.pop(tag).size
        self._kept[tag] = kept
        self.held += kept.size
        while self.held > self._size:
            self.held -= self._kept.popitem(last=False)[1].size


@dataclass
class _Keeping:
    """`send` that keeps what goes by, or tells a client that it has this very answer already."""

    put: Callable[[str, _Kept], None]
    scope: Scope
    send: Send
    tag: str
    known: str  # If-None-Match
    start: Message | None = None  # None: nothing is kept
    parts: list[bytes] = field(default_factory=list)
    size: int = 0
    unchanged: bool = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            await self._begin(message)
        elif not self.unchanged:
            await self.send(message)
            self._keep(message)

    async def _begin(self, message: Message) -> None:
        if not self.scope.get("state", {}).get("keep") or message["status"] != 200:
            await self.send(message)
            return
        headers = MutableHeaders(raw=list(message["headers"]))
        headers["etag"], headers["cache-control"] = self.tag, "private, no-cache"  # ask again, get 304
        headers["vary"] = "accept, authorization"
        self.start = {**message, "headers": headers.raw}
        self.unchanged = _matches(self.known, self.tag)
        if self.unchanged:
            await _unchanged(self.start, self.send)
        else:
            await self.send({**self.start, "headers": list(headers.raw)})

    def _keep(self, message: Message) -> None:
        if self.start is None:
            return
        self.parts.append(message.get("body", b""))
        self.size += len(self.parts[-1])
        if self.size > LARGEST:
            self.start = None
            self.parts.clear()
        elif not message.get("more_body"):
            self.put(self.tag, _Kept(self.start, b"".join(self.parts)))


def _matches(known: str, tag: str) -> bool:
    return tag in [one.strip().removeprefix("W/") for one in known.split(",")] or known.strip() == "*"


async def _unchanged(start: Message, send: Send) -> None:
    headers = [(name, value) for name, value in start["headers"] if name in (b"etag", b"vary", b"cache-control")]
    await send({"type": "http.response.start", "status": 304, "headers": headers})
    await send({"type": "http.response.body", "body": b""})
