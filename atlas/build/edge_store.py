"""Graphs and an edge store -> the store with them in it: what is new is found, checked, made in tasks, and named.

The manifest is changed when a partial is whole, so a kill at any instant leaves a store that is right, and the same
command goes on with the pieces that were made.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from atlas.build.distributed import Outcome, Stage, Task, run_tasks
from atlas.build.distributed.address import read_executor
from atlas.errors import AtlasError, InputError
from atlas.ingest.edge_store import compact as compaction
from atlas.ingest.edge_store.facts import (
    MANIFEST,
    REJECTED,
    Partial,
    Store,
    StoreFacts,
    create_store,
    locked,
    open_store,
    refuse_other_folder,
    require_whole,
)
from atlas.ingest.edge_store.partial import BASE_MEMORY, Work, link_or_copy
from atlas.ingest.edge_store.planning import (
    COMPACT_DISK,
    News,
    disk_of,
    look,
    refuse_full_disk,
    refuse_repeated_graphs,
    strangers,
    works,
)
from atlas.ingest.edge_store.sources import NO_GRAPHS, Given, paths_of, sizes_of
from atlas.ingest.edge_store.verify import faults
from atlas.progress import Progress, Quiet
from atlas.shards import write_whole

TASKS = "tasks"  # of the store's folder: what SLURM's job arrays read and leave
LEAST_MEMORY = 512 << 20


@dataclass(frozen=True)
class EdgeOptions:
    """How a store is worked on; nothing here changes a statistic."""

    memory: int = 4 << 30  # bytes, of all threads together
    threads: int = 2
    strict: bool = False  # stop at the first file that cannot be used
    method: str | None = None  # edge_method of the files, where they do not say it
    executor: str = "local"


@dataclass(frozen=True)
class Sizes:
    """What a person says of the model of a new store; None where the files say it."""

    model: str | None = None
    layers: int | None = None
    width: int | None = None
    unit_type: str | None = None
    half: int | None = None


@dataclass(frozen=True)
class Added:
    """What an `add` did."""

    store: Store
    sources: int
    observations: int
    known: int
    rejected: tuple[tuple[str, str], ...]  # path, reason
    outcome: Outcome  # tasks, and the bytes that they read and wrote


def add(
    path: Path, given: Iterable[Path], *, sizes: Sizes, options: EdgeOptions, progress: Progress | None = None
) -> Added:
    """Add graphs to a store, which is made when it is not there.

    Raises InputError before anything is written for sources of another model or method, files that changed since they
    were added, and graphs that are in the store already; ResourceError when the disk will not hold it. A file that
    cannot be used is left out and reported, or, with `options.strict`, stops the run.
    """
    shown = progress or Quiet()
    if options.memory < LEAST_MEMORY:
        raise InputError(f"--memory is {options.memory >> 20} MiB, at least {LEAST_MEMORY >> 20} MiB are needed")
    read_executor(options.executor)  # refuses a name that it does not know before any file is read
    refuse_other_folder(path)
    with locked(path), _gone_when_refused(path):
        store = open_store(path) if (path / MANIFEST).is_file() else None
        if store:
            _refuse_other_sizes(store, sizes)
        news = _look(given, store, options, shown)
        made = store or create_store(path, _facts(news.fresh, sizes, news))
        news = _without_strangers(made.facts, news, options, said_model=sizes.model is not None)
        for name, reason in news.rejected:
            shown.note(f"left out {Path(name).name}: {reason}")
        refuse_repeated_graphs(made, news.fresh)
        refuse_full_disk(path, disk_of(news.fresh), "adding these graphs")
        done = _add(made, news, options, shown)
        if store is None and not done.store.manifest.partials:  # the sizes may have been wrong: let them be said anew
            raise InputError(_none_used(done.rejected))
        return done


def compact(path: Path, *, options: EdgeOptions, progress: Progress | None = None) -> Store:
    """Make one partial of all, in which every edge is one row; nothing to do when it is so already."""
    shown = progress or Quiet()
    found = open_store(path)  # so that a name that is no store leaves no folder with a lock
    if compaction.is_compact(found) and not _strays(found):
        return found  # without the lock: several may project a store at once
    with locked(path):
        store = open_store(path)
        require_whole(store)
        for stray in _strays(store):
            shutil.rmtree(stray)
        memory = (options.memory - BASE_MEMORY) // options.threads
        tasks = compaction.plan_merges(store, memory=memory)
        if not tasks:
            return store
        refuse_full_disk(path, int(COMPACT_DISK * sum(one.bytes for one in store.manifest.partials)), "compacting")
        _drop_drafts(store, {tasks[0].id})
        stage = Stage(
            "merging ranges",
            tuple(_merge_task(store, one) for one in tasks),
            store.path.resolve() / TASKS,
            unit="files",
        )
        outcome = run_tasks(stage, read_executor(options.executor, workers=options.threads), progress=shown)
        _note_moved(shown, options, outcome)
        if outcome.queued:
            return store
        return compaction.finish(store, tasks)


def status(path: Path) -> dict[str, Any]:
    """What a store is of and holds, as plain values."""
    store = open_store(path)
    partials = store.manifest.partials
    left = store.rejected()
    return {
        "store": str(path),
        **{name: getattr(store.facts, name) for name in ("model", "revision", "layers", "width", "unit_type")},
        **{name: getattr(store.facts, name) for name in ("edge_method", "quantum", "half")},
        "sources": sum(one.sources for one in partials),
        "rejected": len(left),
        "graphs": sum(one.graphs for one in partials),
        "counts_graphs": store.manifest.counts_graphs,
        "observations": store.manifest.observations,
        "edge_rows": sum(one.edges for one in partials),
        "partials": len(partials),
        "runs": sum(one.runs for one in partials),
        "compact": compaction.is_compact(store),
        "bytes": sum(one.bytes for one in partials),
        "unfinished": sorted(one.name for one in (path / "partials").glob(".draft-*")),
    }


def sources(path: Path) -> list[dict[str, Any]]:
    """One row a source: what was read of it and what was left out and why, then those that could not be used."""
    import pyarrow.parquet as pq

    store = open_store(path)
    rows = [row for file in store.files("sources") for row in pq.read_table(file).to_pylist()]
    for row in rows:
        row.update({name: json.loads(row[name]) for name in ("nodes", "links", "skipped", "notes")})
    out = [{"path": name, "name": Path(name).name, "status": "rejected", "reason": reason}
           for name, reason in store.rejected().items()]  # fmt: skip
    return sorted(rows, key=lambda row: str(row["path"])) + out


def verify(path: Path, *, progress: Progress | None = None) -> list[str]:
    """Read the whole store; the faults found, in sentences."""
    open_store(path)
    with locked(path, shared=True):
        store = open_store(path)
        with (progress or Quiet()).task("verifying", store.manifest.observations, "observations") as task:
            return list(faults(store, advance=task.advance))


@contextmanager
def _gone_when_refused(path: Path) -> Iterator[None]:
    """Take a new store away again when nothing is put into it: its sizes may have been wrong, let them be said anew."""
    new = not (path / MANIFEST).is_file()
    try:
        yield
    except AtlasError as error:
        empty = not ((path / MANIFEST).is_file() and open_store(path).manifest.partials)
        begun = any(path.glob("partials/.draft-*"))  # work that goes on when what failed, such as a cluster, is mended
        if new and empty and path.is_dir() and (isinstance(error, InputError) or not begun):
            shutil.rmtree(path)
        raise


def _refuse_other_sizes(store: Store, sizes: Sizes) -> None:
    """A store is of one model: what is said of it again must be what it is."""
    for name, said in vars(sizes).items():
        found = getattr(store.facts, name)
        if said is not None and found not in (said, "unknown"):
            empty = "" if store.manifest.partials else ", or delete this one, nothing is in it yet"
            raise InputError(
                f"--{name.replace('_', '-')} is {said}, the store {store.path} has {found or 'none'}; leave the option "
                f"out, or give another store{empty}"
            )


def _look(given: Iterable[Path], store: Store | None, options: EdgeOptions, shown: Progress) -> News:
    paths = list(paths_of(given))
    with shown.task("looking at files", len(paths), "files") as task:
        news = look(paths, store, method=options.method, shown=task.advance)
    return news


def _without_strangers(facts: StoreFacts, news: News, options: EdgeOptions, *, said_model: bool) -> News:
    """The news less the sources of other models and methods; InputError for the first that is out when strict."""
    out = strangers(facts, news.fresh, said_model=said_model)
    names = {path for path, _ in out}
    rejected = (*news.rejected, *out)
    if rejected and options.strict:
        raise InputError(f"{Path(rejected[0][0]).name}: {rejected[0][1]}")
    return replace(news, fresh=tuple(one for one in news.fresh if one.path not in names), rejected=rejected)


def _facts(fresh: tuple[Given, ...], sizes: Sizes, news: News) -> StoreFacts:
    """Facts of a new store: what the files say, overridden by what the person says."""
    if not fresh:
        raise InputError(_none_used(news.rejected))
    found = sizes_of(fresh)
    said = {name: value for name, value in vars(sizes).items() if value is not None}
    if found is None and not {"layers", "width"} <= set(said):
        raise InputError(
            f"{fresh[0].name} does not say how large its model is; give --layers and --width (neurons of a layer)"
        )
    method = next((one.edge_method for one in fresh if one.edge_method != NO_GRAPHS), "unknown")
    units = "transcoder_feature" if method == "transcoder_direct" else "mlp_neuron"
    base = found or StoreFacts(fresh[0].model or "unknown", 0, 0, method, units)
    return replace(base, **{"edge_method": method, **said})


def _none_used(rejected: tuple[tuple[str, str], ...]) -> str:
    first = f"; {Path(rejected[0][0]).name}: {rejected[0][1]}" if rejected else ""
    return f"none of the {len(rejected)} files can be used, so no store was made{first}"


def _add(store: Store, news: News, options: EdgeOptions, shown: Progress) -> Added:
    planned = works(news, memory=options.memory, threads=options.threads, strict=options.strict)
    _drop_drafts(store, {f"{one.id}-{one.capacity}" for one in planned} | {one.id for one in planned})
    rejected = list(news.rejected)
    before, had = store.manifest.observations, sum(one.sources for one in store.manifest.partials)
    current = [store]

    def commit(task: Task, made: dict[str, Any]) -> None:
        out = {row["path"] for row in made["rejected"]}
        used = [one for one in task.arguments["work"]["sources"] if one["path"] not in out]
        current[0] = _commit(current[0], made, all(one["counts_graphs"] for one in used))
        for row in made["rejected"]:
            shown.note(f"left out {row['name']}: {row['reason']}")
            rejected.append((row["path"], row["reason"]))

    tasks = tuple(_partial_task(store, work, place) for work, place in _numbered(planned))
    stage = Stage("adding graphs", tasks, store.path.resolve() / TASKS, unit="observations")
    outcome = run_tasks(stage, read_executor(options.executor), done=commit, progress=shown)
    _note_moved(shown, options, outcome)
    store = current[0]
    for one in news.fresh:
        if one.kind == "store":
            with locked(Path(one.path), shared=True):
                store = _join(store, Path(one.path))
    _note_rejected(store, rejected)
    observed = store.manifest.observations - before
    sources = sum(one.sources for one in store.manifest.partials) - had
    return Added(store, sources, observed, len(news.known), tuple(rejected), outcome)


def _numbered(planned: list[Work]) -> list[tuple[Work, str]]:
    return [(work, f"{number}/{len(planned)}") for number, work in enumerate(planned, start=1)]


def _partial_task(store: Store, work: Work, place: str) -> Task:
    arguments = {"store": str(store.path.resolve()), "work": work.as_dict()}
    weight = sum(one.observations for one in work.sources)
    return Task(f"edge partial {place}", "atlas.build.edge_tasks:make_partial", arguments, work.memory, weight)


def _merge_task(store: Store, merge: compaction.Merge) -> Task:
    arguments = {"store": str(store.path.resolve()), "merge": merge.as_dict()}
    where = "" if merge.span is None else f" of layers {merge.span[0]}-{merge.span[1]}"
    name = f"merge {merge.table.replace('_', ' ')}{where}"
    return Task(name, "atlas.build.edge_tasks:merge_range", arguments, merge.memory)


def _note_moved(shown: Progress, options: EdgeOptions, outcome: Outcome) -> None:
    if options.executor != "local":
        shown.note(outcome.sentence)


def _commit(store: Store, made: dict[str, Any], counts_graphs: bool) -> Store:
    partial = Partial(**made["partial"])
    if not partial.sources:
        shutil.rmtree(store.folder(partial))
        return store
    kept = [one for one in store.manifest.partials if one.id != partial.id]
    graphs = store.manifest.counts_graphs and counts_graphs
    return store.with_manifest(partials=(*kept, partial), counts_graphs=graphs)


def _join(store: Store, other: Path) -> Store:
    """Take the partials of another store: links where the file system has them, else copies."""
    theirs = open_store(other)
    require_whole(theirs)
    for one in theirs.manifest.partials:
        draft = store.draft(one.id)
        shutil.rmtree(draft, ignore_errors=True)
        shutil.copytree(theirs.folder(one), draft, copy_function=link_or_copy)
        final = store.folder(one)
        shutil.rmtree(final, ignore_errors=True)
        draft.rename(final)
    graphs = store.manifest.counts_graphs and theirs.manifest.counts_graphs
    partials = (*store.manifest.partials, *theirs.manifest.partials)
    return store.with_manifest(partials=partials, counts_graphs=graphs)


def _drop_drafts(store: Store, kept: set[str]) -> None:
    """Remove what killed runs left and this one does not go on with."""
    drafts = [path for path in (store.path / "partials").glob(".draft-*") if path.name[len(".draft-") :] not in kept]
    for path in (*drafts, *(one for one in _strays(store) if one.name not in kept)):
        shutil.rmtree(path)


def _strays(store: Store) -> list[Path]:
    """Folders of partials that the manifest does not name, as a kill beside its writing leaves them."""
    named = {one.id for one in store.manifest.partials}
    return sorted(one for one in (store.path / "partials").glob("[!.]*") if one.name not in named)


def _note_rejected(store: Store, rejected: list[tuple[str, str]]) -> None:
    """Keep the reasons of what was left out, until it is added after all."""
    from atlas.ingest.edge_store.sources import known_sources

    inside = set(known_sources(store)["path"].to_pylist())
    rows = {**store.rejected(), **dict(rejected)}
    left = {path: reason for path, reason in rows.items() if path not in inside}
    write_whole(store.path / REJECTED, json.dumps(left, indent=1))


__all__ = ["Added", "EdgeOptions", "Sizes", "add", "compact", "sources", "status", "verify"]
