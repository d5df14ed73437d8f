"""An atlas -> one content hash, and sizes: order-free, without times and machine facts.

Each row becomes text, each text a 64-bit half of its MD5; their exact sum does not depend on the order of rows,
threads or storage. Two builds of one recipe have equal hashes.
Text and MD5 take 2.3 us a row, four minutes for an edge table of a 32B model: tables of numbers with more than LARGE
rows are mixed as 64-bit words instead, an exact sum likewise.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import duckdb

from atlas.tables import TABLES

if TYPE_CHECKING:
    import numpy.typing as npt
    import pyarrow as pa

LARGE = 10_000_000  # rows; below, the value is that of the text's MD5

# What may differ between two builds of one recipe: when, where, by which process and in how many shards (every shard
# of the activations has a row for every neuron).
_LEFT_OUT = {
    "ingests": {"started", "finished", "rows_in"},
    "labels": {"created"},
    "cluster_labels": {"created"},
    "label_scores": {"created"},
    # the last bits of a vector depend on the processor and on which texts were embedded together
    "label_texts": {"factor", "code", *(f"signs_{word}" for word in range(6))},
}
_SPLITS = ("recipe.activations.shards", "recipe.relp.shards")
_INDEX = "search_index"  # a mark by DuckDB's own hash, which may change with its version
_EMBEDDED = "label_embedding_texts"  # likewise
_MACHINE_FACTS = (
    "created",
    "machine",
    "build_command",
    "torch_version",
    "recipe_path",
    "python_version",
    _INDEX,
    _EMBEDDED,
    *_SPLITS,
)
_NUMBERS = frozenset({"UTINYINT", "USMALLINT", "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "FLOAT", "DOUBLE"})
_AT_ONCE = 1 << 17
_NULL = 0xA24BAED4963EE407


def table_hashes(con: duckdb.DuckDBPyConnection) -> dict[str, str]:
    """Per table "<rows>:<sum of row hashes>", over the stored columns."""
    present = {
        row[0] for row in con.execute("SELECT table_name FROM duckdb_tables() WHERE database_name = 'atlas'").fetchall()
    }
    return {table: _hash_table(con, table) for table in sorted(present & set(TABLES))}


def content_hash(con: duckdb.DuckDBPyConnection) -> str:
    """One hash of all tables (32 hex digits)."""
    lines = "\n".join(f"{table} {value}" for table, value in table_hashes(con).items())
    return hashlib.sha256(lines.encode()).hexdigest()[:32]


def row_counts(con: duckdb.DuckDBPyConnection) -> dict[str, int]:
    """Rows of every table of the file, by name."""
    names = con.execute(
        "SELECT table_name FROM duckdb_tables() WHERE database_name = 'atlas' ORDER BY table_name"
    ).fetchall()
    return {name: int(con.execute(f'SELECT count(*) FROM atlas."{name}"').fetchall()[0][0]) for (name,) in names}


def _hash_table(con: duckdb.DuckDBPyConnection, table: str) -> str:
    columns = {name: kind for name, kind in _stored_columns(con, table) if name not in _LEFT_OUT.get(table, set())}
    names = ", ".join(f'"{name}"' for name in columns)
    rows = int(con.execute(f"SELECT count(*) FROM atlas.{table}").fetchall()[0][0])
    if rows > LARGE and set(columns.values()) <= _NUMBERS:
        return f"{rows}:{_sum_of_words(con, f'SELECT {names} FROM atlas.{table}'):x}"
    where = f"WHERE key NOT IN {_MACHINE_FACTS}" if table == "metadata" else ""
    rows, total = con.execute(
        f"SELECT count(*), coalesce(sum(md5_number_lower(row({names})::VARCHAR)), 0) FROM atlas.{table} {where}"
    ).fetchall()[0]
    return f"{rows}:{total:x}"


def _sum_of_words(con: duckdb.DuckDBPyConnection, select: str) -> int:
    """Sum over rows of a 64-bit hash of their numbers' bits; exact, so free of order. One pass, 1 MB at a time."""
    total = 0
    for batch in con.sql(select).to_arrow_reader(_AT_ONCE):
        marks = _mixed_rows([_words(column) for column in batch.columns])
        total += (int((marks >> 32).sum()) << 32) + int((marks & 0xFFFFFFFF).sum())
    return total


def _words(column: pa.Array) -> npt.NDArray[Any]:
    """The bits of each number as uint64, of floats as doubles; NULL is a word of its own."""
    import numpy as np

    floating = str(column.type) in ("float", "double")
    values = column.fill_null(0).to_numpy(zero_copy_only=False)
    words = values.astype(np.float64 if floating else np.int64).view(np.uint64)
    return np.where(column.is_valid().to_numpy(zero_copy_only=False), words, _NULL) if column.null_count else words


def _mixed_rows(columns: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Columns [n] uint64 -> one word a row: after each column the finaliser of SplitMix64, so their order counts."""
    import numpy as np

    mixed = np.full(len(columns[0]), len(columns), np.uint64)
    for words in columns:
        mixed ^= words
        mixed += np.uint64(0x9E3779B97F4A7C15)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            mixed ^= mixed >> np.uint64(shift)
            mixed *= np.uint64(factor)
        mixed ^= mixed >> np.uint64(31)
    return mixed


def _stored_columns(con: duckdb.DuckDBPyConnection, table: str) -> list[tuple[str, str]]:
    generated = {"tgt_layer", "tgt_neuron", "mean_weight", "mean_abs_weight"} if table == "edges" else set()
    rows = con.execute(
        "SELECT column_name, data_type FROM duckdb_columns() WHERE database_name = 'atlas' AND table_name = $1 "
        "ORDER BY column_index",
        [table],
    ).fetchall()
    return [(name, kind) for name, kind in rows if name not in generated]
