"""Numbered schema files -> an empty atlas, each applied once, in a transaction.

`metadata.schema_version` is the number of the last file applied.
"""

from __future__ import annotations

import re

import duckdb

from atlas.errors import StoreError
from atlas.store.sqlfiles import header, sql_files
from atlas.store.write import transaction

_D_MLP = re.compile(r"\d+ /\* d_mlp \*/")


def newest_version() -> int:
    """The schema version that this code writes."""
    return _number(sql_files("schema")[-1].name)


def apply_schema(con: duckdb.DuckDBPyConnection, *, d_mlp: int) -> None:
    """Create what is missing in the file opened for writing; d_mlp is the model's MLP width."""
    done = schema_version(con)
    with transaction(con):
        for path in sql_files("schema"):
            if _number(path.name) > done:
                con.execute(_D_MLP.sub(f"{d_mlp} /* d_mlp */", path.read_text(encoding="utf-8")))
        con.execute("DELETE FROM metadata WHERE key = 'schema_version'")
        con.execute("INSERT INTO metadata VALUES ('schema_version', $1)", [str(newest_version())])


def store_macros(con: duckdb.DuckDBPyConnection) -> None:
    """Store the macros of sql/queries in the file, with comments, so that any DuckDB client can call them."""
    for path in sql_files("queries"):
        text = path.read_text(encoding="utf-8")
        meaning = " ".join(line for line in header(text) if not line.startswith("Try:")).replace("'", "''")
        con.execute(text)
        con.execute(f"COMMENT ON MACRO TABLE {path.stem} IS '{meaning}'")


def schema_version(con: duckdb.DuckDBPyConnection) -> int:
    """Version of the attached file; 0 for a file without our metadata (another tool's four tables)."""
    tables = con.execute(
        "SELECT count(*) FROM duckdb_tables() WHERE database_name = 'atlas' AND table_name = 'metadata'"
    ).fetchall()
    if tables[0][0] == 0:
        return 0
    rows = con.execute("SELECT value FROM atlas.metadata WHERE key = 'schema_version'").fetchall()
    return int(rows[0][0]) if rows else 0


def require_readable(con: duckdb.DuckDBPyConnection, name: str) -> None:
    """Refuse a file that a newer atlas wrote."""
    found, known = schema_version(con), newest_version()
    if found > known:
        raise StoreError(f"{name} has schema {found}, this atlas reads up to {known}; upgrade atlas (pip install -U)")


def _number(name: str) -> int:
    return int(name.split("_", 1)[0])
