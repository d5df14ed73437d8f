"""Steps -> a finished atlas, on this machine: only what is missing or changed, and never half of anything.

Shards live in `<atlas>.build/`, complete or absent. The tables are written to `<atlas>.build/atlas.duckdb`, one
transaction a step with its key in the ledger; when every step is in, the file is checked and renamed over the old
atlas. A kill at any instant leaves the old atlas (or none) and a folder from which the next run goes on.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import duckdb

from atlas import __version__
from atlas.build.context import Context
from atlas.build.measurement import explain, refuse_other_recipe, run_shard
from atlas.build.preflight import check_resources, input_hashes
from atlas.build.recipe import Recipe
from atlas.build.steps import Step, step_keys, wanted_steps
from atlas.errors import AtlasError, StoreError
from atlas.progress import Progress, Quiet
from atlas.shards import Shard, count_to_measure, is_done, shard_facts, shard_rows, shard_sets
from atlas.store.checks import require_healthy
from atlas.store.connection import Limits, explain_failure, open_reader, open_writer
from atlas.store.content import content_hash
from atlas.store.ledger import Ingested, now, record, set_metadata
from atlas.store.ledger import step_keys as ledger_keys
from atlas.store.schema import apply_schema, newest_version, schema_version
from atlas.store.write import transaction

_INPUT = re.compile("(labels|assignments|edges):")  # ledger rows of a table step's input files


@dataclass(frozen=True)
class BuildOptions:
    """How a build runs; nothing here changes what it produces."""

    workers: int = 0  # 0 = all cores
    memory: str = "4GiB"  # DuckDB's limit for the table steps
    device: str = "auto"
    command: str | None = None  # noted in metadata for the registry of artifacts
    shards: Path | None = None  # folder of the shards; the build folder by default


@dataclass(frozen=True)
class BuildReport:
    """What a build did."""

    atlas: Path
    steps_run: tuple[str, ...]
    content_hash: str | None  # None when nothing was to be done


def build(recipe: Recipe, *, options: BuildOptions | None = None, progress: Progress | None = None) -> BuildReport:
    """Make the recipe's atlas, or find that it is already there.

    Raises AtlasError (bad input, damaged shards, full disk, failed checks); an existing atlas is then untouched.
    """
    options, progress = options or BuildOptions(), progress or Quiet()
    folder = recipe.build_folder
    inputs = input_hashes(recipe, cache=(options.shards or folder) / "inputs.json")
    keys = step_keys(recipe, inputs)
    if _finished_keys(recipe.atlas_path) == _table_keys(keys) and not _working(folder).exists():
        progress.note(f"{recipe.atlas_path.name} is up to date")
        return BuildReport(recipe.atlas_path, (), None)
    check_resources(recipe)
    folder.mkdir(parents=True, exist_ok=True)
    workers = options.workers or os.cpu_count() or 1
    context = Context(
        recipe, folder, progress, workers, options.device, keys, shards_folder=options.shards, inputs=inputs
    )
    try:
        with _only_builder(folder):
            return _build(context, options)
    except duckdb.Error as error:
        raise explain_failure(error, str(_working(folder))) from error
    except OSError as error:
        raise explain(error, folder) from error


def _build(context: Context, options: BuildOptions) -> BuildReport:
    done: list[str] = []
    _start_file(context)
    stale = _stale_tables(context)
    needed = _measures_needed(context, stale)
    for step in needed if options.shards else ():
        refuse_other_recipe(context, step)
    for step in needed:
        if _measure(context, step):
            done.append(step.name)
    limits = Limits(memory=options.memory, threads=context.workers, temp_folder=context.folder / "tmp")
    with _writing(context, limits):
        for step in stale:
            _fill(context, step)
            done.append(step.name)
        _describe(context, options)
    value = _verified_hash(_working(context.folder), limits)
    _publish(context)
    return BuildReport(context.recipe.atlas_path, tuple(done), value)


def _table_keys(keys: dict[str, str]) -> dict[str, str]:
    return {name: key for name, key in keys.items() if name.startswith("table:")}


def _working(folder: Path) -> Path:
    return folder / "atlas.duckdb"


def _finished_keys(path: Path) -> dict[str, str]:
    """Step keys in the ledger of a finished (or unfinished) atlas; {} when it cannot be used as a start."""
    if not path.is_file():
        return {}
    with suppress(AtlasError):  # not ours, damaged or of another version: it will be replaced as a whole
        con = open_writer(path) if path.name == "atlas.duckdb" else open_reader(path, macros=False)
        try:
            known = ledger_keys(con) if schema_version(con) == newest_version() else {}
            return {step: key for step, key in known.items() if not _INPUT.match(step)}
        finally:
            con.close()
    return {}


def _start_file(context: Context) -> None:
    """Have a file to write into: the one a killed run left, else a copy of the finished atlas, else a new one."""
    file = _working(context.folder)
    if file.exists() and _is_start(context, _finished_keys(file)):
        return
    _remove_database(file)
    if _is_start(context, _finished_keys(context.recipe.atlas_path)):
        part = file.with_suffix(".copy")
        shutil.copyfile(context.recipe.atlas_path, part)
        part.rename(file)


def _is_start(context: Context, found: dict[str, str]) -> bool:
    """Whether a file with these steps can be gone on from: the same model, and nothing in it that is not asked for."""
    return found.get("table:model") == context.keys["table:model"] and found.keys() <= context.keys.keys()


def _stale_tables(context: Context) -> list[Step]:
    found = _finished_keys(_working(context.folder))
    return [s for s in wanted_steps(context.recipe) if s.kind == "table" and found.get(s.name) != context.keys[s.name]]


def _measures_needed(context: Context, stale: list[Step]) -> list[Step]:
    """Measuring steps whose shards a stale table step (or another such step) reads and that are not complete."""
    steps = wanted_steps(context.recipe)
    needed = {name for step in stale for name in step.needs} | ({"model"} if stale else set())
    for step in reversed(steps):
        if step.kind == "measure" and step.name in needed and _missing(context, step):
            needed |= set(step.needs)
    return [step for step in steps if step.kind == "measure" and step.name in needed]


def _missing(context: Context, step: Step) -> bool:
    return not any(found.complete for found in shard_sets(context.root(step.name), context.keys[step.name]))


def _measure(context: Context, step: Step) -> bool:
    """Measure the shards that are missing, of the count that needs the fewest (count_to_measure)."""
    root, usual, ran = context.root(step.name), step.shards(context.recipe), False
    if not _missing(context, step):
        return False
    of = count_to_measure(shard_sets(root, context.keys[step.name]), usual)
    if of != usual:
        context.progress.note(f"{step.name}: completing the {of} shards that were begun (the recipe asks for {usual})")
    for shard in (Shard(context.keys[step.name], index, of) for index in range(of)):
        if not is_done(root, shard):
            run_shard(context, step, shard)
            ran = True
    return ran


def _fill(context: Context, step: Step) -> None:
    """Run a table step and write its ledger row, in one transaction."""
    started = now()
    with context.progress.task(step.title, 1, "table step") as task, transaction(context.con):
        rows = step.run(context) or 0
        record(context.con, _ledger_row(context, step, rows), started=started)
        task.advance()


def _ledger_row(context: Context, step: Step, rows: int) -> Ingested:
    """What the step read: rows and refusals of its shards, and the corpus, where it rests on one."""
    roots = [context.root(name) for name in step.needs if not name.startswith("table:") and name in context.keys]
    refused = sum(shard_facts(root).get(step.rejected, 0) for root in roots) if step.rejected else 0
    corpus = context.corpus_file if {"activations", "relp"} & set(step.needs) & context.keys.keys() else None
    return Ingested(
        step.name,
        context.keys[step.name],
        rows_out=rows,
        rows_in=sum(map(shard_rows, roots)) if roots else None,
        rows_rejected=refused,
        reason=step.reason if refused else None,
        source_file=corpus.name if corpus else None,
        size_bytes=corpus.stat().st_size if corpus else None,
        sha256=context.corpus.sha256 if corpus else None,
    )


@contextmanager
def _writing(context: Context, limits: Limits) -> Iterator[None]:
    context.connection = open_writer(_working(context.folder), limits=limits)
    try:
        apply_schema(context.con, d_mlp=context.d_mlp)
        yield
        context.con.execute("CHECKPOINT atlas")
    finally:
        context.con.close()
        context.connection = None
        shutil.rmtree(context.folder / "tmp", ignore_errors=True)


def _describe(context: Context, options: BuildOptions) -> None:
    with transaction(context.con):
        counts = {
            f"count_{table}": context.con.execute(f"SELECT count(*) FROM {table}").fetchall()[0][0]
            for table in ("neurons", "edges", "clusters", "labels", "graphs")
        }
        labelled = context.con.execute("SELECT count(label) FROM neurons").fetchall()[0][0]
        facts = {**counts, "count_neurons_labelled": labelled, "code_version": __version__}
        facts |= {f"recipe.{key}": value for key, value in context.recipe.parameters().items()}
        machine = {"created": now().isoformat(timespec="seconds"), "build_command": options.command}
        set_metadata(context.con, {**facts, **machine})


def _verified_hash(file: Path, limits: Limits) -> str:
    """Re-read the finished file as a user would, run every check, and hash its content."""
    con = open_reader(file, limits=limits)
    try:
        then = f"the old one is untouched; delete {file.parent} and rerun, and report it if it comes back"
        require_healthy(con, what="the new atlas", then=then)
        return content_hash(con)
    finally:
        con.close()
        shutil.rmtree(file.parent / "tmp", ignore_errors=True)


def _publish(context: Context) -> None:
    file, final = _working(context.folder), context.recipe.atlas_path
    if file.with_name(file.name + ".wal").exists():
        raise StoreError(f"{file} still has a write-ahead log; another process opened it; close it and rerun")
    handle = os.open(file, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    file.replace(final)
    _drop_superseded(context)


def _drop_superseded(context: Context) -> None:
    """Remove shards of older parameters: they cannot be reached again but by their key."""
    kept = {context.root(step.name).name for step in wanted_steps(context.recipe) if step.kind == "measure"}
    kept.add("slurm")  # scripts and logs of `atlas submit`, among them the log of the job that runs this
    for path in context.folder.iterdir():
        if path.is_dir() and path.name not in kept:
            shutil.rmtree(path)


def _remove_database(file: Path) -> None:
    for path in (file, file.with_name(file.name + ".wal"), file.with_suffix(".copy")):
        path.unlink(missing_ok=True)


@contextmanager
def _only_builder(folder: Path) -> Iterator[None]:
    """Exclude a second build of the same atlas (the lock goes with the process, also when it is killed)."""
    with (folder / "lock").open("a+") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            handle.seek(0)
            owner = handle.read().strip() or "unknown"
            raise StoreError(f"{folder} is being built by process {owner}; wait for it or stop it first") from error
        handle.truncate(0)
        handle.write(json.dumps(os.getpid()))
        handle.flush()
        yield
