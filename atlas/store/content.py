"""An atlas -> one content hash, and sizes: order-free, without times and machine facts.

Each row becomes text, each text a 64-bit half of its MD5; their exact sum does not depend on the order of rows,
threads or storage. Two builds of one recipe have equal hashes.
"""

from __future__ import annotations

import hashlib

import duckdb

from atlas.tables import TABLES

# What may differ between two builds of one recipe: when, where, by which process and in how many shards (every shard
# of the activations has a row for every neuron).
_LEFT_OUT = {
    "ingests": {"started", "finished", "rows_in"},
    "labels": {"created"},
}
_SPLITS = ("recipe.activations.shards", "recipe.relp.shards")
_MACHINE_FACTS = ("created", "machine", "build_command", "torch_version", "recipe_path", "python_version", *_SPLITS)


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
    columns = [f'"{name}"' for name in _stored_columns(con, table) if name not in _LEFT_OUT.get(table, set())]
    where = f"WHERE key NOT IN {_MACHINE_FACTS}" if table == "metadata" else ""
    rows, total = con.execute(
        f"SELECT count(*), coalesce(sum(md5_number_lower(row({', '.join(columns)})::VARCHAR)), 0) "
        f"FROM atlas.{table} {where}"
    ).fetchall()[0]
    return f"{rows}:{total:x}"


def _stored_columns(con: duckdb.DuckDBPyConnection, table: str) -> list[str]:
    generated = {"tgt_layer", "tgt_neuron", "mean_weight", "mean_abs_weight"} if table == "edges" else set()
    rows = con.execute(
        "SELECT column_name FROM duckdb_columns() WHERE database_name = 'atlas' AND table_name = $1 "
        "ORDER BY column_index",
        [table],
    ).fetchall()
    return [name for (name,) in rows if name not in generated]
