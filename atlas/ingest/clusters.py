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
from atlas.ingest.json_text import JsonText
from atlas.ingest.labels import Imported, source_of
from atlas.ingest.partitions import Clustering, describe_clustering
from atlas.store.sqlfiles import sql_text
from atlas.store.write import append_from_query

_BATCH = 65_536  # members
_WINDOW = 1 << 20  # characters read at once
ALONE = "in a module of their own (left out)"
OUT_OF_RANGE = "out of the model's range"
_READ = pa.schema(
    [
        ("place", pa.int64()), ("key", pa.string()), ("path", pa.string()), ("flow", pa.float64()),
        ("membership", pa.float64()), ("depth", pa.int64()), ("said", pa.string()),
    ]
)  # fmt: skip
_SHORTER = "finest module held that neuron alone (the module above is taken)"
_Row = tuple[str, str | None, float | None, float | None, int | None, str | None]


def import_assignments(
    con: duckdb.DuckDBPyConnection, file: Path, *, layers: int, d_mlp: int, strict: bool = False
) -> Imported:
    """Assignments of a file -> the clustering "import:<file name>".

    A value is {"path": "158.4" or "158:4" or [158, 4], "flow": ...}, with top, sub and subsub where there is no path,
    or the path itself. Paths that end in the neuron's own rank are mended; the notes say how many, and for how many
    neurons depth, top, sub or subsub do not fit their path. Call it inside a transaction. Raises InputError for a file
    that is not there, is no such object, says that it is of a model of another size or places no neuron, and, when
    `strict`, for the first member that cannot be used.
    """
    found, method = read_assignments(con, file, layers=layers, d_mlp=d_mlp, strict=strict), source_of(file)
    con.execute("DELETE FROM partitions WHERE clustering = $1", [method])
    append_from_query(con, "partitions", "SELECT * FROM temp.assignments")
    con.execute("DROP TABLE temp.assignments")
    describe_clustering(con, Clustering(method, method))
    return found


def read_assignments(
    con: duckdb.DuckDBPyConnection, file: Path, *, layers: int, d_mlp: int, strict: bool = False
) -> Imported:
    """Do the same into the temporary table `assignments`, with the columns of partitions; the atlas is only read."""
    if not file.is_file():
        raise InputError(f"no assignment file at {file}; give a JSON file with an object 'assignments'")
    _check_model(file, _stage(con, file), layers, d_mlp)
    bound = {"layers": layers, "d_mlp": d_mlp}
    con.execute(f"CREATE OR REPLACE TEMP TABLE assignment_lines AS {sql_text('ingest', 'assignment_lines')}", bound)
    faults = con.execute(
        "SELECT fault, count(*), min(place) FROM assignment_lines GROUP BY fault ORDER BY count(*) DESC, fault"
    ).fetchall()
    first = _first(con, faults)
    if strict and first:
        raise InputError(f"{file.name}: {first}; mend it, or leave cluster.strict out of the recipe")
    con.execute(f"CREATE OR REPLACE TEMP TABLE assignment_paths AS {sql_text('ingest', 'assignment_paths')}")
    place = {"method": source_of(file)}
    con.execute(f"CREATE OR REPLACE TEMP TABLE assignments AS {sql_text('ingest', 'assignments')}", place)
    notes, rows = _notes(con), _count(con, "assignments")
    for table in ("assignments_read", "assignment_lines", "assignment_paths"):
        con.execute(f"DROP TABLE temp.{table}")
    read, rejected = sum(n for _, n, _ in faults), {fault: n for fault, n, _ in faults if fault}
    if not rows:
        said = "; ".join(f"{n:,} {fault}" for fault, n in rejected.items()) or "no member of 'assignments'"
        raise InputError(f"{file.name} puts no two neurons into one module ({said}); check that it is of this model")
    return Imported(read, rows, rejected, first, notes)


def _check_model(file: Path, said: Any, layers: int, d_mlp: int) -> None:
    """Refuse a file whose metadata give another size of model than the atlas has."""
    size = [said.get(key) for key in ("num_layers", "neurons_per_layer")] if isinstance(said, dict) else [None, None]
    if all(isinstance(one, int) for one in size) and size != [layers, d_mlp]:
        raise InputError(
            f"{file.name} is of a model of {size[0]} layers of {size[1]} neurons, this atlas has {layers} of {d_mlp}; "
            "give the assignments of this model"
        )


def _notes(con: duckdb.DuckDBPyConnection) -> dict[str, int]:
    """What was mended, what did not fit and who was left out, with their numbers."""
    alone = _count(con, "assignment_paths") - _count(con, "assignments")
    shorter = con.execute(
        "SELECT count(*) FROM assignment_paths JOIN assignments USING (layer, neuron) "
        "WHERE cluster_path <> array_to_string(parts, '.')"
    ).fetchall()[0][0]
    told = con.execute(
        "SELECT note, count(*) FROM (SELECT unnest([mend, odd]) AS note FROM assignment_paths) WHERE note IS NOT NULL "
        "GROUP BY note ORDER BY count(*) DESC, note"
    ).fetchall()
    return {note: n for note, n in [(ALONE, alone), *told, (_SHORTER, shorter)] if n}


def _count(con: duckdb.DuckDBPyConnection, table: str) -> int:
    return int(con.execute(f"SELECT count(*) FROM temp.{table}").fetchall()[0][0])


def _first(con: duckdb.DuckDBPyConnection, faults: list[tuple[str | None, int, int]]) -> str | None:
    place, fault = min(((at, fault) for fault, _, at in faults if fault), default=(None, None))
    if place is None:
        return None
    key = con.execute("SELECT key FROM assignments_read WHERE place = $1", [place]).fetchall()[0][0]
    return f"at {key[:40]!r} {fault}"


def _stage(con: duckdb.DuckDBPyConnection, file: Path) -> Any:
    """Members of the file -> temporary table assignments_read; the file's "metadata"."""
    con.register("assignment_batch", _READ.empty_table())
    con.execute("CREATE OR REPLACE TEMP TABLE assignments_read AS SELECT * FROM assignment_batch")
    metadata: list[Any] = []
    for batch in _batches(file, metadata):
        con.register("assignment_batch", batch)
        con.execute("INSERT INTO assignments_read SELECT * FROM assignment_batch")
    con.unregister("assignment_batch")
    return metadata[-1] if metadata else None


def _batches(file: Path, metadata: list[Any]) -> Iterator[pa.Table]:
    rows: list[_Row] = []
    done = 0
    for key, value in _members(file, metadata):
        rows.append((_encodable(key), *_read(value)))
        if len(rows) == _BATCH:
            yield _table(done, rows)
            done += _BATCH
            rows = []
    if rows:
        yield _table(done, rows)


def _members(file: Path, metadata: list[Any]) -> Iterator[tuple[str, Any]]:
    """Key and value of every assignment; the file's other member "metadata" is put into the list."""
    with file.open(encoding="utf-8") as handle:
        text = JsonText(file, lambda: handle.read(_WINDOW), what="assignment file")
        for name in text.keys():  # noqa: SIM118
            if name == "assignments":
                for key in text.keys():  # noqa: SIM118
                    yield key, text.value()
            elif name == "metadata":
                metadata.append(text.value())
            else:
                text.value()


def _table(done: int, rows: list[_Row]) -> pa.Table:
    columns = (range(done, done + len(rows)), *zip(*rows, strict=True))
    return pa.table([pa.array(column, one.type) for column, one in zip(columns, _READ, strict=True)], schema=_READ)


def _read(value: Any) -> tuple[str | None, float | None, float | None, int | None, str | None]:
    """Path, flow, membership, depth, and top.sub.subsub, each None where the value has none."""
    if not isinstance(value, dict):
        return _path(value), None, None, None, None
    steps = [value.get(part) for part in ("top", "sub", "subsub")]
    said = _path(steps) if all(isinstance(step, int) or step is None for step in steps) else None
    path, depth = value.get("path"), value.get("depth")
    depth = depth if type(depth) is int and 0 <= depth < 1000 else None
    shares = _finite(value.get("flow")), _finite(value.get("membership"))
    return _path(steps if path is None else path), *shares, depth, said if path is not None else None


def _path(value: Any) -> str | None:
    """The module path as text; None where there is none."""
    if isinstance(value, list):
        return _encodable(".".join(str(part) for part in value if part is not None)) or None
    return _encodable(value) if isinstance(value, str) else None


def _encodable(text: str) -> str:
    """Text with halves of surrogate pairs, which JSON may hold and no column, written visibly."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def _finite(value: Any) -> float | None:
    """A share of anything; None for what is none."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) <= 1e15:
        return None
    return float(value)
