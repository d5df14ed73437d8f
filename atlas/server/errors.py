"""Whatever goes wrong -> one shape, {error, details}, with the status that fits; never a trace.

400 what was asked is wrong, 401 no or an unknown token, 403 not from that page, 404 there is none, 409 the atlas or
its model cannot answer this, 413 too large, 415 not JSON, 429 too often, 500 our fault, 503 busy or out of memory.
"""

from __future__ import annotations

import errno
import logging
import re
import secrets
from collections.abc import Mapping
from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match, Route

from atlas.errors import AtlasError, InputError, ResourceError, ServiceError
from atlas.server.jobs.job import NotFound

_LOG = logging.getLogger("atlas.server")
_JSON = re.compile(r"application/([\w.+-]+\+)?json\b", re.IGNORECASE)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_TOLD = {404: "there is no such path; GET / lists them"}


class Refusal(AtlasError):
    """An answer with a status of its own."""

    def __init__(
        self, status: int, error: str, *, details: object = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(error)
        self.status, self.details, self.headers = status, details, dict(headers or {})


def refused(status: int, error: str, details: object = None, headers: Mapping[str, str] | None = None) -> Response:
    """The one shape of errors."""
    body = orjson.dumps({"error": error, "details": details}, default=str)
    return Response(
        body, status, media_type="application/json", headers={"cache-control": "no-store", **(headers or {})}
    )


def of_failure(error: AtlasError) -> Response:
    """Our own errors."""
    if isinstance(error, Refusal):
        return refused(error.status, str(error), error.details, error.headers)
    return refused(status_of(error), str(error))


def status_of(error: AtlasError) -> int:
    """400 for what was given, 404 for an unknown job, 503 for memory and disk, 502 for services, else 409."""
    for kind, status in ((NotFound, 404), (InputError, 400), (ResourceError, 503), (ServiceError, 502)):
        if isinstance(error, kind):
            return status
    return 409


def of_fault(error: BaseException) -> Response:
    """A fault of ours: its trace goes to the log, its number to the client."""
    number = secrets.token_hex(4)
    _LOG.error("fault %s", number, exc_info=error)
    return refused(500, "internal error", f"the server's log has it under {number}")


def add_handlers(app: FastAPI) -> None:
    """Give every failure the one shape."""

    async def failure(_: Request, error: Exception) -> Response:
        assert isinstance(error, AtlasError)
        return of_failure(error)

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        kind = request.headers.get("content-type", "")
        if (
            request.method == "POST"
            and not _JSON.match(kind)
            and any(one["loc"][0] == "body" for one in error.errors())
        ):
            return refused(415, f"the body is {kind or 'of no type'}", 'send JSON, "Content-Type: application/json"')
        return refused(400, "; ".join(map(_sentence, error.errors())), [_place(one) for one in error.errors()])

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if error.status_code != 405:
            return refused(error.status_code, str(error.detail).lower(), _TOLD.get(error.status_code), error.headers)
        allowed = {"allow": ", ".join(_methods(request))}
        if request.method == "OPTIONS":
            return Response(status_code=204, headers=allowed)
        return refused(405, f"{request.url.path} does not take {request.method}", f"use {allowed['allow']}", allowed)

    async def disk(_: Request, error: Exception) -> Response:
        assert isinstance(error, OSError)
        if error.errno not in _FULL:
            return of_fault(error)
        return refused(503, f"the disk is full ({error.strerror}); free space and ask again")

    async def fault(_: Request, error: Exception) -> Response:
        return of_fault(error)

    app.add_exception_handler(Exception, fault)
    app.add_exception_handler(AtlasError, failure)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(OSError, disk)


def _methods(request: Request) -> list[str]:
    """What this address takes."""
    routes = [route for route in request.app.routes if isinstance(route, Route)]
    fitting = [route for route in routes if route.matches(request.scope)[0] is not Match.NONE]
    found = {method for route in fitting for method in route.methods or ()}
    return sorted({*found, "OPTIONS", *({"HEAD"} if "GET" in found else ())})


def _place(problem: Mapping[str, Any]) -> dict[str, str]:
    return {"at": ".".join(map(str, problem["loc"])), "problem": str(problem["msg"])}


def _sentence(problem: Mapping[str, Any]) -> str:
    return f"{'.'.join(map(str, problem['loc'][1:])) or 'body'}: {problem['msg']}"
