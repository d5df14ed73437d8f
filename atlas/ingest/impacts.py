"""Measured and estimated impacts -> table impacts; and what of an evaluation is there already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import duckdb

from atlas.store.sqlfiles import sql_text
from atlas.store.write import append_from_arrow, transaction
from atlas.tables import TABLES


def store_impacts(con: duckdb.DuckDBPyConnection, rows: Sequence[Mapping[str, Any]]) -> int:
    """Add rows (columns of TABLES["impacts"], missing ones NULL); a row of the same set and evaluation is replaced.

    Then sum_kl and joint_over_sum follow for sets whose members were measured alone. Returns the rows added. In one
    transaction of its own; of two rows of one set the last counts.
    """
    import pyarrow as pa

    latest = {(row["set_id"], row["eval_id"]): dict(row) for row in rows}
    ordered = sorted(latest.values(), key=lambda row: (row["eval_id"], row["neurons"]))
    table = pa.Table.from_pylist(ordered, schema=TABLES["impacts"])
    con.register("new_impacts", table)
    try:
        with transaction(con):
            con.execute(sql_text("ingest", "impacts_replaced"))
            added = append_from_arrow(con, "impacts", table)
            con.execute(sql_text("ingest", "impacts_sums"))
    finally:
        con.unregister("new_impacts")
    return added


def stored_impacts(con: duckdb.DuckDBPyConnection, eval_id: str) -> dict[tuple[int, ...], dict[str, Any]]:
    """The measured rows of one evaluation by their set of packed ids, ascending; {} in an atlas without the table."""
    there = con.execute("SELECT count(*) FROM duckdb_columns() WHERE table_name = 'impacts'").fetchall()
    if not there[0][0]:
        return {}
    found = con.execute("SELECT * FROM impacts WHERE eval_id = $id AND evidence = 'measured'", {"id": eval_id})
    names = [column[0] for column in found.description or ()]
    rows = (dict(zip(names, row, strict=True)) for row in found.fetchall())
    return {tuple(row["neurons"]): row for row in rows}
