"""What an endpoint gives back -> a response: bare at the paths of the seed's document, in an envelope under /api/v1.

Values are written as the command line writes them (`--format json`): what JSON has no form for becomes its text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from fastapi import Request
from pydantic import BaseModel, Field
from starlette.responses import FileResponse, Response

from atlas.query.answer import Answer
from atlas.server.answers import JSON, Streamed, View, encode, table

T = TypeVar("T")


class Failure(BaseModel):
    """Any answer that is not 2xx."""

    error: str = Field(examples=["layer 9 is out of range: the model has layers 0 to 3"])
    details: Any = None


class Envelope(BaseModel, Generic[T]):
    """Every 2xx answer under /api/v1."""

    status: Literal["success"] = "success"
    data: T
    message: str | None = None


class Table(BaseModel):
    """Rows of one question; `total` is what there would be without the limit, null where that is not counted."""

    columns: list[str]
    rows: list[dict[str, Any]]
    total: int | None
    warnings: list[str]
    sql: str = Field(description="The statement; it runs in any DuckDB shell on the atlas file.")


@dataclass(frozen=True)
class Pending:
    """202: a job does it; `location` is where to ask."""

    document: dict[str, Any]
    location: str


@dataclass(frozen=True)
class Download:
    """A file as it stands."""

    path: Path
    media_type: str
    name: str


@dataclass(frozen=True)
class Told:
    """A value with a message for the envelope, a status and headers of its own."""

    value: Any
    message: str | None = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


def respond(request: Request, result: Any, *, view: View, envelope: bool) -> Response:
    """The response of an endpoint's result, in the form of the view."""
    if isinstance(result, Answer) and view.streamed:
        return Streamed(result, view)
    if isinstance(result, Response):
        return result
    if isinstance(result, Download):
        return FileResponse(result.path, media_type=result.media_type, filename=result.name)
    if isinstance(result, Pending):
        told = Told(result.document, "queued: ask at the location given", 202, {"location": result.location})
        return _json(told, view, envelope)
    return _json(result if isinstance(result, Told) else Told(result), view, envelope)


def _json(told: Told, view: View, envelope: bool) -> Response:
    value = table(told.value, view.max_rows) if isinstance(told.value, Answer) else told.value
    if envelope:
        value = {"status": "success", "data": value, "message": told.message}
    return Response(encode(value, _plain), told.status, media_type=JSON, headers=dict(told.headers))


def _plain(value: object) -> object:
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else str(value)
