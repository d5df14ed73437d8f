"""An atlas and its labels -> the same atlas with label_scores: tests of a sample of labels, written once at the end.

What an LLM answers goes into the ledger beside the atlas (ATLAS.labels) first: a test that is run again after a kill,
or with more texts on the same labels, pays nothing twice.
"""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any

import duckdb

from atlas.build.labelling import Sending, folder_of, stopping
from atlas.build.revision import revise
from atlas.derive.labelling.budget import Budget, estimate
from atlas.derive.labelling.client import Client
from atlas.derive.labelling.detection import detection_quizzes
from atlas.derive.labelling.dispatch import Desk, dispatch, settled
from atlas.derive.labelling.embedding_score import embedding_scores
from atlas.derive.labelling.fuzzing import fuzzing_quizzes
from atlas.derive.labelling.intervals import mean_interval
from atlas.derive.labelling.ledger import Ledger, Row, ledger_file, locked
from atlas.derive.labelling.output_score import output_scores
from atlas.derive.labelling.quiz import Asked, Quiz, questions, scores
from atlas.derive.labelling.request import Setting
from atlas.derive.labelling.scoring import (
    ASKED,
    METHODS,
    Drawing,
    Drawn,
    Score,
    Trial,
    draw_labels,
    overlap,
    passes_of,
    read_token_trials,
    read_trials,
    score_rows,
)
from atlas.errors import InputError, StoreError
from atlas.ingest.label_choice import choose_labels
from atlas.ingest.search_index import build_index
from atlas.models.text_embedder import DEFAULT, TextEmbedder, load_embedder
from atlas.progress import Progress, Quiet
from atlas.query.atlas import Atlas
from atlas.store.connection import Limits, existing
from atlas.store.ledger import get_metadata
from atlas.store.search_state import index_state
from atlas.store.sqlfiles import sql_text
from atlas.store.write import append_from_arrow, transaction
from atlas.tables import TABLES

_LIMITS = Limits("1GiB", 2)
_QUIZZES: Mapping[str, Callable[..., Iterable[Quiz]]] = {"detection": detection_quizzes, "fuzzing": fuzzing_quizzes}


@dataclass(frozen=True)
class Scoring:
    """How labels are tested: an LLM for detection and fuzzing, a model of texts for embedding and output."""

    methods: tuple[str, ...] = ("embedding", "output")  # labels.score takes the first that tests a label
    setting: Setting | None = None
    sending: Sending | None = None
    embedder: str = DEFAULT


@dataclass(frozen=True)
class MethodScore:
    """What came of one method over all labels that it tested."""

    method: str
    model: str | None
    drawn: int  # labels
    tested: int  # those with enough texts and an answer
    mean: float | None
    low: float | None  # 95% interval of the mean, bootstrap over labels
    high: float | None
    baseline: float | None  # mean over the labels that have one


@dataclass(frozen=True)
class Scored:
    """What came of a run."""

    methods: tuple[MethodScore, ...]
    sent: int
    tokens_in: int
    tokens_out: int
    usd: float | None
    stopped: str | None  # what ended it early
    notes: tuple[str, ...]  # what of the labels' evidence is of the documents that test them


@dataclass(frozen=True)
class _Tested:
    """What one method came to: labels drawn, the scores of those that could be tested, and notes."""

    drawn: int
    scores: list[Score]
    notes: tuple[str, ...]


def score_labels(
    file: Path, testing: Scoring, *, drawing: Drawing | None = None, progress: Progress | None = None
) -> Scored:
    """Test a sample of labels by each method, store the scores and set labels.score; scores of the same test go.

    Raises InputError for a method without what it needs (model, endpoint, embedder) and for a source that no label has,
    StoreError for an atlas without exemplars or logit lens.
    """
    drawing, shown = drawing or Drawing(), progress or Quiet()
    _check(existing(file), testing)
    desk, found = _desk(testing), dict[str, _Tested]()
    with locked(folder_of(file)), stopping(desk), Atlas(file, limits=_LIMITS) as atlas:
        run = _Run(atlas, testing, drawing, desk, folder_of(file), shown)
        for method in testing.methods:
            found[method] = _test(run, method)
        d_mlp = atlas.d_mlp
    if desk.client is not None:
        desk.client.close()
    rows = score_rows([s for tested in found.values() for s in tested.scores], seed=drawing.seed, created=_today())
    if rows:
        _write(file, rows, testing.methods, d_mlp=d_mlp, progress=shown)
    if desk.fault is not None:
        raise desk.fault
    told = tuple(_told(method, tested, drawing.seed) for method, tested in found.items())
    notes = tuple(dict.fromkeys(note for tested in found.values() for note in tested.notes))
    budget = desk.budget
    return Scored(told, budget.requests, budget.tokens_in, budget.tokens_out, budget.usd, desk.why, notes)


def estimate_scores(file: Path, testing: Scoring, *, drawing: Drawing | None = None) -> dict[str, tuple[int, int]]:
    """Requests and tokens to read, by method, that a run would send; nothing is sent or written."""
    drawing, desk = drawing or Drawing(), _desk(Scoring(testing.methods, testing.setting))
    found = {}
    with Atlas(existing(file), limits=_LIMITS) as atlas:
        run = _Run(atlas, testing, drawing, desk, folder_of(file), Quiet())
        for method in (one for one in testing.methods if one in ASKED):
            con = atlas.cursor()
            asked = list(_questions(run, con, draw_labels(con, method, drawing), method))
            open_ones = [a for layer, group in _by_layer(asked) for a in _unanswered(run, method, layer, group)]
            found[method] = len(open_ones), sum(estimate(a.request) for a in open_ones)
    return found


@dataclass(frozen=True)
class _Run:
    atlas: Atlas
    testing: Scoring
    drawing: Drawing
    desk: Desk
    folder: Path
    progress: Progress


def _test(run: _Run, method: str) -> _Tested:
    """Draw labels and test them."""
    con = run.atlas.cursor()
    drawn = draw_labels(con, method, run.drawing)
    if not drawn:
        raise InputError(
            f"{run.atlas.name} has no {' or '.join(passes_of(method))} labels"
            f"{f' of source {run.drawing.source!r}' if run.drawing.source else ''} that {method} could test; "
            '"atlas label stats" lists sources'
        )
    run.progress.note(f"{method}: {len(drawn):,} labels")
    notes = () if method == "output" else overlap(con)  # promoted tokens are of the weights, not of documents
    return _Tested(len(drawn), _scores(run, con, drawn, method), notes)


def _scores(run: _Run, con: duckdb.DuckDBPyConnection, drawn: Sequence[Drawn], method: str) -> list[Score]:
    if method in ASKED:
        return _ask(run, method, list(_questions(run, con, drawn, method)))
    embedder, seed = _embedder(run.testing.embedder), run.drawing.seed
    if method == "output":
        return list(output_scores(read_token_trials(con, drawn, run.drawing), embedder, seed=seed))
    return list(embedding_scores(read_trials(con, drawn, run.drawing), embedder, seed=seed))


def _questions(run: _Run, con: duckdb.DuckDBPyConnection, drawn: Sequence[Any], method: str) -> Iterable[Asked]:
    trials: Iterable[Trial] = read_trials(con, drawn, run.drawing)
    setting = run.testing.setting
    assert setting is not None  # _check
    return questions(_QUIZZES[method](trials, seed=run.drawing.seed), setting)


def _ask(run: _Run, method: str, asked: list[Asked]) -> list[Score]:
    answered: list[tuple[Asked, Row]] = []
    by_request = {id(one.request): one for one in asked}
    with run.progress.task(method, len(asked), "requests") as task:
        for layer, group in _by_layer(asked):
            ledger = Ledger(ledger_file(run.folder, method, layer))
            for request, row in dispatch((one.request for one in group), ledger, run.desk):
                answered.append((by_request[id(request)], row))
                task.advance(told=run.desk.budget.told(), free=row["run"] != run.desk.run)
            if run.desk.stop.is_set():
                break
    setting = run.testing.setting
    return scores(answered, model=setting.model if setting else "")


def _by_layer(asked: list[Asked]) -> Iterable[tuple[int, list[Asked]]]:
    ordered = sorted(asked, key=lambda a: a.quiz.drawn.layer)
    return ((layer, list(group)) for layer, group in groupby(ordered, key=lambda a: a.quiz.drawn.layer))


def _unanswered(run: _Run, method: str, layer: int, group: list[Asked]) -> list[Asked]:
    ledger = Ledger(ledger_file(run.folder, method, layer))
    return [one for one in group if settled(ledger, one.request, run.desk) is None]


def _check(file: Path, testing: Scoring) -> None:
    unknown = [method for method in testing.methods if method not in METHODS]
    if unknown or not testing.methods:
        raise InputError(f"no method {', '.join(unknown) or 'is named'}; there are {', '.join(METHODS)}")
    if set(ASKED) & set(testing.methods) and (testing.setting is None or testing.sending is None):
        raise InputError(
            "detection and fuzzing ask an LLM: give --model and --base-url; embedding and output need none"
        )
    if set(testing.methods) - set(ASKED):
        load_embedder(testing.embedder)
    with Atlas(file, limits=_LIMITS) as atlas:
        for table, methods in (("exemplars", set(METHODS) - {"output"}), ("logit_lens", {"output"})):
            lacking = methods & set(testing.methods)
            if lacking and not atlas.sql(f"SELECT 1 FROM {table} LIMIT 1").fetchall():
                raise StoreError(
                    f"{atlas.name} holds no {table}, which {' and '.join(sorted(lacking))} tests labels on; build it "
                    'with activations ("atlas build RECIPE.toml") or choose another --method'
                )


def _embedder(name: str) -> TextEmbedder:
    """The embedder for many texts: where torch is installed it is 2 to 7 times as fast for the usual model."""
    found = load_embedder(name)
    if name == DEFAULT and all(importlib.util.find_spec(module) for module in ("torch", "transformers")):
        from atlas.models.minilm_torch import load_bulk_minilm

        return load_bulk_minilm()
    return found


def _desk(testing: Scoring) -> Desk:
    sending, stop = testing.sending or Sending(None), threading.Event()
    budget, run = Budget(sending.prices, sending.caps), datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    client = Client(sending.endpoint, stop) if sending.endpoint else None
    return Desk(client, budget, run, sending.retry, sending.refresh, sending.concurrency, stop)


def _write(file: Path, rows: list[dict[str, Any]], methods: Sequence[str], *, d_mlp: int, progress: Progress) -> None:
    import pyarrow as pa

    progress.note(f"writing {len(rows):,} scores into {file.name}")
    table = pa.Table.from_pylist(rows, schema=TABLES["label_scores"])

    def change(con: duckdb.DuckDBPyConnection, fresh: bool) -> None:
        con.register("new_scores", table)
        with transaction(con):
            con.execute(sql_text("ingest", "scores_replaced"))
            append_from_arrow(con, "label_scores", table)
            con.execute(sql_text("ingest", "scores_shown"), {"methods": list(methods)})
            if "num_layers" in get_metadata(con):
                choose_labels(con)
        con.unregister("new_scores")
        if index_state(con) == "stale":
            with transaction(con):
                build_index(con)

    revise(file, change, d_mlp=d_mlp, limits=_LIMITS, what="with these scores the atlas")


def _told(method: str, tested: _Tested, seed: int) -> MethodScore:
    made, drawn = tested.scores, tested.drawn
    if not made:
        return MethodScore(method, None, drawn, 0, None, None, None, None)
    values = [one.score for one in made]
    baselines = [one.baseline for one in made if one.baseline is not None]
    baseline = sum(baselines) / len(baselines) if baselines else None
    low, high = mean_interval(values, seed=seed)
    return MethodScore(method, made[0].model, drawn, len(made), sum(values) / len(values), low, high, baseline)


def _today() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
