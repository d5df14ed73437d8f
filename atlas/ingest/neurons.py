"""Measured, imported and derived tables -> pruning, neurons, clusters: the public face of the atlas."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import duckdb

from atlas.ingest.label_choice import declare_precedence, drop_choice, load_choice
from atlas.ingest.views import close_shards, open_shards
from atlas.store.sqlfiles import sql_text
from atlas.store.write import append_from_query, replace_from_query


def score_pruning(con: duckdb.DuckDBPyConnection, *, weights: Path, eval_id: str) -> int:
    """Weights, activation and gradient sums -> pruning, every method that the measurements allow.

    The ranks are those of the best one: fisher where every neuron has gradients, else wifv, else weights.
    """
    open_shards(con, weights, "neuron_weights")
    bound = {"method": _best_method(con), "eval_id": eval_id}
    rows = replace_from_query(con, "pruning", sql_text("ingest", "pruning"), bound)
    close_shards(con, "neuron_weights")
    return rows


def count_appearances(con: duckdb.DuckDBPyConnection) -> int:
    """Graphs of the atlas -> appearances, for an atlas that holds all of its graphs."""
    return replace_from_query(con, "appearances", sql_text("ingest", "appearances"))


def assemble_neurons(con: duckdb.DuckDBPyConnection, *, layers: int, precedence: Sequence[str] | None = None) -> int:
    """Everything known of each neuron -> neurons, one row per neuron of the model.

    One layer at a time: memory is bounded by the label texts of one layer. Without a precedence the atlas' own holds.
    """
    con.execute("DELETE FROM neurons")
    text, order, rows = sql_text("ingest", "neurons"), declare_precedence(con, precedence), 0
    for layer in range(layers):
        load_choice(con, layer, order)
        rows += append_from_query(con, "neurons", text, {"layer": layer})
    drop_choice(con)
    return rows


def assemble_clusters(con: duckdb.DuckDBPyConnection) -> int:
    """The primary clustering -> clusters, one row per real module of every level."""
    return replace_from_query(con, "clusters", sql_text("ingest", "clusters"))


def _best_method(con: duckdb.DuckDBPyConnection) -> str:
    rows, with_gradients, with_tokens = con.execute(
        "SELECT count(*), count(*) FILTER (grad_tokens > 0), count(*) FILTER (n_tokens > 0) FROM neuron_stats"
    ).fetchall()[0]
    if rows and with_gradients == rows:
        return "fisher"
    return "wifv" if rows and with_tokens == rows else "weights"
