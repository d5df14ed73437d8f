"""Shard folders -> temporary views `shard_<table>` that the statements of sql/ingest read.

Every view has a column `shard` (index of the shard), so that float sums can be added in one fixed order.
"""

from __future__ import annotations

from pathlib import Path

import duckdb

from atlas.shards import shard_files
from atlas.tables import SHARDS


def open_shards(con: duckdb.DuckDBPyConnection, root: Path | None, *tables: str) -> None:
    """Create the views of some tables of one measurement; a measurement that was not made (None) gives empty views."""
    for table in tables:
        if root is None:
            con.execute(_empty(table))
            continue
        parts = [
            f"SELECT *, {index} AS shard FROM read_parquet('{str(path).replace(chr(39), chr(39) * 2)}')"
            for index, path in enumerate(shard_files(root, table))
        ]
        con.execute(f"CREATE OR REPLACE TEMP VIEW shard_{table} AS " + " UNION ALL ".join(parts))


def close_shards(con: duckdb.DuckDBPyConnection, *tables: str) -> None:
    """Drop the views again: nothing of the build folder stays behind."""
    for table in tables:
        con.execute(f"DROP VIEW IF EXISTS temp.shard_{table}")


def _empty(table: str) -> str:
    columns = ", ".join(f'CAST(NULL AS {_sql_type(str(field.type))}) AS "{field.name}"' for field in SHARDS[table])
    return f"CREATE OR REPLACE TEMP VIEW shard_{table} AS SELECT {columns}, 0 AS shard WHERE false"


def _sql_type(arrow: str) -> str:
    names = {
        "int8": "TINYINT",
        "int16": "SMALLINT",
        "int32": "INTEGER",
        "int64": "BIGINT",
        "float": "FLOAT",
        "double": "DOUBLE",
        "string": "VARCHAR",
    }
    if arrow.startswith("list<"):
        return _sql_type(arrow.rsplit(": ", 1)[1].rstrip(">")) + "[]"
    return names[arrow]
