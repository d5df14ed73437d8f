"""Table edges -> what follows from it: edges_in (by target), edge_totals (by neuron), edges_top."""

from __future__ import annotations

import duckdb

from atlas.progress import Task
from atlas.store.sqlfiles import sql_text
from atlas.store.write import replace_from_query

DERIVED = ("edges_in", "edge_totals", "edges_top")


def derive_sides(con: duckdb.DuckDBPyConnection, *, task: Task | None = None) -> int:
    """Fill the derived tables anew; their rows. Inside the caller's transaction."""
    rows = 0
    for table in DERIVED:
        rows += replace_from_query(con, table, sql_text("ingest", table))
        if task:
            task.advance()
    return rows


def derive_if_missing(con: duckdb.DuckDBPyConnection) -> None:
    """The same for a file of a schema that had no edge_totals; nothing for one without edges."""
    missing = "SELECT EXISTS (FROM edges) AND NOT EXISTS (FROM edge_totals)"
    if con.execute(missing).fetchall()[0][0]:
        derive_sides(con)
