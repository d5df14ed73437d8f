"""A file that lacks tables or columns -> views and empty tables in memory beside it, so that every macro runs.

Other tools write four tables without packed ids; older versions of ours lack newer columns. What is missing reads as
NULL or no rows; the file is not changed. The stand-ins live in memory.main, which shadows atlas.main.
"""

from __future__ import annotations

import duckdb

from atlas.errors import StoreError
from atlas.store.sqlfiles import sql_text

_GENERATED = {
    "src": "src_layer::INTEGER * {d} + src_neuron",
    "tgt": "tgt_layer::INTEGER * {d} + tgt_neuron",
    "feature_id": "layer::BIGINT * {d} + neuron",
    "weight_sum": "mean_weight * count",
    "weight_abs_sum": "mean_abs_weight * count",
    "mean_weight": "weight_sum::DOUBLE / count",
    "mean_abs_weight": "weight_abs_sum::DOUBLE / count",
}


def stand_in(con: duckdb.DuckDBPyConnection, name: str) -> frozenset[str]:
    """Create what the attached file lacks; the names of the missing tables. StoreError without a table neurons."""
    from atlas.tables import TABLES

    present = _present(con)
    if not {"layer", "neuron"} <= present.get("neurons", set()):
        raise StoreError(f"{name} is no atlas: it has no table neurons(layer, neuron); give another --atlas FILE")
    missing = frozenset(TABLES) - set(present)
    width = mlp_width(con)
    sides = _sides_to_compute(present)
    for table, schema in TABLES.items():
        if table in sides:
            continue
        lacking = [field.name for field in schema if field.name not in present.get(table, set())]
        if lacking:
            _empty(con, table, schema)
        if lacking and table in present:
            _view(con, table, present[table], lacking, width)
    for table in sides:
        con.execute(f"CREATE VIEW memory.main.{table} AS {sql_text('ingest', table)}")
    return missing


def mlp_width(con: duckdb.DuckDBPyConnection) -> int:
    """Neurons per layer: from metadata, else from feature_id, else the largest neuron + 1."""
    present = _present(con)
    if "metadata" in present:
        rows = con.execute("SELECT value FROM atlas.metadata WHERE key = 'neurons_per_layer'").fetchall()
        if rows:
            return int(rows[0][0])
    if "feature_id" in present["neurons"]:
        packed = "SELECT any_value((feature_id - neuron) // layer) FROM atlas.neurons WHERE layer > 0"
        if (found := con.execute(packed).fetchall()[0][0]) is not None:
            return int(found)
    return int(con.execute("SELECT coalesce(max(neuron), 0) + 1 FROM atlas.neurons").fetchall()[0][0])


def _sides_to_compute(present: dict[str, set[str]]) -> tuple[str, ...]:
    """What follows from edges, for a file that has edges without it or an older form of it."""
    whole = "rank" in present.get("edges_in", set()) and "edge_totals" in present
    return ("edges_in", "edge_totals") if "edges" in present and not whole else ()


def _present(con: duckdb.DuckDBPyConnection) -> dict[str, set[str]]:
    rows = con.execute(
        "SELECT table_name, list(column_name) FROM duckdb_columns() WHERE database_name = 'atlas' GROUP BY table_name"
    ).fetchall()
    return {table: set(columns) for table, columns in rows}


def _empty(con: duckdb.DuckDBPyConnection, table: str, schema: object) -> None:
    con.register("stand_in_schema", schema.empty_table())  # type: ignore[attr-defined]
    con.execute(f'CREATE TABLE memory.main."{table}" AS FROM stand_in_schema')
    con.unregister("stand_in_schema")


def _view(con: duckdb.DuckDBPyConnection, table: str, present: set[str], lacking: list[str], width: int) -> None:
    con.execute(f'ALTER TABLE memory.main."{table}" RENAME TO "empty_{table}"')
    computed = [f"{_GENERATED[c].format(d=width)} AS {c}" for c in lacking if _computable(c, table, present)]
    columns = ", ".join(["*", *computed])
    con.execute(
        f'CREATE VIEW memory.main."{table}" AS SELECT {columns} FROM atlas."{table}" '
        f'UNION ALL BY NAME SELECT * FROM memory.main."empty_{table}"'
    )


def _computable(column: str, table: str, present: set[str]) -> bool:
    if table not in ("edges", "neurons") or column not in _GENERATED:
        return False
    needs = {
        "src": {"src_layer", "src_neuron"},
        "tgt": {"tgt_layer", "tgt_neuron"},
        "feature_id": {"layer", "neuron"},
        "weight_sum": {"mean_weight", "count"},
        "weight_abs_sum": {"mean_abs_weight", "count"},
        "mean_weight": {"weight_sum", "count"},
        "mean_abs_weight": {"weight_abs_sum", "count"},
    }[column]
    return needs <= present
