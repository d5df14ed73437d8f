"""A statement -> what in it is not answered: several at once, no SELECT, functions that tell of the machine.

The locks (a file attached read-only, no access to others, a locked configuration) hold without this; here is what they
leave open, names of folders for example, and a sentence in place of DuckDB's. The statement is read by DuckDB's own
parser (json_serialize_sql), so that comments, quotes and case hide no name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import duckdb

from atlas.errors import InputError
from atlas.query.answer import refuse
from atlas.query.atlas import Atlas

_OPEN_FUNCTIONS = {
    "duckdb_columns", "duckdb_functions", "duckdb_tables", "duckdb_types", "duckdb_views", "generate_series",
    "json_each", "json_tree", "range", "repeat", "repeat_row", "unnest",
}  # fmt: skip
_OPEN_VIEWS = {"columns", "duckdb_columns", "duckdb_tables", "duckdb_types", "duckdb_views", "tables"}
_CLOSED_SCALARS = {"current_setting", "getenv", "getvariable", "which_secret", "write_log"}
_ALSO_OPEN = "GET /api/v1/macros lists the macros, SHOW TABLES the tables"


@dataclass(frozen=True)
class Closed:
    """Names, in small letters, that a statement may not use."""

    functions: frozenset[str]
    views: frozenset[str]


def closed_names(con: duckdb.DuckDBPyConnection) -> Closed:
    """All table functions and views of DuckDB itself but the few that only tell of tables, whatever the version."""
    functions = {row[0].lower() for row in con.execute(_FUNCTIONS).fetchall()}
    views = {row[0].lower() for row in con.execute("SELECT view_name FROM duckdb_views() WHERE internal").fetchall()}
    return Closed(frozenset((functions - _OPEN_FUNCTIONS) | _CLOSED_SCALARS), frozenset(views - _OPEN_VIEWS))


_FUNCTIONS = """SELECT DISTINCT function_name FROM duckdb_functions()
    WHERE internal AND function_type IN ('table', 'table_macro', 'pragma')"""


def require_harmless(atlas: Atlas, statement: str, closed: Closed) -> None:
    """Raise InputError for a statement that is not one SELECT, or names what is closed."""
    atlas.require_select(statement)
    try:
        told = atlas.cursor().execute("SELECT json_serialize_sql($1::VARCHAR)", [statement]).fetchall()[0][0]
    except duckdb.Error as error:
        raise refuse(error, atlas.name) from error
    tree = json.loads(told)
    if tree["error"]:
        raise InputError(f"this form of statement is not answered here ({tree['error_message']}); use a SELECT")
    for kind, name in _names(tree):
        if name in (closed.functions if kind == "function" else closed.views):
            raise InputError(f"{name} is not answered here: SQL reads the atlas alone; {_ALSO_OPEN}")


def _names(tree: Any) -> Iterator[tuple[str, str]]:
    """(function or table, name in small letters) of everything that a statement names."""
    left = [tree]
    while left:
        item = left.pop()
        if isinstance(item, list):
            left += item
        elif isinstance(item, dict):
            left += item.values()
            for key, kind in (("function_name", "function"), ("table_name", "table")):
                if isinstance(item.get(key), str):
                    yield kind, item[key].lower()
            path = (item.get("qualified_name") or {}).get("path") or [""]
            yield "table" if "table_name" in item else "function", str(path[-1]).lower()
