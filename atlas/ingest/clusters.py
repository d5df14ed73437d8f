"""Cluster assignments of other tools ({"assignments": {"L24/5326": {"path": "158.4", "flow": 1e-6}}}) -> partitions.

The file may be one object of 200 MB: its members are decoded from a window of text and go to DuckDB in batches, so no
Python object of a neuron outlives its batch. What an assignment is about is then decided by set-based SQL.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from atlas.errors import InputError
from atlas.ingest.labels import Imported, source_of
from atlas.ingest.partitions import Clustering, describe_clustering
from atlas.ingest.wiring_cache import members
from atlas.store.sqlfiles import sql_text
from atlas.store.write import append_from_query

_BATCH = 65_536  # members
_READ = pa.schema([("place", pa.int64()), ("key", pa.string()), ("path", pa.string()), ("flow", pa.float64())])


def import_assignments(
    con: duckdb.DuckDBPyConnection, file: Path, *, layers: int, d_mlp: int, strict: bool = False
) -> Imported:
    """Assignments of a file -> the clustering "import:<file name>".

    A value is {"path": "158.4" or "158:4" or [158, 4], "flow": ...}, with top, sub and subsub where there is no path,
    or the path itself. Call it inside a transaction. Raises InputError for a file that is not there, is no such object
    or places no neuron, and, when `strict`, for the first member that cannot be used.
    """
    if not file.is_file():
        raise InputError(f"no assignment file at {file}; give a JSON file with an object 'assignments'")
    _stage(con, file)
    bound = {"layers": layers, "d_mlp": d_mlp}
    con.execute(f"CREATE OR REPLACE TEMP TABLE assignment_lines AS {sql_text('ingest', 'assignment_lines')}", bound)
    faults = con.execute(
        "SELECT fault, count(*), min(place) FROM assignment_lines GROUP BY fault ORDER BY count(*) DESC, fault"
    ).fetchall()
    first = _first(con, faults)
    if strict and first:
        raise InputError(f"{file.name}: {first}; mend it, or leave cluster.strict out of the recipe")
    method = source_of(file)
    con.execute("DELETE FROM partitions WHERE clustering = $1", [method])
    rows = append_from_query(con, "partitions", sql_text("ingest", "assignments"), {"method": method})
    for table in ("assignments_read", "assignment_lines"):
        con.execute(f"DROP TABLE temp.{table}")
    read, rejected = sum(n for _, n, _ in faults), {fault: n for fault, n, _ in faults if fault}
    if not rows:
        said = "; ".join(f"{n:,} {fault}" for fault, n in rejected.items()) or "no member of 'assignments'"
        raise InputError(f"{file.name} puts no two neurons into one module ({said}); check that it is of this model")
    describe_clustering(con, Clustering(method, method))
    alone = read - rows - sum(rejected.values())
    return Imported(read, rows, rejected, first, {"in a module of their own (left out)": alone} if alone else {})


def _first(con: duckdb.DuckDBPyConnection, faults: list[tuple[str | None, int, int]]) -> str | None:
    place, fault = min(((at, fault) for fault, _, at in faults if fault), default=(None, None))
    if place is None:
        return None
    key = con.execute("SELECT key FROM assignments_read WHERE place = $1", [place]).fetchall()[0][0]
    return f"at {key[:40]!r} {fault}"


def _stage(con: duckdb.DuckDBPyConnection, file: Path) -> None:
    con.execute("CREATE OR REPLACE TEMP TABLE assignments_read (place BIGINT, key VARCHAR, path VARCHAR, flow DOUBLE)")
    for batch in _batches(file):
        con.register("assignment_batch", batch)
        try:
            con.execute("INSERT INTO assignments_read SELECT * FROM assignment_batch")
        finally:
            con.unregister("assignment_batch")


def _batches(file: Path) -> Iterator[pa.Table]:
    rows: list[tuple[str, str | None, float | None]] = []
    done = 0
    for key, value in members(file, inside="assignments", what="assignment file"):
        rows.append((_encodable(key), _path(value), _flow(value)))
        if len(rows) == _BATCH:
            yield _table(done, rows)
            done += _BATCH
            rows = []
    if rows:
        yield _table(done, rows)


def _table(done: int, rows: list[tuple[str, str | None, float | None]]) -> pa.Table:
    columns = (range(done, done + len(rows)), *zip(*rows, strict=True))
    return pa.table([pa.array(column, one.type) for column, one in zip(columns, _READ, strict=True)], schema=_READ)


def _path(value: Any) -> str | None:
    """The module path as text; None where the value has none."""
    if isinstance(value, dict):
        path = value.get("path")
        value = [value.get(part) for part in ("top", "sub", "subsub")] if path is None else path
    if isinstance(value, list):
        return _encodable(".".join(str(part) for part in value if part is not None)) or None
    return _encodable(value) if isinstance(value, str) else None


def _encodable(text: str) -> str:
    """Text with halves of surrogate pairs, which JSON may hold and no column, written visibly."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def _flow(value: Any) -> float | None:
    flow = value.get("flow") if isinstance(value, dict) else None
    if not isinstance(flow, int | float) or isinstance(flow, bool) or abs(flow) > 1e15:  # no share of anything
        return None
    return float(flow)
