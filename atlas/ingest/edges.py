"""Attribution-graph shards -> graphs, neuron_graphs, edges, edges_in, edges_top, token_edges.

Edge sums are exact integers of a fixed quantum (see sql/ingest/edges.sql), one source layer at a time, so memory is
bounded by the edges of one layer and no order of graphs or threads changes a bit.
"""

from __future__ import annotations

from pathlib import Path

import duckdb

from atlas.errors import ShardError
from atlas.ingest.views import close_shards, open_shards
from atlas.store.ledger import set_metadata
from atlas.store.sqlfiles import sql_text
from atlas.store.write import append_from_query, replace_from_query

QUANTUM_EXPONENT = -44  # weights are multiples of 2^-44 in the sums, squares of 2^-60
LARGEST_WEIGHT = float(1 << 18)


def ingest_graphs(con: duckdb.DuckDBPyConnection, *, relp: Path) -> int:
    """The graphs themselves -> graphs, neuron_graphs."""
    open_shards(con, relp, "graphs", "graph_nodes", "graph_edges")
    rows = replace_from_query(con, "graphs", sql_text("ingest", "graphs"))
    rows += replace_from_query(con, "neuron_graphs", sql_text("ingest", "neuron_graphs"))
    close_shards(con, "graphs", "graph_nodes", "graph_edges")
    return rows


def ingest_edges(con: duckdb.DuckDBPyConnection, *, relp: Path, layers: int, d_mlp: int, min_count: int) -> int:
    """Observations -> edges (sorted by source), edges_in (sorted by target), edges_top, token_edges."""
    open_shards(con, relp, "graph_edges", "graph_token_edges")
    for table in ("graph_edges", "graph_token_edges"):
        _refuse_large(con, table)
    con.execute("DELETE FROM edges")
    rows = 0
    for layer in range(layers):
        bound = {"d_mlp": d_mlp, "src_layer": layer, "min_count": min_count}
        rows += append_from_query(con, "edges", sql_text("ingest", "edges"), bound)
    observed = con.execute("SELECT count(*) FROM shard_graph_edges").fetchall()[0][0]
    rows += replace_from_query(con, "token_edges", sql_text("ingest", "token_edges"), {"min_count": min_count})
    close_shards(con, "graph_edges", "graph_token_edges")
    _reverse_and_top(con)
    set_metadata(
        con,
        {
            "edge_method": "relp_direct",
            "edge_truncation": "none",
            "min_edge_count": min_count,
            "edge_observations": observed,
            "edge_quantum": f"2^{QUANTUM_EXPONENT}",
            "edge_weight": "flow h_s J(s->t) dm/dh_t in units of the metric m, not normalised by |m|",
            "always_on_neurons": "none left out; the BOS position is left out of the nodes",
        },
    )
    return rows


def edges_from_wiring(con: duckdb.DuckDBPyConnection, *, d_mlp: int, top: int) -> int:
    """The downstream lists of the wiring -> edges, for an atlas without attribution graphs."""
    rows = replace_from_query(con, "edges", sql_text("ingest", "wiring_edges"), {"d_mlp": d_mlp})
    con.execute("DELETE FROM token_edges")
    _reverse_and_top(con)
    set_metadata(
        con,
        {
            "edge_method": "weight_graph",
            "edge_truncation": f"top {top} excitatory and top {top} inhibitory targets per source",
            "min_edge_count": 1,
            "edge_observations": None,
            "edge_quantum": None,
            "edge_weight": "effective_strength of the wiring",
            "always_on_neurons": None,
        },
    )
    return rows


def ingest_cooccurrence(con: duckdb.DuckDBPyConnection, *, layers: int, keep: int) -> int:
    """Graphs that neurons share -> cooccurrence, the `keep` strongest partners per neuron."""
    con.execute("DELETE FROM cooccurrence")
    text = sql_text("ingest", "cooccurrence")
    return sum(
        append_from_query(con, "cooccurrence", text, {"of_layer": layer, "keep": keep}) for layer in range(layers)
    )


def _reverse_and_top(con: duckdb.DuckDBPyConnection) -> None:
    replace_from_query(con, "edges_in", "SELECT tgt, src FROM edges ORDER BY tgt, src")
    replace_from_query(con, "edges_top", sql_text("ingest", "edges_top"))


def _refuse_large(con: duckdb.DuckDBPyConnection, table: str) -> None:
    bad, largest = con.execute(
        f"SELECT count(*) FILTER (NOT isfinite(weight) OR abs(weight) >= {LARGEST_WEIGHT}), max(abs(weight)) "
        f"FROM shard_{table}"
    ).fetchall()[0]
    if bad:
        raise ShardError(
            f"{bad} weights in {table} are not finite or reach {LARGEST_WEIGHT:.0f} (largest {largest}), beyond what "
            "exact sums can hold; normalise the metric or measure these graphs again"
        )
