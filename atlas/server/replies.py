"""What an endpoint gives back -> a response: bare at the paths of the seed's document, in an envelope under /api/v1.

Values are written as the command line writes them (`--format json`): what JSON has no form for becomes its text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import orjson
from fastapi import Request
from pydantic import BaseModel, Field
from starlette.responses import FileResponse, Response

from atlas.query.answer import Answer

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
    """Rows of one question; `total` is what there would be without the limit."""

    columns: list[str]
    rows: list[dict[str, Any]]
    total: int
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


def respond(request: Request, result: Any, *, envelope: bool) -> Response:
    """The response of an endpoint's result; `request` says which forms the client takes."""
    if isinstance(result, Response):
        return result
    if isinstance(result, Download):
        return FileResponse(result.path, media_type=result.media_type, filename=result.name)
    if isinstance(result, Pending):
        told = Told(result.document, "queued: ask at the location given", 202, {"location": result.location})
        return _json(told, envelope)
    return _json(result if isinstance(result, Told) else Told(result), envelope)


def table(answer: Answer) -> dict[str, Any]:
    """An answer as a Table."""
    rows = answer.rows()
    return {"columns": answer.columns, "rows": rows, "total": answer.total, "warnings": list(answer.warnings),
            "sql": answer.sql}  # fmt: skip


def encode(value: Any) -> bytes:
    """JSON as the command line writes it: dates and other types as text; NaN and infinities, which JSON lacks, null."""
    return orjson.dumps(value, default=_plain, option=orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_NON_STR_KEYS)


def _json(told: Told, envelope: bool) -> Response:
    value = table(told.value) if isinstance(told.value, Answer) else told.value
    if envelope:
        value = {"status": "success", "data": value, "message": told.message}
    return Response(encode(value), told.status, media_type="application/json", headers=dict(told.headers))


def _plain(value: object) -> object:
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else str(value)
