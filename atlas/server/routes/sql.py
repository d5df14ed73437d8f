"""Any SELECT, in a process of its own; and the macros that all questions are made of, each by its name."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated, Any

from fastapi import Body, Path, Query
from pydantic import BaseModel, Field
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from atlas.errors import InputError
from atlas.query.answer import Answer
from atlas.query.atlas import Atlas
from atlas.query.macros import Macro, macro_named, macros
from atlas.server.answers import JSON, STREAMS, View, ended
from atlas.server.errors import Refusal
from atlas.server.replies import Table
from atlas.server.routes.questions import MOST, Asked
from atlas.server.routing import Routes
from atlas.server.sandbox.pool import Sandbox, Statement, Worker
from atlas.server.state import Server

routes = Routes("sql")

_LONGEST = 20  # times `sql_seconds` that a stream may take, the client's time included
_SELECT = "SELECT layer, count(label) AS labelled FROM neurons GROUP BY layer ORDER BY layer"


class OneStatement(Asked):
    """One SELECT (or FROM, DESCRIBE, SHOW, SUMMARIZE) over the tables and macros."""

    sql: str = Field(alias="q", min_length=1, max_length=500_000, examples=[_SELECT])
    limit: int = Field(0, ge=0, le=MOST, description="Rows; 0 for all (in JSON as many as the server allows).")


class SqlQuestion(Asked):
    """The same with values for its $names."""

    sql: str = Field(min_length=1, max_length=500_000, examples=["FROM label_search($words, max_rows := 5)"])
    parameters: dict[Annotated[str, Field(pattern=r"^\w{1,60}$")], Any] | None = Field(
        None, examples=[{"words": "dog"}], description="Values of the $names, bound and never read as SQL."
    )
    limit: int = Field(0, ge=0, le=MOST, description="Rows; 0 for all (in JSON as many as the server allows).")


class SqlTable(BaseModel):
    """Rows of a statement; a repeated column name gets a number, as in DuckDB's subqueries."""

    columns: list[str]
    types: list[str] = Field(description="Of DuckDB.")
    rows: list[dict[str, Any]]
    truncated: bool = Field(description="Whether there are more rows, whose number is not counted.")
    warnings: list[str]


class MacroText(BaseModel):
    """A macro: one question, one file of sql/queries."""

    name: str
    meaning: str = Field(description="The file's header: what it answers, every parameter by name.")
    parameters: list[dict[str, Any]] = Field(description="name, type and default (absent where one must be given).")
    example: str


@routes.get("/sql", reply=SqlTable, keep=False, forms=tuple(STREAMS), statuses=(409, 503))
async def sql(server: Server, view: View, asked: Annotated[OneStatement, Query()]) -> Response:
    """Answer one SELECT over the tables and macros of the atlas, read-only.

    It runs in a process that can reach no other file and no network, for `sql_seconds` in `sql_memory` at most; both
    are told as 400, for the same statement would fail again. JSON is cut at the server's rows and bytes, which
    `truncated` says; JSON lines, CSV and Arrow are not.
    """
    return _reply(server, view, SqlQuestion(sql=asked.sql, parameters=None, limit=asked.limit))


@routes.post("/sql", reply=SqlTable, forms=tuple(STREAMS), statuses=(409, 503))
async def sql_by_post(server: Server, view: View, asked: SqlQuestion) -> Response:
    """Answer one SELECT with values for its $names; as GET otherwise."""
    return _reply(server, view, asked)


@routes.get("/macros", reply=list[MacroText])
def list_macros() -> list[dict[str, Any]]:
    """List the macros that all questions are made of, with what they mean."""
    return [_told(one) for one in macros()]


@routes.get("/macros/{name}", reply=Table, statuses=(404,))
def macro_by_address(
    atlas: Atlas, view: View, name: Annotated[str, Path(pattern=r"^\w{1,60}$", examples=["edges_from"])],
    arguments: Annotated[str, Query(max_length=100_000, examples=['{"of_layer": 0, "of_neuron": 12}'],
                                    description="The macro's parameters by name, as a JSON object.")] = "{}",
) -> Answer:  # fmt: skip
    """Answer one macro with its parameters in the address."""
    try:
        given = json.loads(arguments)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"arguments are no JSON ({error}); write {{}} or an object of the macro's parameters"
        ) from error
    if not isinstance(given, dict):
        raise InputError("arguments are no JSON object; write the macro's parameters by name")
    return _answer(atlas, view, name, given)


@routes.post("/macros/{name}", reply=Table, statuses=(404,))
def macro(
    atlas: Atlas, view: View, name: Annotated[str, Path(pattern=r"^\w{1,60}$", examples=["edges_from"])],
    arguments: Annotated[dict[str, Any], Body(examples=[{"of_layer": 0, "of_neuron": 12}])],
) -> Answer:  # fmt: skip
    """Answer one macro, its parameters by name in the body.

    GET /api/v1/macros lists them. Without `max_rows` the macro's own limit holds; null is all.
    """
    return _answer(atlas, view, name, arguments)


def _answer(atlas: Atlas, view: View, name: str, given: dict[str, Any]) -> Answer:
    found = macro_named(name)
    if found is None:
        raise Refusal(404, f"no macro {name!r}", details="GET /api/v1/macros lists them")
    values = found.bind(given)
    if "max_rows" in values and not view.streamed:
        most = values["max_rows"]
        values["max_rows"] = view.max_rows if most is None else min(most, view.max_rows)
    return atlas.ask(name, values)


def _told(one: Macro) -> dict[str, Any]:
    return {"name": one.name, "meaning": one.meaning, "parameters": [p.told() for p in one.parameters],
            "example": one.example}  # fmt: skip


def _reply(server: Server, view: View, asked: SqlQuestion) -> Response:
    most = server.settings.max_rows
    limit = asked.limit if view.streamed else min(asked.limit or most, most)
    form = STREAMS.get(view.media_type, "json")
    assert server.sandbox is not None
    return SqlReply(
        server.sandbox, Statement(asked.sql, asked.parameters, form, limit), view, server.settings.sql_seconds
    )


class SqlReply(Response):
    """Rows of a statement; the process that makes them is killed when the client goes or the time is up."""

    def __init__(self, sandbox: Sandbox, statement: Statement, view: View, seconds: float) -> None:
        super().__init__(media_type=view.media_type)
        del self.headers["content-length"]
        self._sandbox, self._statement, self._view, self._seconds = sandbox, statement, view, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Ask and send."""
        async with self._sandbox.worker() as worker:
            watch = asyncio.create_task(ended(receive, worker.kill))
            try:
                await (self._stream(worker, send) if self._view.streamed else self._whole(worker, send))
            finally:
                watch.cancel()

    async def _whole(self, worker: Worker, send: Send) -> None:
        rows: list[bytes] = []
        try:
            async with asyncio.timeout(self._seconds):
                async for kind, content in worker.ask(self._statement):
                    if kind == b"H":
                        head = json.loads(content)
                    elif kind == b"P":
                        rows.append(content)
                    else:
                        truncated = json.loads(content)["truncated"]
        except TimeoutError:
            raise _too_long(self._seconds) from None
        cut = [f"the first {len(rows):,} rows; Accept: application/x-ndjson, text/csv or Arrow gives all"] * truncated
        rest = json.dumps({"truncated": truncated, "warnings": cut})[1:]
        begin = (
            f'{{"status":"success","data":{{"columns":{json.dumps(head["columns"])},"types":{json.dumps(head["types"])}'
        )
        body = begin.encode() + b',"rows":[' + b",".join(rows) + b"]," + rest.encode() + b',"message":null}'
        await Response(body, media_type=JSON)({"type": "http"}, _never, send)

    async def _stream(self, worker: Worker, send: Send) -> None:
        frames = worker.ask(self._statement)
        async with asyncio.timeout(self._seconds * _LONGEST):
            started = False
            while True:
                try:
                    async with asyncio.timeout(self._seconds):
                        kind, content = await anext(frames)
                except TimeoutError:
                    raise _too_long(self._seconds) from None
                if not started:
                    await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                    started = True
                async with asyncio.timeout(self._view.seconds):
                    part = content if kind == b"P" else b""
                    await send({"type": "http.response.body", "body": part, "more_body": kind != b"Z"})
                if kind == b"Z":
                    return


async def _never() -> Any:
    raise AssertionError("nothing is read")


def _too_long(seconds: float) -> InputError:
    return InputError(
        f"the statement took more than {seconds:g} s and was stopped; narrow it, or ask where the server allows more"
    )
