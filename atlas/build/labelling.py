"""An atlas and an endpoint -> the same atlas with labels: layer by layer in the order of the pass, written once.

Answers go into the ledger beside the atlas (ATLAS.labels) as they come; the atlas itself is changed once, at the end of
the run however it ends, by copy, change, check and rename. What a kill interrupts is in the ledger: the same command
goes on where it was.
"""

from __future__ import annotations

import random
import signal
import tempfile
import threading
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import duckdb

from atlas.build.revision import revise
from atlas.derive.labelling import input_pass, output_pass
from atlas.derive.labelling.budget import ANSWER_TOKENS, Budget, Caps, Prices, estimate
from atlas.derive.labelling.client import Client, Endpoint
from atlas.derive.labelling.dispatch import Desk, dispatch, settled
from atlas.derive.labelling.evidence import Asking, Question
from atlas.derive.labelling.ledger import Ledger, Row, ledger_file, locked
from atlas.derive.labelling.request import OK, Request, Setting
from atlas.errors import StoreError
from atlas.ingest.label_choice import choose_labels
from atlas.ingest.search_index import build_index
from atlas.progress import Progress, Quiet, Task
from atlas.query.atlas import Atlas
from atlas.store.connection import Limits
from atlas.store.ledger import Ingested, now, record
from atlas.store.sqlfiles import sql_text
from atlas.store.write import transaction
from atlas.tables import TABLES

PASSES: Mapping[str, ModuleType] = {"output": output_pass, "input": input_pass}
ASSUMED_NAME = "x" * 60  # of a neuron that this run will label, in an estimate
_CONFIDENCE = "llm-auto"


@dataclass(frozen=True)
class Choice:
    """Which neurons a run asks about."""

    layers: tuple[int, int] | None = None  # both included; None: all
    sample: int | None = None  # so many of them, drawn with `seed`
    seed: int = 0
    everyone: bool = False  # also those about which a rule leaves nothing to ask


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
    neurons: int  # that were chosen
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

    neurons: int
    unasked: dict[str, int]
    answered: int  # in the ledger already
    requests: int
    tokens_in: int
    tokens_out: int
    usd: float | None


@dataclass(frozen=True)
class _Plan:
    """The neurons of each layer, in the order of the pass; None: all of a layer."""

    which: ModuleType
    layers: list[int]
    neurons: dict[int, frozenset[int]] | None
    total: int

    def of(self, layer: int) -> Collection[int] | None:
        return None if self.neurons is None else self.neurons[layer]


def label_neurons(
    file: Path,
    which: str,
    *,
    setting: Setting,
    sending: Sending,
    choice: Choice | None = None,
    progress: Progress | None = None,
) -> Labelled:
    """Run the pass "output" or "input" over the chosen neurons and write what was answered into the atlas.

    One run per atlas at a time (StoreError). Ctrl-C or SIGTERM sends nothing more, waits for what is in flight and
    writes the atlas. Raises InputError, ServiceError (after writing) and whatever is wrong with the atlas.
    """
    shown, folder = progress or Quiet(), folder_of(file)
    desk = _desk(sending)
    with locked(folder), tempfile.TemporaryDirectory(prefix="rows-", dir=folder) as spill, stopping(desk):
        with Atlas(file, limits=Limits("1GiB", 1)) as atlas:
            plan = _plan(atlas, which, choice or Choice(), shown)
            found = _waves(_Run(atlas, plan, setting, desk, folder, Path(spill)), choice or Choice(), shown)
            d_mlp = atlas.d_mlp
        written = _write(file, Path(spill), desk.run, d_mlp=d_mlp, progress=shown)
    if desk.client is not None:
        desk.client.close()
    if desk.fault is not None:
        raise desk.fault
    budget = desk.budget
    return Labelled(
        desk.run, plan.total, dict(found.unasked), dict(found.statuses), budget.requests, budget.tokens_in,
        budget.tokens_out, budget.usd, desk.why, written,
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
    shown, desk = progress or Quiet(), _desk(sending)
    choice = choice or Choice()
    tally: Counter[str] = Counter()
    unasked: Counter[str] = Counter()
    with Atlas(file, limits=Limits("1GiB", 1)) as atlas:
        plan = _plan(atlas, which, choice, shown)
        asking = Asking(atlas, setting, _Assumed(plan, atlas.d_mlp), choice.everyone)
        with shown.task(f"prompts of the {which} pass", plan.total, "neurons") as task:
            for layer in plan.layers:
                ledger = Ledger(ledger_file(folder_of(file), which, layer))
                for question in plan.which.questions(asking, layer, plan.of(layer)):
                    task.advance()
                    _count(question, ledger, desk, (tally, unasked))
    tokens_out = tally["requests"] * ANSWER_TOKENS
    usd = None if sending.prices is None else sending.prices.cost(tally["tokens_in"], tokens_out)
    answered, requests = tally["answered"], tally["requests"]
    return Estimate(plan.total, dict(unasked), answered, requests, tally["tokens_in"], tokens_out, usd)


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
    plan: _Plan
    setting: Setting
    desk: Desk
    folder: Path
    spill: Path  # label rows of finished layers, Parquet


@dataclass
class _Found:
    unasked: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)


class _Assumed:
    """Names in an estimate: all neurons of the layers that are asked before have one."""

    def __init__(self, plan: _Plan, d_mlp: int) -> None:
        self._plan, self._d_mlp = plan, d_mlp

    def get(self, key: int, /) -> str | None:
        layer, neuron = divmod(key, self._d_mlp)
        if layer not in self._plan.layers:
            return None
        wanted = self._plan.of(layer)
        return ASSUMED_NAME if wanted is None or neuron in wanted else None


def _desk(sending: Sending) -> Desk:
    budget = Budget(sending.prices, sending.caps)
    stop = threading.Event()
    client = Client(sending.endpoint, stop) if sending.endpoint else None
    run = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    return Desk(client, budget, run, sending.retry, sending.refresh, sending.concurrency, stop)


def _plan(atlas: Atlas, which: str, choice: Choice, progress: Progress) -> _Plan:
    module = PASSES[which]
    first, last = choice.layers or (0, atlas.layers - 1)
    layers = module.order(range(first, min(last, atlas.layers - 1) + 1))
    if not layers:
        raise StoreError(f"no layer {first}: {atlas.name} has layers 0 to {atlas.layers - 1}; choose among these")
    _require_evidence(atlas, module, progress)
    total = len(layers) * atlas.d_mlp
    if choice.sample is None or choice.sample >= total:
        return _Plan(module, layers, None, total)
    drawn: dict[int, set[int]] = defaultdict(set)
    for place in random.Random(choice.seed).sample(range(total), choice.sample):
        drawn[sorted(layers)[place // atlas.d_mlp]].add(place % atlas.d_mlp)
    asked = [layer for layer in layers if layer in drawn]
    return _Plan(module, asked, {layer: frozenset(found) for layer, found in drawn.items()}, choice.sample)


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
    """Ask layer after layer; the label rows of each are spilled to disk."""
    found, names = _Found(), dict[int, str]()
    asking = Asking(run.atlas, run.setting, names, choice.everyone)
    with progress.task(f"{run.plan.which.NAME} labels", run.plan.total, "neurons") as task:
        for layer in run.plan.layers:
            if run.desk.stop.is_set():
                break
            made = _wave(run, asking, layer, (found, task))
            _spill(run, layer, made)
            names.update({run.atlas.d_mlp * layer + row["neuron"]: row["label"] for row in made if row["label"]})
    return found


def _wave(run: _Run, asking: Asking, layer: int, into: tuple[_Found, Task]) -> list[Row]:
    """Ask about one layer; its label rows, in the order of the neurons."""
    found, task = into
    which, desk = run.plan.which, run.desk
    ledger = Ledger(ledger_file(run.folder, which.NAME, layer))
    asked = _requests(which.questions(asking, layer, run.plan.of(layer)), found, task)
    rows: list[Row] = []
    for request, row in dispatch(asked, ledger, desk):
        rows.append(_label(request, row, which, layer))
        found.statuses[row["status"]] += 1
        task.advance(told=desk.budget.told(), free=row["run"] != desk.run)
    return sorted(rows, key=lambda row: row["neuron"])


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


def _label(request: Request, row: Row, which: ModuleType, layer: int) -> Row:
    """An answer -> a row of labels; a failure has its status and no label."""
    answer: Mapping[str, Any] = row.get("answer") or {} if row["status"] == OK else {}
    return {
        "layer": layer, "neuron": int(request.subject.partition("/N")[2]), "pass": which.NAME, "polarity": 0,
        "label": answer.get("label"), "short_label": answer.get("short_label"),
        "description": answer.get(f"{which.NAME}_function") if answer else row.get("detail"),
        "type": answer.get("type"), "interpretability": answer.get("interpretability"),
        "confidence": _CONFIDENCE if answer else None, "status": row["status"], "source": "llm", "model": row["model"],
        "prompt_version": row["prompt"], "prompt_hash": row.get("origin", row["key"]), "run": row["run"], "score": None,
        "created": row["created"],
    }  # fmt: skip


def _spill(run: _Run, layer: int, rows: list[Row]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if rows:
        pq.write_table(pa.Table.from_pylist(rows, schema=TABLES["labels"]), run.spill / f"layer_{layer:03d}.parquet")


def _write(file: Path, spill: Path, run: str, *, d_mlp: int, progress: Progress) -> int:
    """Put the label rows that the atlas does not have yet into it; how many there were."""
    parts = sorted(map(str, spill.glob("*.parquet")))
    new = _new_rows(file, parts) if parts else 0
    if not new:
        return 0
    progress.note(f"writing {new:,} labels into {file.name}")

    def change(con: duckdb.DuckDBPyConnection, fresh: bool) -> None:
        started = now()
        con.execute("CREATE TEMP TABLE answered AS FROM read_parquet($parts)", {"parts": parts})
        with transaction(con):
            con.execute(sql_text("ingest", "llm_labels"))
            choose_labels(con)
            build_index(con)
            record(con, _ingested(con, run), started=started)
        con.execute("DROP TABLE temp.answered")

    revise(file, change, d_mlp=d_mlp, limits=Limits("2GiB", 2), what="with these labels the atlas")
    return new


def _new_rows(file: Path, parts: list[str]) -> int:
    kept = 'layer, neuron, "pass", status, label, description, prompt_hash, run'
    with Atlas(file, limits=Limits("1GiB", 1)) as atlas:
        statement = f"SELECT count(*) FROM (SELECT {kept} FROM read_parquet($parts) EXCEPT SELECT {kept} FROM labels)"
        return int(atlas.cursor().execute(statement, {"parts": parts}).fetchall()[0][0])


def _ingested(con: duckdb.DuckDBPyConnection, run: str) -> Ingested:
    which, rows = con.execute('SELECT any_value("pass"), count(*) FROM answered').fetchall()[0]
    failed = con.execute(
        "SELECT status, count(*) FROM answered WHERE status <> 'ok' GROUP BY status ORDER BY status"
    ).fetchall()
    reason = "; ".join(f"{count:,} {status}" for status, count in failed) or None
    lost = sum(count for _, count in failed)
    return Ingested(f"labels:llm:{which}", run, rows - lost, rows, lost, reason)
