"""Every request before it reaches an endpoint: host, page, token, rate, size; every answer after: safe headers.

Plain ASGI: what a request costs here is a fraction of a millisecond, and nothing behind it can leave it out.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Iterable, Mapping
from urllib.parse import parse_qs

from limits import RateLimitItem, parse
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from atlas.errors import AtlasError, InputError, StoreError
from atlas.server.errors import Refusal, of_failure, of_fault
from atlas.server.settings import Settings
from atlas.server.tokens import Tokens

_LOG = logging.getLogger("atlas.server")
MOST = 512  # requests at once, those that wait for a job and channels of events among them
OPEN_PATHS = frozenset({"/api/health", "/api/v1/health"})  # answered without a token: for load balancers
_SAFE = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",  # unless the answer says otherwise
}
_PREFLIGHT = {
    "access-control-allow-methods": "GET, HEAD, POST",
    "access-control-allow-headers": "authorization, content-type, if-none-match",
    "access-control-max-age": "600",
}


class Guard:
    """ASGI middleware; `owner` in the scope's state is the token's name, None where no token is asked for."""

    def __init__(self, app: ASGIApp, settings: Settings, tokens: Tokens) -> None:
        self._app, self._settings, self._tokens = app, settings, tokens
        self._rate = _rate(settings.rate)
        self._limiter = MovingWindowRateLimiter(MemoryStorage())
        self._hosts = {"localhost", "127.0.0.1", "[::1]", settings.host.lower()}
        self._origins = frozenset(map(_origin, settings.origins))
        self._locked = False  # once there were tokens: removing the last one must not open the server
        self._in_hand = 0  # requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let through what may pass."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._socket(scope, receive, send)
        else:
            await self._request(scope, receive, send)

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = _Sending(send, {**_SAFE, **self._for_page(Headers(scope=scope))}, head=scope["method"] == "HEAD")
        response: Response | None = None
        self._in_hand += 1
        try:
            response = await self._passed(scope, receive, answer)
        except AtlasError as error:
            response = of_fault(error) if answer.status else of_failure(error)
        except Exception as error:  # noqa: BLE001 - the last line of defence: logged, and no trace for the client
            response = None if answer.status == 500 else of_fault(error)  # else it is in the log, and answered
        finally:
            self._in_hand -= 1
        if response is not None and not answer.status:
            await response(scope, receive, answer)
        await answer.end()

    async def _passed(self, scope: Scope, receive: Receive, answer: _Sending) -> Response | None:
        """Hand the request on, or give the answer for a preflight; Refusal for what may not pass."""
        if self._in_hand > MOST:
            raise Refusal(503, "too many requests at once", details="ask again", headers={"retry-after": "1"})
        headers = Headers(scope=scope)
        self._known_host(headers)
        self._known_page(headers)
        if scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
            return Response(status_code=204, headers=_PREFLIGHT if self._for_page(headers) else {})
        self._admit(scope, headers)
        try:
            replayed = await self._body(scope, receive)
        except ClientDisconnect:
            return None
        if scope["method"] == "HEAD":
            scope, replayed = {**scope, "method": "GET"}, answer.until_started
        await self._app(scope, replayed, answer)
        return None

    async def _socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        try:
            self._known_host(headers)
            self._known_page(headers)
            self._admit(scope, headers)
        except AtlasError as refusal:
            await receive()
            await _refuse_socket(of_failure(refusal), scope, send)
            return
        await self._app(scope, receive, send)

    def _admit(self, scope: Scope, headers: Headers) -> None:
        """Raise Refusal without a known token where one is needed, and for one request too many."""
        owner = self._owner(scope, headers)
        scope.setdefault("state", {})["owner"] = owner
        if self._rate is not None:
            self._count(self._rate, owner or (scope.get("client") or ("unknown", 0))[0])

    def _for_page(self, headers: Headers) -> dict[str, str]:
        """What lets a page of another origin read the answer (CORS); nothing unless it was allowed to."""
        origin = headers.get("origin", "")
        if not origin or not self._origins & {origin, "*"}:
            return {}
        exposed = "etag, location, retry-after, content-disposition, x-atlas-warnings"
        return {"access-control-allow-origin": origin, "access-control-expose-headers": exposed, "vary": "origin"}

    def _known_host(self, headers: Headers) -> None:
        """Against rebinding: a page of another name that resolves to this machine is refused (loopback only)."""
        host = headers.get("host", "").lower()
        name = host if host.endswith("]") else host.rsplit(":", 1)[0]
        if self._settings.loopback and name not in self._hosts:
            raise Refusal(403, f"host {name!r} is not this server's", details="ask 127.0.0.1 or localhost")

    def _known_page(self, headers: Headers) -> None:
        origin = headers.get("origin")
        if origin is None or self._origins & {origin, "*"}:
            return
        if origin.split("://", 1)[-1] != headers.get("host"):
            raise Refusal(
                403, f"pages of {origin} may not ask", details="start the server with --allow-origin to let them"
            )

    def _owner(self, scope: Scope, headers: Headers) -> str | None:
        if scope["path"] in OPEN_PATHS:
            return None
        if not self._needs_token():
            return None
        secret = _secret(scope, headers)
        if secret is None:
            told = {"www-authenticate": "Bearer"}
            raise Refusal(401, "a token is needed", details='send "Authorization: Bearer TOKEN"', headers=told)
        owner = self._tokens.owner(secret)
        if owner is None:
            told = {"www-authenticate": 'Bearer error="invalid_token"'}
            raise Refusal(401, "unknown token", details="atlas token list shows the names", headers=told)
        return owner

    def _needs_token(self) -> bool:
        settings = self._settings
        try:
            self._locked = self._locked or settings.require_token or not settings.loopback or self._tokens.any()
        except StoreError as error:
            _LOG.error("%s", error)
            raise Refusal(503, "the tokens cannot be read", details="the server's log says why") from error
        return self._locked

    def _count(self, rate: RateLimitItem, who: str) -> None:
        if self._limiter.hit(rate, who):
            return
        reset = self._limiter.get_window_stats(rate, who).reset_time
        wait = max(1, int(reset - time.time()) + 1)
        raise Refusal(429, f"more than {rate}", details=f"go on in {wait} s", headers={"retry-after": str(wait)})

    async def _body(self, scope: Scope, receive: Receive) -> Receive:
        """Take in the whole body, up to the limit of size and time, and play it back."""
        most = self._settings.max_body
        length = Headers(scope=scope).get("content-length", "0")
        if length.isdigit() and int(length) > most:
            raise _too_large(most)
        if scope["method"] in ("GET", "HEAD", "OPTIONS"):
            return receive
        try:
            async with asyncio.timeout(self._settings.body_seconds):
                return _replay(await _whole(receive, most), receive)
        except TimeoutError:
            told = f"the body did not come in within {self._settings.body_seconds:g} s"
            raise Refusal(408, told, headers={"connection": "close"}) from None


class _Sending:
    """`send`, with safe headers; knows what was sent."""

    def __init__(self, send: Send, headers: Mapping[str, str], *, head: bool) -> None:
        self._send, self._headers, self._head = send, headers, head
        self.status = 0  # 0: nothing sent yet
        self._started, self._whole = asyncio.Event(), False

    async def __call__(self, message: Message) -> None:
        """Send on; of the answer to HEAD only the head."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(raw=list(message["headers"]))
            for name, value in self._headers.items():
                headers.add_vary_header(value) if name == "vary" else headers.setdefault(name, value)
            await self._send({**message, "headers": headers.raw})
            self._started.set()
        elif not self._head:
            self._whole = not message.get("more_body")
            await self._send(message)

    async def until_started(self) -> Message:
        """`receive` of HEAD: once the head is sent the client is gone, so that nobody goes on to make a long body."""
        await self._started.wait()
        return {"type": "http.disconnect"}

    async def end(self) -> None:
        """Finish the answer to HEAD; another one that broke off stays unfinished, which the client sees."""
        if self._head and self.status:
            await self._send({"type": "http.response.body", "body": b""})


async def _refuse_socket(response: Response, scope: Scope, send: Send) -> None:
    """Refuse a WebSocket before it is one: as HTTP where the server can, so that the status says why."""
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 1008, "reason": "refused"})
        return
    start = {"status": response.status_code, "headers": response.raw_headers}
    await send({"type": "websocket.http.response.start", **start})
    await send({"type": "websocket.http.response.body", "body": response.body})


def _origin(text: str) -> str:
    if text != "*" and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/\s]+", text):
        raise InputError(f'"--allow-origin {text}" names no origin; write it as https://example.org, without a path')
    return text


def _rate(text: str | None) -> RateLimitItem | None:
    if text is None:
        return None
    try:
        return parse(text)
    except ValueError as error:
        raise InputError(f'cannot read the rate {text!r}; write it as "600/minute" or "20/second"') from error


def _secret(scope: Scope, headers: Headers) -> str | None:
    kind, _, secret = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer" and secret:
        return secret.strip()
    if scope["type"] == "websocket":  # browsers cannot set headers there
        given = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("token")
        return given[0] if given else None
    return None


async def _whole(receive: Receive, most: int) -> list[Message]:
    size, messages = 0, []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        messages.append(message)
        size += len(message.get("body", b""))
        if size > most:
            raise _too_large(most)
        if not message.get("more_body"):
            return messages


def _replay(messages: Iterable[Message], receive: Receive) -> Receive:
    left = list(messages)[::-1]

    async def replayed() -> Message:
        return left.pop() if left else await receive()

    return replayed


def _too_large(most: int) -> Refusal:
    return Refusal(413, f"the body is larger than {most:,} bytes", headers={"connection": "close"})
