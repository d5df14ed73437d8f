"""All labels of an atlas -> the one that each neuron shows, by a declared precedence, and how many have one.

A precedence names kinds of labels, best first, and may name sources and runs before or between them:
"import:mine.csv, manual, two-pass, autointerp, rule". It is kept in the metadata (`label_precedence`), so that every
later command chooses alike. Failures (status not ok) are never chosen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import duckdb

from atlas.errors import InputError, StoreError
from atlas.store.ledger import get_metadata, set_metadata
from atlas.store.sqlfiles import sql_text
from atlas.store.write import append_from_query

KINDS = ("manual", "two-pass", "autointerp", "rule")
_NAMED = ("import:", "rule:", "run:")  # with a name after the colon; "llm" has none


@dataclass(frozen=True)
class Coverage:
    """How many neurons show a label, and of which kind and source."""

    neurons: int
    precedence: tuple[str, ...]
    sources: tuple[tuple[str, str, int], ...]  # kind, source, neurons that show one of it; most neurons first

    @property
    def labelled(self) -> int:
        """Neurons that show a label."""
        return sum(count for *_, count in self.sources)

    def text(self) -> str:
        """Say it: "344,551 neurons, 97.8%: 344,551 two-pass (import:labels.json)"."""
        parts = [f"{count:,} {kind} ({source})" for kind, source, count in self.sources]
        share = f"{100 * self.labelled / self.neurons:.1f}%" if self.neurons else "no neurons"
        return f"{self.labelled:,} neurons, {share}" + (f": {', '.join(parts)}" if parts else "")


def choose_labels(con: duckdb.DuckDBPyConnection, *, precedence: Sequence[str] | None = None) -> Coverage:
    """Set label, description, input_label and output_label of every neuron from `labels`; what they cover.

    Modules that are named by their members' labels are named anew. Without a precedence the atlas' own holds, else
    KINDS; a new one is stored. One layer at a time. Neurons must be there (see assemble_neurons). InputError for a
    precedence that names no kind, source or run.
    """
    order = declare_precedence(con, precedence)
    shown: Counter[tuple[str, str]] = Counter()
    _name_modules(con, "old_names")
    for layer in range(_layers(con)):
        shown += load_choice(con, layer, order)
        _show(con, layer)
    drop_choice(con)
    _name_modules(con, "new_names")
    con.execute(sql_text("ingest", "cluster_renames"))
    con.execute("DROP TABLE temp.old_names; DROP TABLE temp.new_names")
    neurons = con.execute("SELECT count(*) FROM neurons").fetchall()[0][0]
    ordered = sorted(shown.items(), key=lambda item: (-item[1], item[0]))
    return Coverage(neurons, order, tuple((kind, source, count) for (kind, source), count in ordered))


def declare_precedence(con: duckdb.DuckDBPyConnection, given: Sequence[str] | None = None) -> tuple[str, ...]:
    """Store a precedence, completed by the kinds that it leaves out; the one in force."""
    if given is None:
        given = get_metadata(con).get("label_precedence", "").split(",")
    order = read_precedence(given)
    set_metadata(con, {"label_precedence": ",".join(order)})
    return order


def read_precedence(given: Sequence[str]) -> tuple[str, ...]:
    """Check a precedence and complete it by the kinds that it leaves out, in the order of KINDS."""
    named = list(dict.fromkeys(entry.strip() for entry in given if entry.strip()))
    for entry in named:
        if entry not in (*KINDS, "llm") and not any(entry.startswith(p) and entry != p for p in _NAMED):
            raise InputError(
                f"{entry!r} is no kind of labels: a precedence lists {', '.join(KINDS)}, and sources or runs such as "
                "llm, import:FILE, rule:NAME, run:NAME, best first"
            )
    return (*named, *(kind for kind in KINDS if kind not in named))


def load_choice(con: duckdb.DuckDBPyConnection, layer: int, precedence: Sequence[str]) -> Counter[tuple[str, str]]:
    """Put the chosen labels of a layer into the temporary table chosen_labels; neurons by kind and source."""
    rank_labels(con, layer, precedence)
    con.execute(f"CREATE OR REPLACE TEMP TABLE chosen_labels AS {sql_text('ingest', 'label_choice')}")
    counts = con.execute(
        "SELECT kind, coalesce(source, 'unknown'), count(*) FROM chosen_labels GROUP BY ALL"
    ).fetchall()
    return Counter({(kind, source): count for kind, source, count in counts})


def rank_labels(con: duckdb.DuckDBPyConnection, layer: int, precedence: Sequence[str]) -> None:
    """Put the labels of a layer that are no failures, with their place, into the temporary table label_ranks."""
    bound = {"layer": layer, "precedence": list(precedence)}
    con.execute(f"CREATE OR REPLACE TEMP TABLE label_ranks AS {sql_text('ingest', 'label_ranks')}", bound)


def drop_choice(con: duckdb.DuckDBPyConnection) -> None:
    """Drop the temporary tables of rank_labels and load_choice."""
    con.execute("DROP TABLE IF EXISTS temp.chosen_labels; DROP TABLE IF EXISTS temp.label_ranks")


def _show(con: duckdb.DuckDBPyConnection, layer: int) -> None:
    """Put the chosen labels into neurons. Many are written as new rows: updates stay in memory until a checkpoint."""
    changed, neurons = con.execute(
        "SELECT count(*) FILTER ((n.label, n.description) IS DISTINCT FROM (t.label, t.description)), count(*) "
        "FROM neurons n LEFT JOIN chosen_labels t USING (neuron) WHERE n.layer = $1",
        [layer],
    ).fetchall()[0]
    if 2 * changed <= neurons:
        con.execute(sql_text("ingest", "neurons_labels"), {"layer": layer})
        return
    con.execute(
        f"CREATE OR REPLACE TEMP TABLE relabelled AS {sql_text('ingest', 'neurons_relabelled')}", {"layer": layer}
    )
    con.execute("DELETE FROM neurons WHERE layer = $1", [layer])
    append_from_query(con, "neurons", "SELECT * FROM relabelled")
    con.execute("DROP TABLE temp.relabelled")


def _name_modules(con: duckdb.DuckDBPyConnection, table: str) -> None:
    con.execute(f"CREATE OR REPLACE TEMP TABLE {table} AS {sql_text('ingest', 'cluster_names')}")


def _layers(con: duckdb.DuckDBPyConnection) -> int:
    found = get_metadata(con).get("num_layers", "")
    if not found.isdigit():
        raise StoreError("the atlas does not say its number of layers (metadata num_layers); rebuild it")
    return int(found)
