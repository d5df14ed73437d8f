"""An atlas -> the same atlas with its rule labels made anew, by no LLM: copied, changed, checked, renamed over it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import duckdb

from atlas.build.revision import revise
from atlas.derive.labelling.rules import label_by_rules
from atlas.errors import StoreError
from atlas.ingest.label_choice import choose_labels
from atlas.ingest.search_index import build_index
from atlas.progress import Progress, Quiet
from atlas.store.connection import Limits, existing
from atlas.store.ledger import Ingested, get_metadata, now, record
from atlas.store.write import transaction

STEP = "labels:rules"


@dataclass(frozen=True)
class RuleLabels:
    """What the atlas then holds."""

    labels: int
    neurons: int  # with at least one of them
    rules: dict[str, int]  # source -> labels, most frequent first
    shown: str  # what the neurons show, of every source


def relabel(file: Path, *, limits: Limits, progress: Progress | None = None) -> RuleLabels:
    """Replace the rule labels of an atlas, choose anew what neurons show, and index it; other labels stay.

    On any failure the atlas stays as it was. Memory: one layer's tables, see `limits`.
    Raises InputError without an atlas, StoreError for one that does not say its sizes.
    """
    shown, (layers, d_mlp) = progress or Quiet(), sizes(existing(file), limits)

    def change(con: duckdb.DuckDBPyConnection, fresh: bool) -> RuleLabels:
        started = now()
        with transaction(con):
            rows = label_by_rules(con, layers=layers, d_mlp=d_mlp, progress=shown)
            covered = choose_labels(con)
            record(con, Ingested(STEP, f"{started:%Y%m%dT%H%M%S.%f}", rows_out=rows), started=started)
        with transaction(con):
            build_index(con)
        shown.note("checking the atlas")
        return RuleLabels(rows, *_count(con), covered.text())

    return revise(file, change, d_mlp=d_mlp, limits=limits, what="with these labels the atlas")


def sizes(file: Path, limits: Limits) -> tuple[int, int]:
    """Layers and MLP width of an atlas; StoreError when it does not say them."""
    from atlas.store.connection import open_reader

    con = open_reader(file, limits=limits, macros=False)
    try:
        facts = get_metadata(con)
        return int(facts["num_layers"]), int(facts["neurons_per_layer"])
    except (duckdb.Error, KeyError, ValueError) as error:
        raise StoreError(
            f"{file.name} does not say its sizes (metadata num_layers, neurons_per_layer): it is no atlas; "
            'make one with "atlas build"'
        ) from error
    finally:
        con.close()


def _count(con: duckdb.DuckDBPyConnection) -> tuple[int, dict[str, int]]:
    rows = con.execute(
        "SELECT source, count(*) FROM labels WHERE source LIKE 'rule:%' GROUP BY source ORDER BY count(*) DESC, source"
    ).fetchall()
    neurons = con.execute(
        "SELECT count(*) FROM (SELECT DISTINCT layer, neuron FROM labels WHERE source LIKE 'rule:%')"
    ).fetchall()
    return neurons[0][0], dict(rows)
