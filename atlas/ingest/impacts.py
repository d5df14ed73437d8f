"""Measured and estimated impacts -> table impacts; and what of an evaluation is there already."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import duckdb

from atlas.store.sqlfiles import sql_text
from atlas.store.write import append_from_arrow, transaction
from atlas.tables import TABLES

_OF_A_LAYER = ("activation_magnitude", "activation_variance", "is_critical")


def store_impacts(con: duckdb.DuckDBPyConnection, rows: Sequence[Mapping[str, Any]]) -> int:
    """Add rows (columns of TABLES["impacts"], missing ones NULL); a row of the same set and evaluation is replaced.

    A replaced row's activations and is_critical stay where the new one has none: only a layer's analysis knows them.
    Then sum_kl and joint_over_sum follow for sets whose members were measured alone. Returns the rows added. In one
    transaction of its own; of two rows of one set the last counts.
    """
    import pyarrow as pa

    latest = {(row["set_id"], row["eval_id"]): dict(row) for row in rows}
    for known in _analysed(con, latest):
        row = latest[known["set_id"], known["eval_id"]]
        row.update({name: known[name] for name in _OF_A_LAYER if row.get(name) is None})
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


def _analysed(con: duckdb.DuckDBPyConnection, sets: Iterable[tuple[str, str]]) -> list[dict[str, Any]]:
    """What a layer's analysis said of those of the sets that are stored: set_id, eval_id and _OF_A_LAYER."""
    found = con.execute(
        "SELECT set_id, eval_id, activation_magnitude, activation_variance, is_critical FROM impacts "
        "WHERE set_id IN (SELECT unnest($sets)) AND activation_magnitude IS NOT NULL",
        {"sets": [one for one, _ in sets]},
    ).fetchall()
    return [dict(zip(("set_id", "eval_id", *_OF_A_LAYER), row, strict=True)) for row in found]
