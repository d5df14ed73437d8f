"""Activation, gradient, logit-lens, read-token and weight shards -> vocab, neuron_stats, contexts, exemplars, ...

Each function fills its tables inside the caller's transaction and returns the number of rows written.
"""

from __future__ import annotations

from pathlib import Path

import duckdb

from atlas.ingest.views import close_shards, open_shards
from atlas.store.ledger import set_metadata
from atlas.store.sqlfiles import sql_text
from atlas.store.write import replace_from_query


def ingest_vocab(con: duckdb.DuckDBPyConnection, *, lens: Path, activations: Path | None) -> int:
    """The tokens of the model with their corpus counts -> vocab."""
    open_shards(con, lens, "vocab")
    open_shards(con, activations, "token_counts")
    rows = replace_from_query(con, "vocab", sql_text("ingest", "vocab"))
    close_shards(con, "vocab", "token_counts")
    return rows


def ingest_statistics(con: duckdb.DuckDBPyConnection, *, activations: Path, gradients: Path | None) -> int:
    """Moments, histograms, quantiles, calibration means and gradient sums -> neuron_stats."""
    open_shards(con, activations, "neuron_stats")
    open_shards(con, gradients, "gradient_stats")
    rows = replace_from_query(con, "neuron_stats", sql_text("ingest", "neuron_stats"))
    close_shards(con, "neuron_stats", "gradient_stats")
    return rows


def ingest_exemplars(con: duckdb.DuckDBPyConnection, *, activations: Path, corpus: str) -> int:
    """Exemplars of both signs and the contexts they point into -> exemplars, contexts."""
    open_shards(con, activations, "exemplars", "contexts")
    rows = replace_from_query(con, "exemplars", sql_text("ingest", "exemplars"))
    select = f"SELECT $corpus AS corpus, * FROM ({sql_text('ingest', 'contexts')})"
    rows += replace_from_query(con, "contexts", select, {"corpus": corpus})
    close_shards(con, "exemplars", "contexts")
    return rows


def ingest_token_statistics(con: duckdb.DuckDBPyConnection, *, activations: Path, keep: int) -> int:
    """Strong firings by token -> token_stats, the `keep` strongest tokens per neuron and sign.

    What the limit drops is counted in metadata: token_stats_dropped_rows and token_stats_dropped_firings.
    """
    open_shards(con, activations, "token_stats")
    rows = replace_from_query(con, "token_stats", sql_text("ingest", "token_stats"), {"keep": keep})
    seen, firings = con.execute(
        "SELECT count(DISTINCT (layer, neuron, polarity, token_id)), coalesce(sum(n), 0) FROM shard_token_stats"
    ).fetchall()[0]
    kept = con.execute("SELECT coalesce(sum(n), 0) FROM token_stats").fetchall()[0][0]
    set_metadata(
        con,
        {
            "token_stats_keep": keep,
            "token_stats_dropped_rows": seen - rows,
            "token_stats_dropped_firings": int(firings - kept),
        },
    )
    close_shards(con, "token_stats")
    return rows


def ingest_logit_lens(con: duckdb.DuckDBPyConnection, *, lens: Path) -> int:
    """Promoted and suppressed tokens -> logit_lens."""
    return _copy(con, lens, "logit_lens", "layer, neuron, polarity DESC, rank")


def ingest_read_tokens(con: duckdb.DuckDBPyConnection, *, reads: Path) -> int:
    """Tokens that input rows read -> read_tokens."""
    return _copy(con, reads, "read_tokens", "layer, neuron, part, polarity DESC, rank")


def ingest_weight_stats(con: duckdb.DuckDBPyConnection, *, weights: Path) -> int:
    """Weight analysis per tensor -> weight_stats."""
    return _copy(con, weights, "weight_stats", "layer, name")


def ingest_wiring(con: duckdb.DuckDBPyConnection, *, wiring: Path) -> int:
    """Weight-based connections -> wiring."""
    return _copy(con, wiring, "wiring", "layer, neuron, direction, polarity DESC, rank")


def _copy(con: duckdb.DuckDBPyConnection, root: Path, table: str, order: str) -> int:
    open_shards(con, root, table)
    rows = replace_from_query(con, table, f"SELECT * EXCLUDE (shard) FROM shard_{table} ORDER BY {order}")
    close_shards(con, table)
    return rows
