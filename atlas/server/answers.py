"""An answer of rows -> the form the client takes: a JSON table, or JSON lines, CSV or Arrow in a stream.

A stream holds one batch of rows at a time: the next is fetched when the client has taken the last. Lines and CSV are
those of `--format jsonl` and `--format csv`.
"""

from __future__ import annotations

import asyncio
import csv
import io
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import duckdb
import orjson
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from atlas.errors import AtlasError, InputError
from atlas.query.answer import Answer, refuse
from atlas.server.errors import Refusal

JSON = "application/json"
STREAMS = {  # media type: form
    "application/x-ndjson": "jsonl",
    "application/jsonl": "jsonl",
    "text/csv": "csv",
    "application/vnd.apache.arrow.stream": "arrow",
}
SVG = "image/svg+xml"
BATCH = 1000  # rows: some 10 ms of work, during which cards wait for the interpreter
MOST_COLUMNS = 5000
_HEADER = 4000  # characters of warnings in a header; servers before us take 8 kB in all


@dataclass(frozen=True)
class View:
    """How the client wants the answer: its media type, and how many rows one JSON answer may have."""

    media_type: str
    max_rows: int
    seconds: float  # that a client may take to take in a part of a stream

    @property
    def streamed(self) -> bool:
        """Whether rows are sent as they are found, in any number."""
        return self.media_type in STREAMS

    def rows(self, limit: int) -> int | None:
        """Rows to ask for: the limit; 0 is all in a stream, and as many as an answer may have in JSON."""
        if self.streamed:
            return limit or None
        return min(limit or self.max_rows, self.max_rows)


def choose(accept: str | None, offered: tuple[str, ...]) -> str:
    """The media type that the client prefers among those offered, the first where it is indifferent; else Refusal 406.

    >>> choose("text/csv, */*;q=0.1", ("application/json", "text/csv"))
    'text/csv'
    """
    wanted = [_preference(part) for part in (accept or "*/*").split(",") if part.strip()] or [("*/*", 1.0)]
    best = max(offered, key=lambda media_type: _quality(media_type, wanted))
    if _quality(best, wanted) <= 0:
        raise Refusal(406, f"there is no such form of this answer: {accept}", details=f"Accept: {', '.join(offered)}")
    return best


def table(answer: Answer, most: int) -> dict[str, Any]:
    """An answer as a JSON table of at most `most` rows; a cut is told by the total and a warning."""
    rows, total = answer.first(most)
    warnings = list(answer.warnings)
    if total is None or total > len(rows):
        left = f"the first {len(rows):,} rows" if total is None else f"{len(rows):,} of {total:,} rows"
        warnings.append(f"{left}; limit=0 with Accept: application/x-ndjson, text/csv or Arrow gives all")
    found = [dict(zip(answer.columns, row, strict=True)) for row in rows]
    return {"columns": answer.columns, "rows": found, "total": total, "warnings": warnings, "sql": answer.sql}


class Streamed(Response):
    """Rows of an answer as they are found. A client that goes away ends the query; so does one that takes nothing.

    What fails before the first row is an error like any other; later the connection is cut, so that a client cannot
    take a part for the whole.
    """

    def __init__(self, answer: Answer, view: View) -> None:
        super().__init__(media_type=view.media_type, headers=notes_header(answer.warnings))
        del self.headers["content-length"]
        self._reading, self._seconds = Reading(answer, STREAMS[view.media_type]), view.seconds
        self.held = ExitStack()  # what must stay open until the end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the parts; the thread that fetches one is never left behind."""
        watch = asyncio.create_task(ended(receive, self._reading.stop))
        try:
            part = await run_in_threadpool(self._reading.next)
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            while part is not None:
                async with asyncio.timeout(self._seconds):
                    await send({"type": "http.response.body", "body": part, "more_body": True})
                part = await run_in_threadpool(self._reading.next)
            await send({"type": "http.response.body", "body": b""})
        except TimeoutError:
            raise Refusal(408, "the client takes nothing") from None  # its connection is cut: the answer has begun
        finally:
            watch.cancel()
            self._reading.stop()
            self.held.close()


class Reading:
    """The parts of a stream, one at a time, in any thread; `stop` from another ends the one under way."""

    def __init__(self, answer: Answer, form: str) -> None:
        self._answer, self._form = answer, form
        self._parts: Iterator[bytes] | None = None
        self._cursor: duckdb.DuckDBPyConnection | None = None
        self._stopped = threading.Event()

    def next(self) -> bytes | None:
        """The next part; None at the end, or when stopped."""
        if self._stopped.is_set():
            return None
        try:
            if self._parts is None:
                self._parts = self._begin()
            return next(self._parts, None)
        except duckdb.InterruptException:
            return None
        except duckdb.Error as error:
            raise refuse(error, self._answer.source_name) from error
        except AtlasError:
            if self._stopped.is_set():  # the interrupt, as `run` tells it
                return None
            raise

    def stop(self) -> None:
        """End the query; nothing to do when it is done."""
        self._stopped.set()
        if self._cursor is not None:
            self._cursor.interrupt()

    def _begin(self) -> Iterator[bytes]:
        self._cursor = self._answer.cursor()
        return parts(self._form, self._answer, self._cursor)


async def ended(receive: Receive, then: Callable[[], None]) -> None:
    """Call `then` when the client goes away."""
    while (await receive())["type"] != "http.disconnect":
        pass
    then()


def notes_header(warnings: tuple[str, ...]) -> dict[str, str]:
    """Warnings as a JSON list in X-Atlas-Warnings, in ASCII; those that do not fit are counted."""
    shown = list(warnings)
    while shown and len(json.dumps(shown)) > _HEADER:
        shown.pop()
    if len(shown) < len(warnings):
        shown.append(f"and {len(warnings) - len(shown)} more")
    return {"x-atlas-warnings": json.dumps(shown)} if shown else {}


def plain(value: object) -> object:
    """What JSON has no form for, as the command line writes it: its text."""
    return str(value)


def encode(value: Any, default: Callable[[Any], Any] = plain) -> bytes:
    """JSON as the command line writes it; NaN and infinities, which JSON lacks, are null."""
    try:
        return orjson.dumps(value, default=default, option=orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_NON_STR_KEYS)
    except TypeError:  # integers beyond 64 bits, which sums are
        return json.dumps(_finite(value, default), ensure_ascii=False, allow_nan=False).encode("utf-8", "replace")


def _finite(value: Any, default: Callable[[Any], Any]) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(one, default) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one, default) for one in value]
    if isinstance(value, float):
        return value if value - value == 0 else None
    return value if value is None or isinstance(value, str | int) else _finite(default(value), default)


def parts(form: str, answer: Answer, cursor: duckdb.DuckDBPyConnection) -> Iterator[bytes]:
    """The rows of an answer in a form of STREAMS, some at a time; the statement runs when the first are asked for."""
    return _WRITERS[form](answer, cursor)


def distinct(names: Sequence[str]) -> list[str]:
    """Names without repeats, as DuckDB makes them in a subquery: a, a_1; a repeat would be lost in an object.

    InputError for more than 5,000.
    """
    if len(names) > MOST_COLUMNS:
        raise InputError(f"{len(names):,} columns; at most {MOST_COLUMNS:,} make sense")
    seen: set[str] = set()
    made = []
    for name in names:
        free, number = name, 0
        while free in seen:
            number += 1
            free = f"{name}_{number}"
        seen.add(free)
        made.append(free)
    return made


def _lines(answer: Answer, cursor: duckdb.DuckDBPyConnection) -> Iterator[bytes]:
    answer.run(cursor)
    names = distinct(answer.columns)
    while rows := cursor.fetchmany(BATCH):
        yield b"\n".join([encode(dict(zip(names, row, strict=True))) for row in rows]) + b"\n"


def _csv(answer: Answer, cursor: duckdb.DuckDBPyConnection) -> Iterator[bytes]:
    answer.run(cursor)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(distinct(answer.columns))
    while rows := cursor.fetchmany(BATCH):
        writer.writerows([json.dumps(v, ensure_ascii=False) if isinstance(v, list) else v for v in row] for row in rows)
        yield out.getvalue().encode()
        out.seek(0)
        out.truncate()
    yield out.getvalue().encode()


def _arrow(answer: Answer, cursor: duckdb.DuckDBPyConnection) -> Iterator[bytes]:
    import pyarrow.ipc

    reader = answer.reader(cursor, BATCH * 8)
    names = distinct(reader.schema.names)
    schema = pyarrow.schema([one.with_name(name) for one, name in zip(reader.schema, names, strict=True)])
    out = io.BytesIO()
    with pyarrow.ipc.new_stream(out, schema) as writer:
        for batch in reader:
            writer.write_batch(pyarrow.RecordBatch.from_arrays(batch.columns, schema=schema))
            yield _taken(out)
    yield _taken(out)


def _taken(out: io.BytesIO) -> bytes:
    taken = out.getvalue()
    out.seek(0)
    out.truncate()
    return taken


_WRITERS: dict[str, Callable[[Answer, duckdb.DuckDBPyConnection], Iterator[bytes]]] = {
    "jsonl": _lines, "csv": _csv, "arrow": _arrow,
}  # fmt: skip


def _preference(part: str) -> tuple[str, float]:
    name, *parameters = (word.strip() for word in part.split(";"))
    given = [one.partition("=")[2] for one in parameters if one.startswith("q=")]
    try:
        return name.lower(), float(given[0]) if given else 1.0
    except ValueError:
        return name.lower(), 0.0


def _quality(media_type: str, wanted: list[tuple[str, float]]) -> float:
    """Of the most exact range that holds the type (RFC 9110, 12.5.1)."""
    ranges = (media_type, media_type.split("/", maxsplit=1)[0] + "/*", "*/*")
    for one in ranges:
        if found := [quality for name, quality in wanted if name == one]:
            return max(found)
    return 0.0
