"""An atlas -> a few of its users' usual queries with the rows that they really return.

Numbers and words inside the queries come from the atlas itself, so that every query finds something.
"""

from __future__ import annotations

import duckdb

from atlas.export.artifact_facts import Example

SHOWN = 3  # rows
RARE = 20  # a word in at most one label of this many says more than one in all of them

_NEURONS_OF = """SELECT layer, neuron, label FROM neurons
WHERE {condition}
ORDER BY layer, neuron LIMIT 3"""
_SEARCH = """SELECT layer, neuron, label, top_cluster FROM neurons
WHERE label ILIKE '%{word}%'
ORDER BY layer, neuron LIMIT 3"""
_EDGES = """SELECT e.src_layer, e.src_neuron, e.tgt_layer, e.tgt_neuron, e.mean_weight,
       n1.label AS src_label, n2.label AS tgt_label
FROM edges e
JOIN neurons n1 ON e.src_layer = n1.layer AND e.src_neuron = n1.neuron
JOIN neurons n2 ON e.tgt_layer = n2.layer AND e.tgt_neuron = n2.neuron
WHERE {condition}
ORDER BY e.mean_abs_weight DESC, e.src_layer, e.src_neuron, e.tgt_layer, e.tgt_neuron LIMIT 3"""
_CIRCUIT = """
    SELECT top_cluster, sub_module FROM clusters WHERE level <= 2 AND top_cluster IS NOT NULL
    ORDER BY level DESC, internal_weight DESC NULLS LAST, size DESC, top_cluster, sub_module LIMIT 1"""
_WORD = """
    WITH words AS (
        SELECT DISTINCT layer, neuron, unnest(regexp_extract_all(lower(label), '[a-z]{4,}')) AS word
        FROM neurons WHERE label IS NOT NULL
    ), counted AS (SELECT word, count(*) AS n FROM words GROUP BY word)
    SELECT word FROM counted
    ORDER BY n * $1 <= (SELECT count(label) FROM neurons) DESC, n DESC, word LIMIT 1"""
_SOURCE = "SELECT src_layer, src_neuron FROM edges ORDER BY weight_abs_sum DESC NULLS LAST, src, tgt LIMIT 1"


def examples(con: duckdb.DuckDBPyConnection) -> list[Example]:
    """Run the neurons of a circuit, a label search and the edges of the circuit (or of a neuron), a few rows each."""
    circuit = _first(con, _CIRCUIT)
    found = []
    if circuit:
        text = _NEURONS_OF.format(condition=_within("", circuit))
        found.append(_run(con, "Neurons of a circuit", text))
    if word := _first(con, _WORD, [RARE]):
        found.append(_run(con, "Search by label", _SEARCH.format(word=word[0])))
    edges = _circuit_edges(con, circuit) or _neuron_edges(con)
    return [*found, edges] if edges else found


def _circuit_edges(con: duckdb.DuckDBPyConnection, circuit: tuple[int, ...] | None) -> Example | None:
    if circuit is None:
        return None
    condition = f"{_within('n1.', circuit)}\n  AND {_within('n2.', circuit)}"
    example = _run(con, "Edges within a circuit", _EDGES.format(condition=condition))
    return example if example.rows else None


def _neuron_edges(con: duckdb.DuckDBPyConnection) -> Example | None:
    source = _first(con, _SOURCE)
    if source is None:
        return None
    condition = f"e.src_layer = {int(source[0])} AND e.src_neuron = {int(source[1])}"
    return _run(con, "Edges out of a neuron", _EDGES.format(condition=condition))


def _within(prefix: str, circuit: tuple[int, ...]) -> str:
    names = [name for name, number in zip(("top_cluster", "sub_module"), circuit, strict=True) if number is not None]
    return " AND ".join(f"{prefix}{name} = {int(number)}" for name, number in zip(names, circuit, strict=False))


def _first(con: duckdb.DuckDBPyConnection, statement: str, bound: list[object] | None = None) -> tuple[int, ...] | None:
    rows = con.execute(statement, bound).fetchall()
    return rows[0] if rows else None


def _run(con: duckdb.DuckDBPyConnection, question: str, statement: str) -> Example:
    found = con.execute(statement)
    columns = tuple(column[0] for column in found.description or [])
    return Example(question, statement, columns, found.fetchall())
