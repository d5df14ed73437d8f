"""Endpoints of one noun -> FastAPI routes, each in the forms that its paths promise.

An endpoint is a plain function: a parameter `atlas: Atlas` is the open atlas, `server: Server` the server, `view: View`
the form of the answer and `stack: ExitStack` what is closed after it; the others are what FastAPI reads from the
request. It gives back data (or an Answer, Pending, Download, Told, Response).
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import wraps
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from pydantic import BaseModel
from starlette.convertors import Convertor, register_url_convertor
from starlette.responses import JSONResponse, Response

from atlas.query.atlas import Atlas
from atlas.server.answers import JSON, STREAMS, Streamed, View, choose
from atlas.server.replies import Envelope, Failure, Table, respond
from atlas.server.state import Server

_ALWAYS = (400, 401, 403, 413, 429, 500)
_OF_ATLAS = (409, 503)  # the atlas cannot answer this; memory does not suffice
_GIVEN = (Atlas, Server, View, ExitStack)


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
    forms: tuple[str, ...] = ()  # media types besides JSON (of a Response: all); a Table has all streams anyhow
    hints: Mapping[str, Any] = field(default_factory=dict)  # annotations in place of the function's

    @property
    def name(self) -> str:
        """Name of the operation: that of its function."""
        return self.call.__name__.strip("_")

    @property
    def annotations(self) -> dict[str, Any]:
        """What each parameter of the function is."""
        return typing.get_type_hints(self.call, include_extras=True) | dict(self.hints)

    @property
    def offered(self) -> tuple[str, ...]:
        """Media types of its answer; empty where it is not ours to choose."""
        if self.reply is Response:
            return ()
        if self.reply is Table:
            return (JSON, *STREAMS, *self.forms)
        if self.forms or typing.get_origin(self.reply) in (dict, list) or _is_model(self.reply):
            return (JSON, *self.forms)
        return ()


@dataclass
class Routes:
    """The endpoints of one noun."""

    tag: str
    endpoints: list[Endpoint] = field(default_factory=list)

    def get(self, path: str, *, reply: Any = Any, **how: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Add a question; `how`: seed, keep (True by default), statuses, job, forms."""
        return self._add("GET", path, reply, {"keep": True, **how})

    def post(self, path: str, *, reply: Any = Any, **how: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Add a request that does something or is too long for an address."""
        return self._add("POST", path, reply, {"keep": False, **how})

    def ask(self, path: str, *, reply: Any = Any, **how: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Add a question whose parameter `asked`, a pydantic model, comes in the address (GET) or the body (POST)."""

        def added(call: Callable[..., Any]) -> Callable[..., Any]:
            model = typing.get_type_hints(call)["asked"]
            self._add("GET", path, reply, {"keep": True, "hints": {"asked": Annotated[model, Query()]}, **how})(call)
            return self._add("POST", path, reply, {"keep": False, **how})(call)

        return added

    def _add(
        self, method: str, path: str, reply: Any, how: dict[str, Any]
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        def added(call: Callable[..., Any]) -> Callable[..., Any]:
            more = {"seed": False, "statuses": (), "job": False, **how}
            self.endpoints.append(Endpoint(method, path, call, self.tag, reply, **more))
            return call

        return added


def _is_model(reply: Any) -> bool:
    return isinstance(reply, type) and issubclass(reply, BaseModel)


class _Neuron(Convertor[str]):
    """Any id form of a neuron in an address, "L24/N5326" among them."""

    regex = r"[^/]+(?:/[Nn]?\d+)?"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


class _Module(_Neuron):
    """A module path; names of files, which end in .json, are none."""

    regex = r"\d+(?:\.\d+)*"


def add_routes(app: FastAPI, *groups: Routes) -> None:
    """Give an app the endpoints of all groups, in order."""
    register_url_convertor("neuron", _Neuron())
    register_url_convertor("module", _Module())
    for endpoint in (one for group in groups for one in group.endpoints):
        _add(app, endpoint, envelope=True)
        if endpoint.seed:
            _add(app, endpoint, envelope=False)


def _add(app: FastAPI, endpoint: Endpoint, *, envelope: bool) -> None:
    model = None if endpoint.reply is Response else Envelope[endpoint.reply] if envelope else endpoint.reply  # type: ignore[name-defined]
    summary, _, text = inspect.cleandoc(endpoint.call.__doc__ or "").partition("\n")
    app.add_api_route(
        ("/api/v1" if envelope else "/api") + endpoint.path,
        _handler(endpoint, envelope),
        methods=[endpoint.method],
        response_model=model,
        response_class=Response if endpoint.reply is Response else JSONResponse,
        responses=_responses(endpoint),
        summary=summary.rstrip("."),
        description=text.strip() or None,
        operation_id=endpoint.name + _suffix(endpoint) + ("" if envelope else "_bare"),
        tags=[endpoint.tag],
    )


def _suffix(endpoint: Endpoint) -> str:
    """Of a question that can be asked both ways, whose function is one."""
    return "_by_post" if endpoint.method == "POST" and "asked" in endpoint.annotations else ""


def _responses(endpoint: Endpoint) -> dict[int | str, dict[str, Any]]:
    statuses = {*_ALWAYS, *endpoint.statuses}
    statuses |= {*_OF_ATLAS} if Atlas in endpoint.annotations.values() else set()
    statuses |= {406} if endpoint.offered else set()
    responses: dict[int | str, dict[str, Any]] = {
        status: {"model": Failure} if status >= 400 else {"description": "There is nothing more to tell."}
        for status in sorted(statuses)
    }
    if other := endpoint.forms if endpoint.reply is Response else [one for one in endpoint.offered if one != JSON]:
        responses[200] = {"content": {form: {} for form in other}}
    if endpoint.job:
        responses[202] = {"description": "A job does it; its address is in the Location header."}
    return responses


def _handler(endpoint: Endpoint, envelope: bool) -> Callable[..., Any]:
    """What FastAPI calls: its parameters are those of the endpoint, without what the server gives itself."""
    call, offered = endpoint.call, endpoint.offered
    given_by_type = {name: kind for name, kind in endpoint.annotations.items() if kind in _GIVEN}

    def given(stack: ExitStack, request: Request, view: View, asked: dict[str, Any]) -> dict[str, Any]:
        server: Server = request.app.state.server
        makes: dict[Any, Callable[[], Any]] = {
            Atlas: lambda: stack.enter_context(server.held.use()), Server: lambda: server,
            View: lambda: view, ExitStack: lambda: stack,
        }  # fmt: skip
        return asked | {name: makes[kind]() for name, kind in given_by_type.items()}

    def marked(request: Request, result: Any, view: View, stack: ExitStack) -> Response:
        request.scope.setdefault("state", {})["keep"] = endpoint.keep
        response = respond(request, result, view=view, envelope=envelope)
        if isinstance(response, Streamed):
            response.held = stack.pop_all()
        return response

    @wraps(call)
    def in_thread(request: Request, **asked: Any) -> Response:
        view = _view(request, offered)
        with ExitStack() as stack:
            result = call(**given(stack, request, view, asked))
            return marked(request, result, view, stack)

    @wraps(call)
    async def in_loop(request: Request, **asked: Any) -> Response:
        view = _view(request, offered)
        with ExitStack() as stack:
            result = await call(**given(stack, request, view, asked))
            return marked(request, result, view, stack)

    handler: Any = in_loop if inspect.iscoroutinefunction(call) else in_thread
    handler.__signature__ = _signature(endpoint)
    del handler.__wrapped__  # FastAPI would look through it
    return handler  # type: ignore[no-any-return]


def _view(request: Request, offered: tuple[str, ...]) -> View:
    settings = request.app.state.server.settings
    form = choose(request.headers.get("accept"), offered) if offered else JSON
    return View(form, settings.max_rows, settings.body_seconds)


def _signature(endpoint: Endpoint) -> inspect.Signature:
    hints = endpoint.annotations
    request = inspect.Parameter("request", inspect.Parameter.KEYWORD_ONLY, annotation=Request)
    rest = [
        one.replace(annotation=hints.get(name, Any), kind=inspect.Parameter.KEYWORD_ONLY)
        for name, one in inspect.signature(endpoint.call).parameters.items()
        if hints.get(name) not in _GIVEN
    ]
    return inspect.Signature([request, *rest])
