"""Logit lens, token statistics, exemplars and edges -> labels without an LLM (`source` = 'rule:...').

The rules are SQL (sql/ingest/rule_*.sql), run layer by layer so that memory is bounded by one layer; each label's
description carries its evidence. The idea that makes a label a category: tokens that the same neurons list are alike,
so the tokens of a neuron fall into families, and the label names the strongest family. No category is known beforehand.
Texts are those of the half of the documents that labels are made from (atlas.derive.labelling.split); token statistics
count all documents, as they are not kept by document.
"""

from __future__ import annotations

from dataclasses import dataclass

import duckdb

from atlas.progress import Progress, Quiet
from atlas.store.sqlfiles import sql_text
from atlas.store.write import append_from_query

RULE_FILES = (
    "rule_words", "rule_texts", "rule_triggers", "rule_sums", "rule_lists", "rule_promoted", "rule_pairs",
    "rule_families", "rule_names", "rule_input", "rule_output", "rule_edges",
)  # fmt: skip
# Neurons that say which tokens are alike: 100,000 lists of 20 to 30 tokens are 30 million pairs, seconds; all 1.64
# million neurons would be two billion.
_SAMPLED = 25_000


@dataclass(frozen=True)
class _Run:
    con: duckdb.DuckDBPyConnection
    layers: int
    d_mlp: int
    progress: Progress


def label_by_rules(con: duckdb.DuckDBPyConnection, *, layers: int, d_mlp: int, progress: Progress | None = None) -> int:
    """Replace all rule labels, of both passes; labels of other sources stay. Returns the labels written.

    Deterministic: the same tables give the same labels. Call it inside a transaction.
    """
    con.execute("DELETE FROM labels WHERE source LIKE 'rule:%'")
    run = _Run(con, layers, d_mlp, progress or Quiet())
    _make(con, "rule_words", "rule_words")
    _make(con, "rule_texts", "rule_texts")
    _find_alike(run)
    rows = _label_inputs(run) + _label_outputs(run) + _label_edges(run)
    for table in ("words", "texts", "triggers", "sums", "promoted", "lists", "pairs", "families", "names"):
        con.execute(f"DROP TABLE IF EXISTS temp.rule_{table}")
    return rows


def is_measured(con: duckdb.DuckDBPyConnection) -> bool:
    """Whether the atlas has activations or a logit lens: without either, only edges are left to label by."""
    return any(con.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchall() for table in ("neuron_stats", "logit_lens"))


def _find_alike(run: _Run) -> None:
    """Tokens that the same neurons list, as triggers or in the logit lens -> pairs of alike tokens."""
    con, step = run.con, max(1, run.layers * run.d_mlp // _SAMPLED)
    sample = {"first": 0, "last": run.layers - 1, "one_in": step}
    _make(con, "rule_triggers", "rule_triggers", sample)
    _make(con, "rule_promoted", "rule_promoted", sample)
    _make(con, "rule_lists", "rule_lists")
    con.execute("INSERT INTO rule_lists SELECT * REPLACE (-list AS list) FROM rule_promoted")
    _make(con, "rule_pairs", "rule_pairs")


def _label_inputs(run: _Run) -> int:
    """Pass 'input': what fires a neuron, for each sign."""
    con = run.con
    rows = 0
    with run.progress.task("labels by rule: input", run.layers, "layers") as task:
        for layer in range(run.layers):
            _make(con, "rule_triggers", "rule_triggers", _only(layer))
            _make(con, "rule_sums", "rule_sums")
            _make(con, "rule_lists", "rule_lists")
            _make(con, "rule_families", "rule_families")
            rows += append_from_query(con, "labels", sql_text("ingest", "rule_input"), _span(layer))
            task.advance()
    return rows


def _label_outputs(run: _Run) -> int:
    """Pass 'output' by logit lens: what a firing promotes."""
    con = run.con
    rows = 0
    with run.progress.task("labels by rule: output", run.layers, "layers") as task:
        for layer in range(run.layers):
            _make(con, "rule_lists", "rule_promoted", _only(layer))
            _make(con, "rule_families", "rule_families")
            rows += append_from_query(con, "labels", sql_text("ingest", "rule_output"), _span(layer))
            task.advance()
    return rows


def _label_edges(run: _Run) -> int:
    """Pass 'output' by edges: whom a neuron feeds; the targets are named by their input labels."""
    con, text = run.con, sql_text("ingest", "rule_edges")
    _make(con, "rule_names", "rule_names", {"d_mlp": run.d_mlp})
    rows = 0
    with run.progress.task("labels by rule: edges", run.layers, "layers") as task:
        for layer in range(run.layers):
            rows += append_from_query(con, "labels", text, _span(layer))
            task.advance()
    return rows


def _make(con: duckdb.DuckDBPyConnection, table: str, query: str, bound: dict[str, int] | None = None) -> None:
    con.execute(f"CREATE OR REPLACE TEMP TABLE {table} AS {sql_text('ingest', query)}", bound)


def _only(layer: int) -> dict[str, int]:
    return {**_span(layer), "one_in": 1}


def _span(layer: int) -> dict[str, int]:
    return {"first": layer, "last": layer}
