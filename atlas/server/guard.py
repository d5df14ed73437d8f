"""Every request before it reaches an endpoint: host, page, token, rate, size; every answer after: safe headers.

Plain ASGI: what a request costs here is a fraction of a millisecond, and nothing behind it can leave it out.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from limits import RateLimitItem, parse
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from atlas.errors import AtlasError, InputError
from atlas.server.errors import Refusal, of_failure, of_fault
from atlas.server.settings import Settings
from atlas.server.tokens import Tokens

if TYPE_CHECKING:
    from starlette.responses import Response

OPEN_PATHS = frozenset({"/api/health", "/api/v1/health"})  # answered without a token: for load balancers
_SAFE = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
}


class Guard:
    """ASGI middleware; `owner` in the scope's state is the token's name, None where no token is asked for."""

    def __init__(self, app: ASGIApp, settings: Settings, tokens: Tokens) -> None:
        self._app, self._settings, self._tokens = app, settings, tokens
        self._rate = _rate(settings.rate)
        self._limiter = MovingWindowRateLimiter(MemoryStorage())
        self._hosts = {"localhost", "127.0.0.1", "[::1]", settings.host}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let through what may pass."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._socket(scope, receive, send)
        else:
            await self._request(scope, receive, send)

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def sent(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                for name, value in _SAFE.items():
                    headers.setdefault(name, value)
            await send(message)

        response: Response | None = None
        try:
            self._admit(scope)
            replayed = await self._body(scope, receive)
            await self._app(scope, replayed, sent)
        except AtlasError as error:
            response = of_failure(error)
        except Exception as error:  # noqa: BLE001 - the last line of defence: logged, and no trace for the client
            response = of_fault(error)
        if response is not None and not started:
            await response(scope, receive, sent)

    async def _socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self._admit(scope)
        except Refusal as refusal:
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": str(refusal)[:120]})
            return
        await self._app(scope, receive, send)

    def _admit(self, scope: Scope) -> None:
        """Raise Refusal for a wrong host, page or token, and for one request too many."""
        headers = Headers(scope=scope)
        self._known_host(headers)
        self._known_page(headers)
        owner = self._owner(scope, headers)
        scope.setdefault("state", {})["owner"] = owner
        if self._rate is not None:
            self._count(self._rate, owner or (scope.get("client") or ("unknown", 0))[0])

    def _known_host(self, headers: Headers) -> None:
        """Against rebinding: a page of another name that resolves to this machine is refused (loopback only)."""
        name = headers.get("host", "").rsplit(":", 1)[0] if "]" not in headers.get("host", "") else "[::1]"
        if self._settings.loopback and name not in self._hosts:
            raise Refusal(403, f"host {name!r} is not this server's", details="ask 127.0.0.1 or localhost")

    def _known_page(self, headers: Headers) -> None:
        origin = headers.get("origin")
        if origin is None or origin in self._settings.origins or "*" in self._settings.origins:
            return
        if origin.split("://", 1)[-1] != headers.get("host"):
            raise Refusal(
                403, f"pages of {origin} may not ask", details="start the server with --allow-origin to let them"
            )

    def _owner(self, scope: Scope, headers: Headers) -> str | None:
        if scope["path"] in OPEN_PATHS:
            return None
        if not (self._settings.require_token or not self._settings.loopback or self._tokens.any()):
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
                whole = await _whole(receive, most)
        except TimeoutError:
            told = f"the body did not come in within {self._settings.body_seconds:g} s"
            raise Refusal(408, told, headers={"connection": "close"}) from None
        return _replay(whole, receive)


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
