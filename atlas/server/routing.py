"""Endpoints of one noun -> FastAPI routes, each in the forms that its paths promise.

An endpoint is a plain function: a parameter `atlas: Atlas` is the open atlas, `server: Server` the server; the others
are what FastAPI reads from the request. It gives back data (or an Answer, Pending, Download, Told, Response).
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

from fastapi import FastAPI, Request
from starlette.responses import Response

from atlas.query.atlas import Atlas
from atlas.server.replies import Envelope, Failure, respond
from atlas.server.state import Server

_ALWAYS = (400, 401, 403, 413, 429, 500)


@dataclass(frozen=True)
class Endpoint:
    """One question. seed: it is in the seed's document, so that it stands bare under /api too."""

    method: str
    path: str  # below /api or /api/v1
    call: Callable[..., Any]
    tag: str
    reply: Any
    seed: bool
    keep: bool  # the answer depends on the atlas and the address alone
    statuses: tuple[int, ...]  # besides 200 and those that any request may get
    job: bool  # may answer 202 with a job

    @property
    def name(self) -> str:
        """Name of the operation: that of its function."""
        return self.call.__name__.strip("_")


@dataclass
class Routes:
    """The endpoints of one noun."""

    tag: str
    endpoints: list[Endpoint] = field(default_factory=list)

    def get(self, path: str, *, reply: Any = Any, **how: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Add a question; `how`: seed, keep (True by default), statuses, job."""
        return self._add("GET", path, reply, {"keep": True, **how})

    def post(self, path: str, *, reply: Any = Any, **how: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Add a request that does something or is too long for an address."""
        return self._add("POST", path, reply, {"keep": False, **how})

    def _add(
        self, method: str, path: str, reply: Any, how: dict[str, Any]
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        def added(call: Callable[..., Any]) -> Callable[..., Any]:
            more = {"seed": False, "statuses": (), "job": False, **how}
            self.endpoints.append(Endpoint(method, path, call, self.tag, reply, **more))
            return call

        return added


def add_routes(app: FastAPI, *groups: Routes) -> None:
    """Give an app the endpoints of all groups, in order."""
    for endpoint in (one for group in groups for one in group.endpoints):
        _add(app, endpoint, envelope=True)
        if endpoint.seed:
            _add(app, endpoint, envelope=False)


def _add(app: FastAPI, endpoint: Endpoint, *, envelope: bool) -> None:
    model = Envelope[endpoint.reply] if envelope else endpoint.reply  # type: ignore[name-defined]
    responses: dict[int | str, dict[str, Any]] = {
        status: {"model": Failure} for status in sorted({*_ALWAYS, *endpoint.statuses})
    }
    if endpoint.job:
        responses[202] = {"description": "A job does it; its address is in the Location header."}
    summary, _, text = inspect.cleandoc(endpoint.call.__doc__ or "").partition("\n")
    app.add_api_route(
        ("/api/v1" if envelope else "/api") + endpoint.path,
        _handler(endpoint, envelope),
        methods=[endpoint.method],
        response_model=None if endpoint.reply is Response else model,
        responses=responses,
        summary=summary.rstrip("."),
        description=text.strip() or None,
        operation_id=endpoint.name + ("" if envelope else "_bare"),
        tags=[endpoint.tag],
    )


def _handler(endpoint: Endpoint, envelope: bool) -> Callable[..., Any]:
    """What FastAPI calls: its parameters are those of the endpoint, without `atlas` and `server`."""
    call, names = endpoint.call, set(inspect.signature(endpoint.call).parameters)

    def given(stack: ExitStack, server: Server, asked: dict[str, Any]) -> dict[str, Any]:
        if "atlas" in names:
            asked["atlas"] = stack.enter_context(server.held.use())
        return asked | ({"server": server} if "server" in names else {})

    def marked(request: Request, result: Any) -> Response:
        request.scope.setdefault("state", {})["keep"] = endpoint.keep
        return respond(request, result, envelope=envelope)

    @wraps(call)
    def in_thread(request: Request, **asked: Any) -> Response:
        with ExitStack() as stack:
            result = call(**given(stack, request.app.state.server, asked))
            return marked(request, result)

    @wraps(call)
    async def in_loop(request: Request, **asked: Any) -> Response:
        with ExitStack() as stack:
            result = await call(**given(stack, request.app.state.server, asked))
            return marked(request, result)

    handler: Any = in_loop if inspect.iscoroutinefunction(call) else in_thread
    handler.__signature__ = _signature(call)
    del handler.__wrapped__  # FastAPI would look through it
    return handler  # type: ignore[no-any-return]


def _signature(call: Callable[..., Any]) -> inspect.Signature:
    hints = typing.get_type_hints(call, include_extras=True)
    request = inspect.Parameter("request", inspect.Parameter.KEYWORD_ONLY, annotation=Request)
    rest = [
        one.replace(annotation=hints.get(name, Any), kind=inspect.Parameter.KEYWORD_ONLY)
        for name, one in inspect.signature(call).parameters.items()
        if hints.get(name) not in (Atlas, Server)
    ]
    return inspect.Signature([request, *rest])
