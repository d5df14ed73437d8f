"""Attribution-graph shards -> graphs, neuron_graphs, edges (and its sides), token_edges.

Edge sums are made in an edge store (atlas/ingest/edge_store): exact integers of a fixed quantum, in bounded memory, so
that no order of graphs, shards or threads changes a bit.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import duckdb

from atlas.ingest.edge_sides import derive_sides
from atlas.ingest.edge_store.compact import one_store
from atlas.ingest.edge_store.facts import StoreFacts
from atlas.ingest.edge_store.sources import look_at
from atlas.ingest.projection import project_edges
from atlas.ingest.views import close_shards, open_shards
from atlas.shards import shard_files
from atlas.store.ledger import set_metadata
from atlas.store.sqlfiles import sql_text
from atlas.store.write import replace_from_query

METHOD = "relp_direct"


def ingest_graphs(con: duckdb.DuckDBPyConnection, *, relp: Path) -> int:
    """The graphs themselves -> graphs, neuron_graphs."""
    open_shards(con, relp, "graphs", "graph_nodes", "graph_edges")
    rows = replace_from_query(con, "graphs", sql_text("ingest", "graphs"))
    rows += replace_from_query(con, "neuron_graphs", sql_text("ingest", "neuron_graphs"))
    close_shards(con, "graphs", "graph_nodes", "graph_edges")
    return rows


def ingest_edges(
    con: duckdb.DuckDBPyConnection, *, relp: Path, sizes: tuple[int, int], min_count: int, folder: Path
) -> int:
    """Observations -> edges (sorted by source), what follows from it, token_edges.

    sizes = (layers, neurons of a layer). The statistics are made in an edge store under `folder` that is removed again.
    """
    facts = StoreFacts("", sizes[0], sizes[1], METHOD)
    given = [look_at(path.parent, METHOD) for path in shard_files(relp, "graph_edges")]
    with tempfile.TemporaryDirectory(prefix="edges-", dir=folder) as work:
        store = one_store(Path(work) / "store", facts, given)
        rows = project_edges(con, store, min_count=min_count)
    set_metadata(con, {"always_on_neurons": "none left out; the BOS position is left out of the nodes"})
    return rows


def edges_from_wiring(con: duckdb.DuckDBPyConnection, *, d_mlp: int, top: int) -> int:
    """The downstream lists of the wiring -> edges, for an atlas without attribution graphs."""
    rows = replace_from_query(con, "edges", sql_text("ingest", "wiring_edges"), {"d_mlp": d_mlp})
    con.execute("DELETE FROM token_edges")
    derive_sides(con)
    set_metadata(
        con,
        {
            "edge_method": "weight_graph",
            "edge_truncation": f"top {top} excitatory and top {top} inhibitory targets per source",
            "min_edge_count": 1,
            "edge_observations": None,
            "edge_quantum": None,
            "edge_half": None,
            "edge_weight": "effective_strength of the wiring",
            "always_on_neurons": None,
        },
    )
    return rows
