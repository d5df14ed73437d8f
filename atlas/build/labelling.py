"""An atlas and an endpoint -> the same atlas with labels: wave by wave in the order of the pass, written once.

A wave is a layer of neurons or a level of modules; it is finished before the next is asked. Answers go into the ledger
beside the atlas (ATLAS.labels) as they come; the atlas itself is changed once, at the end of the run however it ends,
by copy, change, check and rename. What a kill interrupts is in the ledger: the same command goes on where it was.
"""

from __future__ import annotations

import random
import shutil
import signal
import tempfile
import threading
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import accumulate, groupby
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import duckdb

from atlas.build.revision import revise
from atlas.derive.labelling import cluster_pass, input_pass, output_pass
from atlas.derive.labelling.budget import ANSWER_TOKENS, Budget, Caps, Prices, estimate
from atlas.derive.labelling.client import Client, Endpoint
from atlas.derive.labelling.dispatch import Desk, dispatch, settled
from atlas.derive.labelling.evidence import Asking, Question
from atlas.derive.labelling.ledger import Ledger, Row, ledger_file, locked
from atlas.derive.labelling.request import OK, Request, Setting
from atlas.errors import InputError, ResourceError, StoreError
from atlas.ingest.label_choice import choose_labels
from atlas.ingest.search_index import build_index
from atlas.progress import Progress, Quiet, Task
from atlas.query.atlas import Atlas
from atlas.store.connection import Limits
from atlas.store.ledger import Ingested, now, record
from atlas.store.sqlfiles import sql_text
from atlas.store.write import transaction
from atlas.tables import TABLES

PASSES: Mapping[str, ModuleType] = {"output": output_pass, "input": input_pass, "clusters": cluster_pass}
ASSUMED_NAME = "x" * 60  # of a neuron that this run will label, in an estimate
_CONFIDENCE = "llm-auto"


@dataclass(frozen=True)
class Choice:
    """Which neurons or modules a run asks about."""

    layers: tuple[int, int] | None = None  # or levels of modules; both included; None: all
    sample: int | None = None  # so many of them, drawn with `seed`
    seed: int = 0
    everyone: bool = False  # also those about which a rule leaves nothing to ask
    at_least: int = 2  # neurons of a module


@dataclass(frozen=True)
class Sending:
    """How requests are sent and what they may cost."""

    endpoint: Endpoint | None  # None: nothing is sent, the ledger alone answers
    prices: Prices | None = None
    caps: Caps = field(default_factory=Caps)
    concurrency: int = 16
    retry: frozenset[str] = frozenset()
    refresh: bool = False


@dataclass(frozen=True)
class Labelled:
    """What came of a run."""

    run: str
    chosen: int  # neurons or modules
    unit: str
    unasked: dict[str, int]  # why not -> neurons
    statuses: dict[str, int]  # of the answers: ok, or a failure
    sent: int  # requests, repairs included
    tokens_in: int
    tokens_out: int
    usd: float | None
    stopped: str | None  # what ended the run early
    written: int  # rows of labels that are new in the atlas


@dataclass(frozen=True)
class Estimate:
    """What a run would send, and what that would cost."""

    chosen: int  # neurons or modules
    unit: str
    unasked: dict[str, int]
    answered: int  # in the ledger already
    requests: int
    tokens_in: int
    tokens_out: int
    usd: float | None


@dataclass(frozen=True)
class Plan:
    """The waves in the order of the pass, and the neurons (or modules) of each; None: all of them."""

    which: ModuleType
    waves: list[int]
    chosen: dict[int, frozenset[Any]] | None
    total: int

    def of(self, wave: int) -> Collection[Any] | None:
        """The neurons, or modules, that are chosen of a wave; None for all."""
        return None if self.chosen is None else self.chosen[wave]

    def key(self, wave: int, one: int | str, d_mlp: int) -> int | str:
        """What names call a neuron of a wave, or a module."""
        return one if isinstance(one, str) else wave * d_mlp + one


def label_atlas(
    file: Path,
    which: str,
    *,
    setting: Setting,
    sending: Sending,
    choice: Choice | None = None,
    progress: Progress | None = None,
) -> Labelled:
    """Run the pass "output", "input" or "clusters" and write what was answered into the atlas.

    One run per atlas at a time (StoreError). Ctrl-C or SIGTERM sends nothing more, waits for what is in flight and
    writes the atlas. Raises InputError, ServiceError (after writing) and whatever is wrong with the atlas.
    """
    shown, folder = progress or Quiet(), folder_of(file)
    desk = make_desk(sending)
    with locked(folder), tempfile.TemporaryDirectory(prefix="rows-", dir=folder) as spill, stopping(desk):
        with Atlas(file, limits=Limits("1GiB", 1, Path(spill) / "duckdb")) as atlas:
            _require_writable(atlas)
            plan = make_plan(atlas, which, choice or Choice(), shown)
            found = _waves(_Run(atlas, plan, setting, desk, folder, Path(spill)), choice or Choice(), shown)
            d_mlp = atlas.d_mlp
        written = _write(file, Path(spill), plan.which, d_mlp=d_mlp, progress=shown)
    if desk.client is not None:
        desk.client.close()
    if desk.fault is not None:
        raise desk.fault
    spent = desk.budget
    return Labelled(
        desk.run, plan.total, plan.which.UNIT, dict(found.unasked), dict(found.statuses), spent.requests,
        spent.tokens_in, spent.tokens_out, spent.usd, desk.why, written,
    )  # fmt: skip


def estimate_run(
    file: Path,
    which: str,
    *,
    setting: Setting,
    sending: Sending,
    choice: Choice | None = None,
    progress: Progress | None = None,
) -> Estimate:
    """What a run would send: requests, tokens (see atlas.derive.labelling.budget) and cost; nothing is sent or written.

    Neurons that the run itself would label before are taken to be called by ASSUMED_NAME, 60 characters.
    """
    shown, desk = progress or Quiet(), make_desk(sending)
    choice = choice or Choice()
    tally: Counter[str] = Counter()
    unasked: Counter[str] = Counter()
    with Atlas(file, limits=Limits("1GiB", 1)) as atlas:
        plan = make_plan(atlas, which, choice, shown)
        asking = Asking(atlas, setting, _Assumed(plan, atlas.d_mlp), choice.everyone, choice.at_least)
        with shown.task(f"prompts: {which}", plan.total, plan.which.UNIT) as task:
            for wave in plan.waves:
                ledger = Ledger(ledger_file(folder_of(file), which, wave))
                for question in plan.which.questions(asking, wave, plan.of(wave)):
                    task.advance()
                    _count(question, ledger, desk, (tally, unasked))
    tokens_out = tally["requests"] * ANSWER_TOKENS
    usd = None if sending.prices is None else sending.prices.cost(tally["tokens_in"], tokens_out)
    answered, requests = tally["answered"], tally["requests"]
    return Estimate(plan.total, plan.which.UNIT, dict(unasked), answered, requests, tally["tokens_in"], tokens_out, usd)


def folder_of(file: Path) -> Path:
    """Where the answers about an atlas are kept: ATLAS.labels beside it."""
    return file.with_name(f"{file.name}.labels")


@contextmanager
def stopping(desk: Desk) -> Iterator[None]:
    """Let the first Ctrl-C or SIGTERM stop the desk and a second one end at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        if desk.stop.is_set():
            raise KeyboardInterrupt
        desk.halt("interrupted")

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass(frozen=True)
class _Run:
    """What the waves of a run share."""

    atlas: Atlas
    plan: Plan
    setting: Setting
    desk: Desk
    folder: Path
    spill: Path  # label rows of finished layers, Parquet


@dataclass
class _Found:
    unasked: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)


class _Assumed:
    """Names in an estimate: everything in the waves that are asked before has one."""

    def __init__(self, plan: Plan, d_mlp: int) -> None:
        self._plan, self._d_mlp = plan, d_mlp

    def get(self, key: Any, /) -> str | None:
        wave, one = (key.count(".") + 1, key) if isinstance(key, str) else divmod(key, self._d_mlp)
        if wave not in self._plan.waves:
            return None
        wanted = self._plan.of(wave)
        return ASSUMED_NAME if wanted is None or one in wanted else None


def make_desk(sending: Sending) -> Desk:
    """The desk of a new run."""
    budget = Budget(sending.prices, sending.caps)
    stop = threading.Event()
    client = Client(sending.endpoint, stop) if sending.endpoint else None
    run = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    return Desk(client, budget, run, sending.retry, sending.refresh, sending.concurrency, stop)


def make_plan(atlas: Atlas, which: str, choice: Choice, progress: Progress) -> Plan:
    """Choose what is asked; InputError for a wave that is not there, StoreError without anything to show."""
    module = PASSES[which]
    _require_evidence(atlas, module, progress)
    sizes = _modules(atlas, choice) if module is cluster_pass else {n: range(atlas.d_mlp) for n in range(atlas.layers)}
    first, last = choice.layers or (min(sizes, default=0), max(sizes, default=0))
    waves = module.order([wave for wave in sizes if first <= wave <= last])
    if not waves:
        kind = "level" if module is cluster_pass else "layer"
        there = f"{kind}s {min(sizes)} to {max(sizes)}" if sizes else f"none of at least {choice.at_least} neurons"
        raise InputError(f"no {kind} {first} to ask about: {atlas.name} has {there}; choose among these")
    total = sum(len(sizes[wave]) for wave in waves)
    if choice.sample is None or choice.sample >= total:
        return Plan(module, waves, None, total)
    drawn = _drawn(choice, {wave: sizes[wave] for wave in sorted(waves)})
    return Plan(module, [wave for wave in waves if wave in drawn], drawn, choice.sample)


def _drawn(choice: Choice, sizes: Mapping[int, Sequence[Any]]) -> dict[int, frozenset[Any]]:
    """A random sample over all waves."""
    ends = list(accumulate(map(len, sizes.values())))
    waves, drawn = list(sizes), defaultdict[int, set[Any]](set)
    for place in random.Random(choice.seed).sample(range(ends[-1]), choice.sample or 0):
        number = bisect_right(ends, place)
        wave = waves[number]
        drawn[wave].add(sizes[wave][place - (ends[number - 1] if number else 0)])
    return {wave: frozenset(found) for wave, found in drawn.items()}


def _modules(atlas: Atlas, choice: Choice) -> dict[int, list[str]]:
    """The paths of the modules of each level."""
    large = f"size >= {int(choice.at_least)}"
    found = atlas.sql(f"SELECT level, cluster_path FROM clusters WHERE {large} ORDER BY level, cluster_path").fetchall()
    return {level: [path for _, path in rows] for level, rows in groupby(found, key=lambda row: int(row[0]))}


def _require_writable(atlas: Atlas) -> None:
    """Refuse, before anything is paid for, an atlas that the labels could not be written into."""
    if atlas.schema == 0:
        raise StoreError(f"{atlas.name} has schema 0 (another tool wrote it): labels are for files of atlas build")
    need, free = 1.5 * atlas.path.stat().st_size, shutil.disk_usage(atlas.path.resolve().parent).free
    if need > free:
        raise ResourceError(
            f"writing the labels takes up to {need / 1e9:.2f} GB beside the atlas, {free / 1e9:.2f} GB are free; free "
            "space there"
        )


def _require_evidence(atlas: Atlas, module: ModuleType, progress: Progress) -> None:
    """Say what a prompt cannot show; StoreError when there is nothing to show at all."""
    there = module.possible(atlas)
    lacking = [told for table, told in module.EVIDENCE.items() if table not in there]
    if not there:
        raise StoreError(
            f"{atlas.name} holds nothing to make {module.NAME} labels from ({', '.join(module.EVIDENCE)} are empty); "
            'build it with activations, graphs or weights ("atlas build RECIPE.toml"), or import labels'
        )
    if lacking:
        progress.note(f"prompts without {', '.join(lacking)}: {atlas.name} has none")
    if "exemplars" in there and not _half(atlas):
        progress.note("prompts without texts that fire it: all exemplars stand in documents that are kept for scores")


def _half(atlas: Atlas) -> bool:
    kept = "md5(concat(corpus, ' ', document)) >= '8'"
    return bool(atlas.sql(f"SELECT 1 FROM contexts WHERE {kept} LIMIT 1").fetchall())


def _waves(run: _Run, choice: Choice, progress: Progress) -> _Found:
    """Ask wave after wave; the label rows of each are spilled to disk."""
    found, names = _Found(), dict[Any, str]()
    asking = Asking(run.atlas, run.setting, names, choice.everyone, choice.at_least)
    with progress.task(f"labels: {run.plan.which.NAME}", run.plan.total, run.plan.which.UNIT) as task:
        for wave in run.plan.waves:
            if run.desk.stop.is_set():
                break
            made = _wave(run, asking, wave, (found, task))
            _spill(run, wave, made)
            names.update({_key(row, run.atlas.d_mlp): row["label"] for row in made if row["label"]})
    return found


def _wave(run: _Run, asking: Asking, wave: int, into: tuple[_Found, Task]) -> list[Row]:
    """Ask about one wave; its label rows, in order."""
    found, task = into
    which, desk = run.plan.which, run.desk
    ledger = Ledger(ledger_file(run.folder, which.NAME, wave))
    clustering = run.atlas.metadata.get("primary_clustering", "infomap")
    asked = _requests(which.questions(asking, wave, run.plan.of(wave)), found, task)
    rows: list[Row] = []
    for request, row in dispatch(asked, ledger, desk):
        rows.append(_module_row(request, row, clustering) if which is cluster_pass else _label(request, row, which))
        found.statuses[row["status"]] += 1
        task.advance(told=desk.budget.told(), free=row["run"] != desk.run)
    return sorted(rows, key=lambda row: _key(row, run.atlas.d_mlp))


def _key(row: Row, d_mlp: int) -> Any:
    """What names call a neuron or a module."""
    return row["layer"] * d_mlp + row["neuron"] if "neuron" in row else row["cluster_path"]


def _requests(questions: Iterator[Question], found: _Found, task: Task) -> Iterator[Request]:
    for question in questions:
        if question.request is not None:
            yield question.request
        else:
            found.unasked[question.unasked or ""] += 1
            task.advance(free=True)


def _count(question: Question, ledger: Ledger, desk: Desk, into: tuple[Counter[str], Counter[str]]) -> None:
    tally, unasked = into
    if question.request is None:
        unasked[question.unasked or ""] += 1
    elif settled(ledger, question.request, desk) is not None:
        tally["answered"] += 1
    else:
        tally["requests"] += 1
        tally["tokens_in"] += estimate(question.request)


def _label(request: Request, row: Row, which: ModuleType) -> Row:
    """An answer -> a row of labels; a failure has its status and no label."""
    answer = _answer(row)
    layer, _, neuron = request.subject[1:].partition("/N")
    return _provenance(row) | {
        "layer": int(layer), "neuron": int(neuron), "pass": which.NAME, "polarity": 0,
        "label": answer.get("label"), "short_label": answer.get("short_label"),
        "description": answer.get(f"{which.NAME}_function") if answer else row.get("detail"),
        "type": answer.get("type"), "interpretability": answer.get("interpretability"),
        "confidence": _CONFIDENCE if answer else None, "score": None,
    }  # fmt: skip


def _module_row(request: Request, row: Row, clustering: str) -> Row:
    """An answer -> a row of cluster_labels."""
    answer = _answer(row)
    return _provenance(row) | {
        "clustering": clustering, "cluster_path": request.subject.removeprefix("cluster "),
        "label": answer.get("label"), "description": answer.get("function") if answer else row.get("detail"),
        "interpretability": answer.get("interpretability"),
    }  # fmt: skip


def _answer(row: Row) -> Mapping[str, Any]:
    return row.get("answer") or {} if row["status"] == OK else {}


def _provenance(row: Row) -> Row:
    return {
        "status": row["status"], "source": "llm", "model": row["model"], "prompt_version": row["prompt"],
        "prompt_hash": row.get("origin", row["key"]), "run": row["run"], "created": row["created"],
    }  # fmt: skip


def _spill(run: _Run, wave: int, rows: list[Row]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if rows:
        schema = TABLES[run.plan.which.TABLE]
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), run.spill / f"wave_{wave:03d}.parquet")


def _write(file: Path, spill: Path, which: ModuleType, *, d_mlp: int, progress: Progress) -> int:
    """Put the label rows that the atlas does not have yet into it; how many there were."""
    parts = sorted(map(str, spill.glob("*.parquet")))
    new = _new_rows(file, parts, which.TABLE) if parts else 0
    if not new:
        return 0
    progress.note(f"writing {new:,} labels into {file.name}")

    def change(con: duckdb.DuckDBPyConnection, fresh: bool) -> None:
        started = now()
        con.execute("CREATE TEMP TABLE answered AS FROM read_parquet($parts)", {"parts": parts})
        with transaction(con):
            con.execute(sql_text("ingest", f"llm_{which.TABLE}"))
            if which.TABLE == "labels":
                choose_labels(con)
                build_index(con)
            record(con, _ingested(con, which), started=started)
        con.execute("DROP TABLE temp.answered")

    revise(file, change, d_mlp=d_mlp, limits=Limits("2GiB", 2), what="with these labels the atlas")
    return new


def _new_rows(file: Path, parts: list[str], table: str) -> int:
    """Rows that the atlas does not hold."""
    with Atlas(file, limits=Limits("1GiB", 1, Path(parts[0]).parent / "duckdb")) as atlas:
        statement = f"SELECT count(*) FROM (FROM read_parquet($parts) EXCEPT FROM {table})"
        return int(atlas.cursor().execute(statement, {"parts": parts}).fetchall()[0][0])


def _ingested(con: duckdb.DuckDBPyConnection, which: ModuleType) -> Ingested:
    run, rows = con.execute("SELECT max(run), count(*) FROM answered").fetchall()[0]
    failed = con.execute(
        "SELECT status, count(*) FROM answered WHERE status <> 'ok' GROUP BY status ORDER BY status"
    ).fetchall()
    reason = "; ".join(f"{count:,} {status}" for status, count in failed) or None
    lost = sum(count for _, count in failed)
    return Ingested(f"labels:llm:{which.NAME}", run, rows - lost, rows, lost, reason)
