"""An atlas and a method -> the same atlas with one more clustering, or another one shown in neurons and clusters.

The edges are read from the atlas; what was found goes into a copy beside it, which is checked and renamed over it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from atlas.build.revision import revise, stamp
from atlas.derive.clustering.methods import Need, complete, find, make_options, predict
from atlas.errors import InputError, ResourceError, StoreError
from atlas.ingest.neurons import assemble_clusters, assemble_neurons
from atlas.ingest.partitions import Clustering, Placed, write_clustering
from atlas.progress import Progress, Quiet
from atlas.store.connection import Limits, existing, explain_failure, open_reader
from atlas.store.ledger import get_metadata, set_metadata
from atlas.store.memory import available_memory
from atlas.store.schema import require_readable
from atlas.store.write import transaction

_READING = 1 << 30  # bytes of DuckDB while a method runs beside it
_WRITING = 4 << 30
_GROWN = 1.3  # the copy when the tables of neurons and modules are written anew, over the atlas


@dataclass(frozen=True)
class RunOptions:
    """How a run is made; nothing here changes its modules."""

    memory: int | None = None  # bytes that it may take; what is free without it
    threads: int = 2
    primary: bool | None = None  # shown in neurons and clusters; None: when none is shown yet


@dataclass(frozen=True)
class Forecast:
    """What a run will take and what there is."""

    need: Need
    allowed: int | None  # bytes of memory; None where the system does not say
    disk: int  # bytes beside the atlas while it runs
    disk_free: int


@dataclass(frozen=True)
class _Source:
    """An atlas that is read: the connection, its file, its sizes."""

    con: duckdb.DuckDBPyConnection
    file: Path
    layers: int
    d_mlp: int


def forecast(file: Path, method: str, given: Mapping[str, object], *, how: RunOptions | None = None) -> Forecast:
    """Count the edges that go in and say what the run will take; raises for whatever is wrong with the options."""
    with _reading(file, how or RunOptions()) as source:
        options = make_options(method, complete(source.con, method, given))
        return _forecast(source, method, options, how or RunOptions())


def require(found: Forecast) -> None:
    """ResourceError, with both numbers, when memory or disk do not suffice."""
    if found.allowed is not None and found.need.memory > found.allowed:
        raise ResourceError(
            f"clustering {found.need.entries:,} edges takes about {_gib(found.need.memory)} GiB of memory, "
            f"{_gib(found.allowed)} GiB are allowed; raise --min-count or --memory, or use a machine with more"
        )
    if found.disk > found.disk_free:
        raise ResourceError(
            f"clustering takes up to {found.disk / 1e9:.2f} GB beside the atlas, {found.disk_free / 1e9:.2f} GB are "
            "free; free space there"
        )


def cluster_atlas(
    file: Path,
    method: str,
    given: Mapping[str, object],
    *,
    how: RunOptions | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Run a method on the edges of an atlas and store its modules; its row of clusterings, and whether it is primary.

    `given` are options of the method by name; None or absent is the usual value. A run of the same name is replaced.
    On any failure, or a kill, the atlas is as it was. Raises InputError, StoreError, ResourceError.
    """
    how, shown, before = how or RunOptions(), progress or Quiet(), stamp(file)
    with _reading(file, how) as source:
        options = make_options(method, complete(source.con, method, given))
        _refuse_name(source.con, method if options.name is None else options.name, method)
        require(_forecast(source, method, options, how))
        run, placed = find(source.con, method, options, d_mlp=source.d_mlp, progress=shown)
    if not len(placed.ids):
        raise StoreError(f"{method} puts no two neurons into one module: nothing is stored; use another weight")
    if stamp(file) != before:
        raise StoreError(f"{file} was changed by another process meanwhile; nothing is written, run it again")
    return _revise(source, how, shown, (run, placed))


def use_clustering(
    file: Path, name: str, *, how: RunOptions | None = None, progress: Progress | None = None
) -> dict[str, Any]:
    """Show another stored clustering in neurons and clusters; its row. InputError for an unknown name."""
    how = how or RunOptions()
    with _reading(file, how) as source:
        known = _names(source.con)
        if name not in known:
            raise InputError(
                f"no clustering {name!r} in {file.name}; there {'are' if len(known) > 1 else 'is'} "
                f"{', '.join(known) or 'none'}"
            )
    return _revise(source, how, progress or Quiet(), name)


def make_primary(con: duckdb.DuckDBPyConnection, name: str) -> None:
    """Name the clustering that neurons and clusters shall show, and say in the metadata what it was."""
    method, parameters, seed, rows = con.execute(
        "SELECT method, coalesce(parameters, '{}'), seed, neurons FROM clusterings WHERE clustering = $1", [name]
    ).fetchall()[0]
    told = json.loads(parameters)
    least = told.get("min_count") if told.get("profile", "edges") == "edges" else None
    alone = None if least is None else _linked(con, least) - rows
    facts = {"seeds": None if seed is None else f"{method} {seed}", "cluster_method": _described(method, told)}
    set_metadata(con, {**facts, "cluster_singletons": alone, "primary_clustering": name})


def _revise(
    source: _Source, how: RunOptions, progress: Progress, what: str | tuple[Clustering, Placed]
) -> dict[str, Any]:
    limits = Limits(f"{min(_WRITING, how.memory or _WRITING) >> 20}MiB", how.threads)

    def change(con: duckdb.DuckDBPyConnection, fresh: bool) -> dict[str, Any]:
        name = what if isinstance(what, str) else what[0].name
        primary = True if isinstance(what, str) else how.primary
        with progress.task("storing modules", 2, "tables") as task, transaction(con):
            shown = _store(con, source.d_mlp, primary, what)
            task.advance()
            if shown:
                assemble_neurons(con, layers=source.layers)
                assemble_clusters(con)
            task.advance()
        progress.note("checking the atlas")
        return {**_row(con, name), "primary": shown}

    return revise(source.file, change, d_mlp=source.d_mlp, limits=limits, what="with this clustering the atlas")


def _store(
    con: duckdb.DuckDBPyConnection, d_mlp: int, primary: bool | None, what: str | tuple[Clustering, Placed]
) -> bool:
    """Write the run, if it is one; whether it is now what neurons and clusters show."""
    name = what if isinstance(what, str) else what[0].name
    held = set(_names(con))
    now = get_metadata(con).get("primary_clustering", "infomap")
    if not isinstance(what, str):
        write_clustering(con, what[0], what[1], d_mlp=d_mlp)
    if primary or (primary is None and now not in held) or name == now:
        make_primary(con, name)
        return True
    return False


@contextmanager
def _reading(file: Path, how: RunOptions) -> Iterator[_Source]:
    memory = min(_READING, (how.memory or _READING) // 2)
    limits = Limits(f"{max(memory >> 20, 64)}MiB", how.threads, existing(file).parent / f".{file.name}.spill")
    con = open_reader(file, limits=limits, macros=False)
    try:
        require_readable(con, file.name)
        yield _Source(con, file, *_sizes(con, file))
    except duckdb.Error as error:
        raise explain_failure(error, str(file)) from error
    finally:
        con.close()
        if limits.temp_folder is not None and limits.temp_folder.is_dir():
            shutil.rmtree(limits.temp_folder, ignore_errors=True)


def _sizes(con: duckdb.DuckDBPyConnection, file: Path) -> tuple[int, int]:
    try:
        facts = get_metadata(con)
        con.execute("SELECT src, tgt, count FROM edges LIMIT 0")
        return int(facts["num_layers"]), int(facts["neurons_per_layer"])
    except (duckdb.Error, KeyError, ValueError) as error:
        raise StoreError(
            f"{file.name} has no edges or does not say its sizes (metadata num_layers, neurons_per_layer): it is no "
            'atlas of this tool; make one with "atlas build" or "atlas edges project"'
        ) from error


def _forecast(source: _Source, method: str, options: Any, how: RunOptions) -> Forecast:
    need = predict(source.con, method, options, neurons=source.layers * source.d_mlp)
    allowed = how.memory if how.memory is not None else available_memory()
    disk = need.disk + int(_GROWN * source.file.stat().st_size)
    return Forecast(need, allowed, disk, shutil.disk_usage(source.file.resolve().parent).free)


def _refuse_name(con: duckdb.DuckDBPyConnection, name: str, method: str) -> None:
    if not name.strip() or not name.isprintable() or name.startswith("import:") or name == "primary":
        raise InputError(f"a clustering cannot be called {name!r}; give another --name")
    held = _methods(con).get(name, method)
    if held != method:
        raise InputError(f"{name!r} is a clustering by {held}, which {method} would replace; give another --name")


def _names(con: duckdb.DuckDBPyConnection) -> list[str]:
    return sorted(_methods(con))


def _methods(con: duckdb.DuckDBPyConnection) -> dict[str, str]:
    """Method of every stored clustering; before schema 11 the methods in partitions were their names."""
    found = "SELECT count(*) FROM duckdb_tables() WHERE table_name = 'clusterings' AND database_name = 'atlas'"
    if con.execute(found).fetchall()[0][0]:
        return dict(con.execute("SELECT clustering, method FROM clusterings ORDER BY ALL").fetchall())
    return {}


def _row(con: duckdb.DuckDBPyConnection, name: str) -> dict[str, Any]:
    found = con.execute("SELECT * FROM clusterings WHERE clustering = $1", [name])
    columns = [one[0] for one in found.description or ()]
    row = dict(zip(columns, found.fetchall()[0], strict=True))
    return {**row, "parameters": json.loads(row["parameters"] or "{}")}


def _linked(con: duckdb.DuckDBPyConnection, least: int) -> int:
    ends = "SELECT src FROM edges WHERE count >= $1 UNION SELECT tgt FROM edges WHERE count >= $1"
    return int(con.execute(f"SELECT count(*) FROM ({ends})", [least]).fetchall()[0][0])


def _described(method: str, told: Mapping[str, Any]) -> str:
    if "weight" not in told:
        return ", ".join([method, *(f"{name} {value}" for name, value in told.items())])
    kind = {"infomap": "multi-level", "leiden": f"recursive, modules of at most {told.get('max_size')} neurons"}
    way = "directed" if told.get("directed") else "both directions added"
    form = kind.get(method, "every level")
    return f"{method}, {form}, {way}, weight = {told['weight']}, count >= {told['min_count']}"


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f}"
