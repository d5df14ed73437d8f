"""A compacted edge store -> edges (and its sides), token_edges, graphs, neuron_graphs, appearances of an atlas.

The store keeps every edge with exact sums; the atlas gets those with enough observations, as floats, in the order that
makes look-ups fast. Everything is SQL over the store's sorted files, in the memory limit of the connection.
"""

from __future__ import annotations

from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Any

import duckdb

from atlas.errors import InputError, StoreError
from atlas.ingest.edge_sides import DERIVED, derive_sides
from atlas.ingest.edge_store.compact import is_compact
from atlas.ingest.edge_store.facts import Store, StoreFacts, content_key, open_store, require_whole
from atlas.progress import Progress, Quiet
from atlas.store.ledger import get_metadata, set_metadata
from atlas.store.sqlfiles import sql_text
from atlas.store.write import replace_from_query

LARGEST_TABLE = 50_000_000  # rows of neuron_graphs that go into the atlas by default: 0.9 GB
LARGEST_WIDTH = 1 << 16  # edges.src_neuron has 16 bits
_WEIGHTS = {
    "relp_direct": "flow h_s J(s->t) dm/dh_t in units of the metric m, not normalised by |m|",
    "weight_graph": "effective_strength of the wiring",
    "derived": "mean weight times count of an earlier tool's profiles; squares, smallest and largest are not known",
}


@dataclass(frozen=True)
class ProjectOptions:
    """What goes into the atlas."""

    min_count: int = 3
    neuron_graphs: str = "auto"  # table, store, or auto: table up to LARGEST_TABLE rows


def project(
    con: duckdb.DuckDBPyConnection,
    store: Path,
    *,
    options: ProjectOptions | None = None,
    progress: Progress | None = None,
) -> int:
    """Fill the edge tables of an atlas open for writing, inside the caller's transaction; rows written.

    Raises InputError when the store is of a model of other sizes, StoreError when it is not compacted.
    """
    chosen, found = options or ProjectOptions(), open_store(store)
    _refuse_other_model(con, found)
    rows = project_edges(con, found, min_count=chosen.min_count, progress=progress)
    return rows + _project_graphs(con, found, chosen)


def project_edges(
    con: duckdb.DuckDBPyConnection, store: Store, *, min_count: int, progress: Progress | None = None
) -> int:
    """Fill edges (by src, tgt), token_edges, what follows from edges, and the metadata about them."""
    if not is_compact(store):
        raise StoreError(f'{store.path} has edges in several files; "atlas edges compact {store.path}" merges them')
    require_whole(store)
    facts = store.facts
    bound = {
        "d_mlp": facts.width,
        "min_count": min_count,
        "counts_graphs": store.manifest.counts_graphs,
        "derived": facts.edge_method == "derived",
    }
    rows = 0
    with (progress or Quiet()).task("projecting edges", 2 + len(DERIVED), "tables") as task:
        for table in ("edges", "token_edges"):
            rows += _fill(con, table, table, {"files": store.files(table), **bound})
            task.advance()
        rows += derive_sides(con, task=task)
    set_metadata(con, {**_edge_metadata(store, min_count), **_distribution(con, store, min_count)})
    return rows


def refuse_too_wide(store: Store) -> None:
    """Refuse a store whose ids an atlas cannot hold."""
    if store.facts.width > LARGEST_WIDTH:
        raise InputError(
            f"{store.path} has {store.facts.width:,} units a layer, an atlas holds {LARGEST_WIDTH:,}: the statistics "
            "stay in the store, where any Parquet reader finds them"
        )


def members_file(con: duckdb.DuckDBPyConnection, store: Path) -> Path | None:
    """Where the rows of neuron_graphs were left when they were too many for the atlas; None where the table has them.

    The name follows the store's content, on which the graph ids depend: an atlas of older content keeps its file.
    """
    file = store / f"neuron_graphs-{content_key(store)[:12]}.parquet"
    inside = con.execute("SELECT count(*) FROM neuron_graphs").fetchall()[0][0]
    return file if file.exists() and not inside else None


def project_appearances(con: duckdb.DuckDBPyConnection, store: Store) -> int:
    """Fill appearances from all graphs of the store."""
    given = {"files": store.files("members"), "counted": store.files("appearances"), "d_mlp": store.facts.width}
    return _fill(con, "appearances", "store_appearances", given)


def _project_graphs(con: duckdb.DuckDBPyConnection, store: Store, options: ProjectOptions) -> int:
    rows = _fill(con, "graphs", "store_graphs", {"files": store.files("graphs")})
    rows += project_appearances(con, store)
    members = _count(con, store.files("members"))
    inside = options.neuron_graphs == "table" or (options.neuron_graphs == "auto" and members <= LARGEST_TABLE)
    given = {"files": store.files("members"), "graphs": store.files("graphs"), "d_mlp": store.facts.width}
    place = store.path / f"neuron_graphs-{content_key(store.path)[:12]}.parquet"
    if inside:
        rows += _fill(con, "neuron_graphs", "store_neuron_graphs", given)
    else:
        con.execute("DELETE FROM neuron_graphs")
        _write_beside(con, place, given)
    beside = f"{members} rows in {store.path.name}/{place.name}, sorted: any Parquet reader asks them"
    where = "in the table" if inside else beside
    set_metadata(con, {"neuron_graphs": where, "count_neuron_graphs": members})
    return rows


def _fill(con: duckdb.DuckDBPyConnection, table: str, query: str, bound: dict[str, Any]) -> int:
    """Replace a table by a query over files; a list of no files gives no rows."""
    files = {
        name: [escape(str(path)) for path in value] if isinstance(value, list) else value
        for name, value in bound.items()
    }
    if not files["files"]:
        con.execute(f"DELETE FROM {table}")
        return 0
    return replace_from_query(con, table, sql_text("ingest", query), files)


def _write_beside(con: duckdb.DuckDBPyConnection, place: Path, given: dict[str, Any]) -> None:
    files = {
        name: [escape(str(path)) for path in value] if isinstance(value, list) else value
        for name, value in given.items()
    }
    part = place.with_name(f".{place.name}.tmp")
    rows = con.sql(sql_text("ingest", "store_neuron_graphs"), params=files)
    rows.write_parquet(str(part), compression="zstd", row_group_size=1 << 17)
    part.rename(place)


def _count(con: duckdb.DuckDBPyConnection, files: list[Path]) -> int:
    if not files:
        return 0
    return int(
        con.execute("SELECT count(*) FROM read_parquet($1)", [[escape(str(path)) for path in files]]).fetchall()[0][0]
    )


def _refuse_other_model(con: duckdb.DuckDBPyConnection, store: Store) -> None:
    known = get_metadata(con)
    facts = store.facts
    found = known.get("num_layers"), known.get("neurons_per_layer")
    if not store.manifest.partials:
        raise InputError(f'the store {store.path} is empty; "atlas edges add" puts graphs into it')
    refuse_too_wide(store)
    if None in found:
        raise InputError("the file is there and is no atlas: its metadata do not say its layers; give another name")
    if found != (str(facts.layers), str(facts.width)):
        raise InputError(
            f"{store.path} has {facts.layers} layers of {facts.width}, the model of the atlas {found[0]} of {found[1]}"
            "; give the store of this model"
        )


def _edge_metadata(store: Store, min_count: int) -> dict[str, object]:
    facts: StoreFacts = store.facts
    return {
        "edge_method": facts.edge_method,
        "edge_truncation": "none",
        "edge_unit_type": facts.unit_type,
        "min_edge_count": min_count,
        "edge_observations": store.manifest.observations,
        "edge_quantum": f"2^{facts.quantum}",
        "edge_weight": _WEIGHTS.get(facts.edge_method, "as the graphs give it"),
        "edge_half": f"{facts.half} of 2" if facts.half else None,
        "edge_n_graphs": "counted" if store.manifest.counts_graphs else "not known for all sources, so NULL",
    }


def _distribution(con: duckdb.DuckDBPyConnection, store: Store, min_count: int) -> dict[str, object]:
    """How many edges have how many observations, before the cut, and what the cut left out."""
    files = [escape(str(path)) for path in store.files("edges")]
    rows = con.execute(sql_text("ingest", "store_counts"), {"files": files}).fetchall() if files else []
    shown = "; ".join(f"{a if a == b else f'{a}-{b}'}: {edges}" for a, b, edges, _ in rows)
    total = sum(row[2] for row in rows)
    kept, observed = con.execute("SELECT count(*), coalesce(sum(count), 0)::BIGINT FROM edges").fetchall()[0]
    return {
        "edge_count_distribution": shown or None,
        "edges_cut": total - kept,
        "edge_observations_cut": store.manifest.observations - observed,
    }
