"""An edge store -> an atlas file, new or as it was with other edges: beside it, checked, then renamed over it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import duckdb

from atlas import __version__
from atlas.build.edge_store import EdgeOptions, compact
from atlas.build.revision import revise
from atlas.ingest.edge_store.facts import Store, locked, open_store
from atlas.ingest.edge_store.planning import refuse_full_disk
from atlas.ingest.neurons import assemble_clusters, assemble_neurons
from atlas.ingest.projection import ProjectOptions, members_file, project, refuse_too_wide
from atlas.ingest.search_index import build_index
from atlas.progress import Progress, Quiet
from atlas.store.connection import Limits
from atlas.store.ledger import Ingested, now, record, set_metadata
from atlas.store.search_state import index_state
from atlas.store.write import transaction

EDGE_DISK = 60  # bytes of an edge of the store while an atlas is made of it: both directions and their sorting
STEP = "edges project"


@dataclass(frozen=True)
class Projected:
    """What the atlas then holds."""

    edges: int
    graphs: int
    neuron_graphs: int
    cooccurrence: int


def project_store(
    store: Path,
    file: Path,
    *,
    how: ProjectOptions,
    cooccurrence: int = 20,
    options: EdgeOptions | None = None,
    progress: Progress | None = None,
) -> Projected:
    """Put the edges, graphs and `cooccurrence` partners a neuron of a store into an atlas; new without one at `file`.

    A store that is not compacted is compacted first. On any failure the atlas stays as it was. Memory: the limit of
    `options` for DuckDB, and 8 bytes a row of neuron_graphs.
    """
    shown, chosen = progress or Quiet(), options or EdgeOptions()
    refuse_too_wide(open_store(store))  # before hours of merging
    found = compact(store, options=chosen, progress=shown)
    rows = sum(one.edges for one in found.manifest.partials)
    old = file.stat().st_size if file.exists() else 0
    file.parent.mkdir(parents=True, exist_ok=True)
    refuse_full_disk(file.parent, 2 * old + rows * EDGE_DISK, "this atlas")
    limits = Limits(f"{chosen.memory >> 20}MiB", chosen.threads)
    with locked(store, shared=True):
        opened = open_store(store)
        return revise(
            file,
            lambda con, fresh: _put(con, opened, (how, cooccurrence), fresh=fresh, progress=shown),
            d_mlp=opened.facts.width,
            limits=limits,
            what="with these edges the atlas",
        )


def _put(
    con: duckdb.DuckDBPyConnection, store: Store, how: tuple[ProjectOptions, int], *, fresh: bool, progress: Progress
) -> Projected:
    with transaction(con):
        if fresh:
            _describe(con, store)
        _fill(con, store, how, progress)
        _label(con, store, progress)
    with transaction(con):
        assemble_neurons(con, layers=store.facts.layers)
        assemble_clusters(con)  # the weights of modules are sums of these edges
        if index_state(con) == "stale":
            build_index(con)
    counts = (_count(con, table) for table in ("edges", "graphs", "neuron_graphs", "cooccurrence"))
    return Projected(*counts)


def _fill(con: duckdb.DuckDBPyConnection, store: Store, how: tuple[ProjectOptions, int], progress: Progress) -> None:
    from atlas.derive.cooccurrence import Options, derive_cooccurrence

    started = now()
    rows = project(con, store.path, options=how[0], progress=progress)
    if how[1]:
        with progress.task("co-occurrence", 1, "tables") as task:
            options = Options(keep=how[1])
            members = members_file(con, store.path)
            rows += derive_cooccurrence(con, d_mlp=store.facts.width, members=members, options=options)
            task.advance()
    else:
        con.execute("DELETE FROM cooccurrence")
    left, reason = store.rejection()
    done = Ingested(
        STEP,
        store.manifest.partials[0].id,
        rows_out=rows,
        rows_in=store.manifest.observations,
        rows_rejected=left,
        reason=reason,
        source_file=store.path.name,
        size_bytes=sum(one.bytes for one in store.manifest.partials),
    )
    record(con, done, started=started)
    set_metadata(con, {"count_edges": _count(con, "edges"), "count_graphs": _count(con, "graphs")})


def _label(con: duckdb.DuckDBPyConnection, store: Store, progress: Progress) -> None:
    """Rule labels anew where the atlas has them or was measured: they tell of edges that are no longer there."""
    from atlas.derive.labelling.rules import is_measured, label_by_rules

    if is_measured(con) or con.execute("SELECT 1 FROM labels WHERE source LIKE 'rule:%' LIMIT 1").fetchall():
        label_by_rules(con, layers=store.facts.layers, d_mlp=store.facts.width, progress=progress)


def _describe(con: duckdb.DuckDBPyConnection, store: Store) -> None:
    """What a new atlas says of its model: what the store knows."""
    facts = store.facts
    set_metadata(
        con,
        {
            "model": facts.model,
            "revision": facts.revision,
            "num_layers": facts.layers,
            "neurons_per_layer": facts.width,
            "code_version": __version__,
            "created": now().isoformat(timespec="seconds"),
        },
    )


def _count(con: duckdb.DuckDBPyConnection, table: str) -> int:
    return int(con.execute(f"SELECT count(*) FROM {table}").fetchall()[0][0])
