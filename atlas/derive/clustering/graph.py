"""Edges of the atlas -> batches or arrays for a clustering algorithm; no Python object per edge.

A directed edge weighs what a SQL expression over its columns says; edges of weight 0 are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from atlas.errors import InputError, StoreError

DEFAULT_WEIGHT = "mean_abs_weight^2"
USUAL_COUNT = 3
_BATCH = 1 << 20  # edges; 16 MB
_SELECT = "SELECT src, tgt, (\n{weight}\n)::DOUBLE AS weight FROM edges WHERE count >= $1"


@dataclass(frozen=True)
class EdgeChoice:
    """Which edges go in, and what each of them weighs."""

    weight: str = DEFAULT_WEIGHT
    min_count: int = USUAL_COUNT


@dataclass(frozen=True)
class EdgeArrays:
    """A directed weighted graph of `ids` (packed, ascending); src and tgt are places in it, sorted by (src, tgt)."""

    ids: npt.NDArray[np.int64]
    src: npt.NDArray[np.int32]
    tgt: npt.NDArray[np.int32]
    weight: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.src)


def count_edges(con: duckdb.DuckDBPyConnection, choice: EdgeChoice) -> int:
    """Edges that go in.

    Raises InputError for a weight that is no expression over columns of edges, or that is negative, not finite or
    NULL for an edge (with their number); StoreError when no edge is left.
    """
    if choice.min_count < 1:
        raise InputError(f"the minimum count is {choice.min_count}, it must be at least 1")
    text = _select(con, choice)
    tally = (
        "SELECT count(*), count(*) FILTER (weight IS NULL OR NOT isfinite(weight) OR weight < 0), "
        f"count(*) FILTER (weight > 0) FROM ({text})"
    )
    try:
        seen, bad, kept = con.execute(tally, [choice.min_count]).fetchall()[0]
    except duckdb.Error as error:
        raise _not_a_weight(choice.weight, _first_line(error)) from error
    if seen != (rows := _rows(con, choice)):
        raise _not_a_weight(choice.weight, f"it makes {seen:,} rows of {rows:,} edges")
    if bad:
        raise InputError(
            f"the weight {choice.weight} is negative, not finite or NULL for {bad:,} of {seen:,} edges; give one that "
            "is 0 or more everywhere, such as abs(...) or coalesce(..., 0)"
        )
    if not kept:
        raise _nothing(con, choice, seen)
    return int(kept)


def usual_count(con: duckdb.DuckDBPyConnection) -> int:
    """The minimum count when none is asked for: 3, or 1 where no edge was seen more than once (edges from weights)."""
    most = con.execute("SELECT max(count) FROM edges").fetchall()[0][0]
    return 1 if most == 1 else USUAL_COUNT


def edge_batches(con: duckdb.DuckDBPyConnection, choice: EdgeChoice) -> Iterator[pa.RecordBatch]:
    """Batches of (src, tgt, weight) by packed id, sorted; DuckDB sorts within its memory limit. Weights are > 0."""
    text = f"SELECT * FROM ({_select(con, choice)}) WHERE weight > 0 ORDER BY src, tgt"
    yield from con.sql(text, params=[choice.min_count]).to_arrow_reader(_BATCH)


def edge_arrays(con: duckdb.DuckDBPyConnection, choice: EdgeChoice) -> EdgeArrays:
    """Edges as arrays over compact numbers, 16 bytes an edge (32 while they are read)."""
    read = pa.Table.from_batches(list(edge_batches(con, choice)))
    src, tgt, weight = (read[name].to_numpy() for name in ("src", "tgt", "weight"))
    del read
    return compact(src, tgt, weight)


def compact(src: npt.NDArray[np.integer], tgt: npt.NDArray[np.integer], weight: npt.NDArray[np.float64]) -> EdgeArrays:
    """Edges between packed ids, sorted, -> edges between places in the list of the ids they have."""
    seen = np.zeros(int(max(src.max(), tgt.max())) + 1, dtype=bool)
    seen[src], seen[tgt] = True, True
    number = np.cumsum(seen, dtype=np.int32) - np.int32(1)
    return EdgeArrays(np.flatnonzero(seen), number[src], number[tgt], np.asarray(weight, dtype=np.float64))


def _select(con: duckdb.DuckDBPyConnection, choice: EdgeChoice) -> str:
    """The query of the edges, once its weight is known to be one expression over the columns of edges."""
    text = _SELECT.replace("{weight}", choice.weight)
    try:
        statements = con.extract_statements(text)
        if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
            raise _not_a_weight(choice.weight, "it is more than one expression")
        _refuse_chance(con, choice.weight)
        names = [one[0] for one in con.execute(f"{text} LIMIT 0", [choice.min_count]).description or ()]
    except duckdb.Error as error:
        raise _not_a_weight(choice.weight, _first_line(error)) from error
    if names != ["src", "tgt", "weight"]:
        raise _not_a_weight(choice.weight, "it is more than one expression")
    return text


def _refuse_chance(con: duckdb.DuckDBPyConnection, weight: str) -> None:
    """Edges are read twice and runs repeated by seed: random() would be another weight each time."""
    if not (called := set(re.findall(r"(\w+)\"?\s*\(", weight.lower()))):
        return
    known = "SELECT DISTINCT function_name FROM duckdb_functions() WHERE stability = 'VOLATILE'"
    if chance := sorted(called & {name for (name,) in con.execute(known).fetchall()}):
        raise _not_a_weight(weight, f"{chance[0]}() gives another value each time")


def _rows(con: duckdb.DuckDBPyConnection, choice: EdgeChoice) -> int:
    return int(con.execute("SELECT count(*) FROM edges WHERE count >= $1", [choice.min_count]).fetchall()[0][0])


def _first_line(error: duckdb.Error) -> str:
    return str(error).splitlines()[0]


def _not_a_weight(weight: str, found: str) -> InputError:
    return InputError(
        f"the weight {weight!r} is no SQL expression over the columns of edges ({found}); use one such as "
        f"{DEFAULT_WEIGHT} or abs(weight_sum)"
    )


def _nothing(con: duckdb.DuckDBPyConnection, choice: EdgeChoice, seen: int) -> StoreError:
    held = con.execute("SELECT count(*), max(count) FROM edges").fetchall()[0]
    if not held[0]:
        return StoreError('the atlas has no edges: nothing to cluster; "atlas edges project" puts some in')
    if seen:
        return StoreError(f"the weight {choice.weight} is 0 for all {seen:,} edges: nothing to cluster; give another")
    return StoreError(
        f"no edge has a count of at least {choice.min_count}: nothing to cluster; the largest count is {held[1]}, "
        "lower --min-count (in a recipe cluster.min_count) or measure more graphs (relp.graphs)"
    )
