"""The process that answers SQL: statements from stdin, one a line as JSON; frames to stdout.

It opens the atlas read-only, gives up whatever it could reach (files, settings, memory, priority), and only then reads
the first statement. A frame is its kind, its length and its bytes: H columns and types, P a part of the rows, Z the
end, E an error. What the server cannot wait for, it kills: a function of DuckDB that works on one long text looks at an
interrupt after ten seconds or more.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any, BinaryIO

import duckdb

from atlas.errors import AtlasError, InputError, ResourceError
from atlas.query.answer import Answer
from atlas.query.atlas import Atlas
from atlas.server.answers import distinct, encode, parts
from atlas.server.sandbox.frames import FRAME
from atlas.server.sandbox.refusals import Closed, closed_names, require_harmless
from atlas.store.connection import Limits
from atlas.store.sqlfiles import sql_files

BEYOND = 512 << 20  # bytes of address space past what DuckDB may use: rows on their way out
_NOWHERE = "/nowhere"
_LOCKS = (
    "SET python_enable_replacements = false",
    "SET temp_directory = ''",
    "SET max_temp_directory_size = '0B'",
    f"SET home_directory = '{_NOWHERE}'",
    f"SET secret_directory = '{_NOWHERE}'",
    f"SET extension_directory = '{_NOWHERE}'",
    "SET allow_persistent_secrets = false",
    "SET allow_community_extensions = false",
    "SET enable_external_access = false",
    "SET disabled_filesystems = 'LocalFileSystem'",
    "SET lock_configuration = true",
)
Order = dict[str, Any]


def main() -> None:
    """Answer until stdin ends."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what anything prints is no frame
    orders: SimpleQueue[Order] = SimpleQueue()
    opening = json.loads(sys.stdin.readline())
    threading.Thread(target=_listen, args=(orders,), daemon=True).start()
    try:
        atlas, closed = _open(opening)
    except AtlasError as error:
        _send(out, b"E", _told(error))
        return
    _send(out, b"Z", {})
    while True:
        _serve(atlas, closed, orders.get(), out)


def _listen(orders: SimpleQueue[Order]) -> None:
    """Hand on what the server orders; the end of stdin is the end of the server, also while a statement runs."""
    for line in sys.stdin:
        orders.put(json.loads(line))
    os._exit(0)


def _open(opening: Order) -> tuple[Atlas, Closed]:
    path = Path(opening["atlas"])
    os.chdir("/")
    os.nice(5)  # cards first
    atlas = Atlas(path, limits=Limits(memory=opening["memory"], threads=opening["threads"]))
    atlas.load_macros(path.stem for path in sql_files("queries"))
    closed = closed_names(atlas.cursor())
    for lock in _LOCKS:
        atlas.con.execute(lock)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # writes no file
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    most = _address_space() + opening["bytes"] + BEYOND
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    return atlas, closed


def _address_space() -> int:
    """Bytes that are mapped now; 8 GiB where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except OSError:
        return 8 << 30


def _serve(atlas: Atlas, closed: Closed, order: Order, out: BinaryIO) -> None:
    try:
        require_harmless(atlas, order["sql"], closed)
        for kind, part in _frames(_asked(atlas, order), order):
            _send(out, kind, part)
    except MemoryError:
        _send(out, b"E", {"kind": "memory", "message": "out of memory"})
    except RecursionError:
        _send(out, b"E", {"kind": "input", "message": "the statement or its answer is nested too deeply"})
    except AtlasError as error:
        _send(out, b"E", _told(error))
    except duckdb.Error as error:  # while rows are fetched
        from atlas.query.answer import refuse

        refused = refuse(error, atlas.name)
        refused.__cause__ = error
        _send(out, b"E", _told(refused))


def _asked(atlas: Atlas, order: Order) -> Answer:
    text, values = order["sql"], order["parameters"]
    if order["form"] == "json" or not order["limit"]:
        return atlas.sql(text, values)
    statement = atlas.sql(text).statement
    return atlas.sql(f"SELECT * FROM ({statement}\n) LIMIT {int(order['limit'])}", values)


def _frames(answer: Answer, order: Order) -> Iterator[tuple[bytes, Any]]:
    cursor = answer.cursor()
    if order["form"] == "json":
        yield from _rows(answer, order, cursor)
        return
    for part in parts(order["form"], answer, cursor):
        yield b"P", part
    yield b"Z", {}


def _rows(answer: Answer, order: Order, cursor: duckdb.DuckDBPyConnection) -> Iterator[tuple[bytes, Any]]:
    """Head, rows as JSON up to the limits of number and bytes, and whether these cut something."""
    answer.run(cursor)
    names = distinct(answer.columns)
    yield b"H", {"columns": names, "types": [str(column[1]) for column in cursor.description or ()]}
    sent, size = 0, 0
    while rows := cursor.fetchmany(100):
        for row in rows:
            text = encode(dict(zip(names, row, strict=True)))
            size += len(text) + 1
            if sent >= order["limit"] or size > order["max_bytes"]:
                if not sent and order["limit"]:
                    raise InputError(f"one row has {size:,} bytes; at most {order['max_bytes']:,} are sent as JSON")
                yield b"Z", {"truncated": True}
                return
            yield b"P", text
            sent += 1
    yield b"Z", {"truncated": False}


def _told(error: AtlasError) -> Order:
    if isinstance(error.__cause__, duckdb.PermissionException):
        return {"kind": "input", "message": "SQL reads the atlas alone, no other files, extensions or settings"}
    if isinstance(error, ResourceError):
        return {"kind": "memory", "message": "out of memory"}
    return {"kind": "input" if isinstance(error, InputError) else "store", "message": str(error)}


def _send(out: BinaryIO, kind: bytes, value: Any) -> None:
    content = value if isinstance(value, bytes) else json.dumps(value).encode()
    out.write(FRAME.pack(kind, len(content)) + content)
    out.flush()


if __name__ == "__main__":
    main()
