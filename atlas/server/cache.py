"""Answers that depend only on the atlas and the address -> kept, with an ETag; a replaced file makes all of them old.

Sits before routing: a kept answer costs a look at the file's date and one in a table.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LARGEST = 1 << 20  # bytes of an answer that is kept


@dataclass(frozen=True)
class _Kept:
    start: Message
    body: bytes


class Cache:
    """ASGI middleware; an endpoint marks what may be kept by `scope["state"]["keep"] = True`."""

    def __init__(self, app: ASGIApp, fingerprint: Callable[[], str], size: int) -> None:
        self._app, self._fingerprint, self._size = app, fingerprint, size
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer from what is kept, else keep what is answered."""
        if scope["type"] != "http" or scope["method"] != "GET":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        tag = self._tag(scope, headers.get("accept", ""))
        kept = self._kept.get(tag)
        if kept is None:
            await self._app(scope, receive, self._keeping(scope, tag, send, headers.get("if-none-match", "")))
            return
        self._kept.move_to_end(tag)
        if _matches(headers.get("if-none-match", ""), tag):
            await _unchanged(kept.start, send)
            return
        await send({**kept.start, "headers": list(kept.start["headers"])})
        await send({"type": "http.response.body", "body": kept.body})

    def _tag(self, scope: Scope, accept: str) -> str:
        asked = (self._fingerprint(), scope["path"], scope["query_string"].decode("latin-1"), accept)
        return f'"{hashlib.sha256(repr(asked).encode()).hexdigest()[:32]}"'

    def _keeping(self, scope: Scope, tag: str, send: Send, known: str) -> Send:
        start: Message = {}
        parts: list[bytes] = []
        whole = True

        async def kept(message: Message) -> None:
            nonlocal start, whole
            if message["type"] == "http.response.start":
                if not scope.get("state", {}).get("keep") or message["status"] != 200:
                    whole = False
                    await send(message)
                    return
                headers = MutableHeaders(scope=message)
                headers["etag"], headers["cache-control"] = tag, "private, no-cache"  # ask again, get 304
                headers["vary"] = "accept, authorization"
                start = message
                await send(message)
                return
            await send(message)
            if not whole:
                return
            parts.append(message.get("body", b""))
            if sum(map(len, parts)) > LARGEST:
                whole = False
            elif not message.get("more_body"):
                self._put(tag, _Kept(start, b"".join(parts)))

        return _or_unchanged(scope, tag, known, kept, send) if known else kept

    def _put(self, tag: str, kept: _Kept) -> None:
        self._kept[tag] = kept
        self._held += len(kept.body)
        while self._held > self._size and self._kept:
            self._held -= len(self._kept.popitem(last=False)[1].body)


def _or_unchanged(scope: Scope, tag: str, known: str, kept: Send, send: Send) -> Send:
    """The same, but a client that has this very answer gets 304 in place of it."""
    dropped = False

    async def answered(message: Message) -> None:
        nonlocal dropped
        if message["type"] == "http.response.start":
            dropped = bool(scope.get("state", {}).get("keep")) and message["status"] == 200 and _matches(known, tag)
            if dropped:
                await _unchanged({**message, "headers": [*message["headers"], (b"etag", tag.encode())]}, send)
                return
        if not dropped:
            await kept(message)

    return answered


def _matches(known: str, tag: str) -> bool:
    return tag in [one.strip().removeprefix("W/") for one in known.split(",")] or known.strip() == "*"


async def _unchanged(start: Message, send: Send) -> None:
    headers = [(name, value) for name, value in start["headers"] if name in (b"etag", b"vary", b"cache-control")]
    await send({"type": "http.response.start", "status": 304, "headers": headers})
    await send({"type": "http.response.body", "body": b""})
