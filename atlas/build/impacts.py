"""Neurons of an atlas, its model and held-out text -> what the model loses without them, stored in the atlas.

>>> from atlas.build.impacts import HeldOutText, Measuring, measure_impacts
>>> text = HeldOutText(corpus="stories.json", skip_documents=300)      # not those that the scores were made on
>>> found = measure_impacts("stories260K.duckdb", [5, 7], text)        # doctest: +SKIP
>>> found.joint["impact_score"], found.joint["joint_over_sum"]         # doctest: +SKIP
>>> [(row["neuron"], row["kl"]) for row in found.individual]           # doctest: +SKIP
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atlas.build.revision import revise
from atlas.build.same_model import require_same_model
from atlas.errors import InputError, StoreError
from atlas.ingest.calibration import fresh_documents
from atlas.ingest.impacts import store_impacts, stored_impacts
from atlas.measure.impact import BUDGET, Impact, eval_id, impact_rows, impacts, judged
from atlas.progress import Progress, Quiet, Task
from atlas.query.atlas import Atlas
from atlas.store.connection import Limits, existing

if TYPE_CHECKING:
    from atlas.measure.ablation import Ablation, Ablator, HeldOut
    from atlas.models.adapter import Adapter

Row = dict[str, Any]
_SEED = ("impact_score", "mean_change", "max_change")
_EVIDENCE = ("kl", "kl_low", "kl_high", "delta_nll", "delta_nll_low", "delta_nll_high", "kl_p99", "top1_flip_rate",
             "tokens", "documents", "budget", "reason")  # fmt: skip
_LIMITS = Limits("1GiB", 2)
_FIRST, _SECONDS = 16, 20.0  # sets between two looks at the clock: so many, then what takes so long
_SAVE_AFTER = 60.0  # seconds of measuring that a kill may cost, or 20 times what saving takes


@dataclass(frozen=True)
class HeldOutText:
    """Text that pruning is judged on: some texts, or documents of a corpus file."""

    texts: tuple[str, ...] = ()
    corpus: str | Path | None = None
    documents: int | None = None  # of the corpus, after the skipped ones; None: all
    skip_documents: int = 0
    context_length: int | None = None  # tokens, BOS included; None: the model's, at most 512
    max_tokens: int | None = None  # predicted positions
    skip_calibration: bool = False  # leave out documents that the scores were made on, instead of refusing
    fresh: bool = False  # the user knows that the text is fresh, where the atlas cannot tell


@dataclass(frozen=True)
class Measuring:
    """What is measured and how it is judged."""

    zero: bool = False  # ablate to 0 instead of the mean over calibration documents
    each: bool = True  # every neuron by itself
    joint: bool = True  # all of them together
    budget: float = BUDGET  # nats per token
    seed: int = 0  # of the bootstrap
    again: bool = False  # measure also what is stored
    store: bool = True


@dataclass(frozen=True)
class Found:
    """What came of it: rows of table impacts. `joint` is None where it was not asked for."""

    eval_id: str
    ablation: str
    individual: list[Row]
    joint: Row | None
    measured: int  # sets; the others were stored before
    notes: tuple[str, ...] = field(default=())


def measure_impacts(
    file: str | Path,
    neurons: Sequence[int],
    text: HeldOutText,
    *,
    model: Adapter | str | Path | None = None,
    measuring: Measuring | None = None,
    progress: Progress | None = None,
) -> Found:
    """Ablate neurons (packed ids) of an atlas's model, each alone and all together, on held-out text.

    `model` is a folder, or a loaded model; None: that of the atlas's recipe. Sets stored under the same eval_id
    are not measured again. Where both are asked for, each of m neurons is judged by budget / m, the batch by the
    budget. Raises InputError for the neurons, the text (calibration documents among it too), a model of another
    revision; StoreError for an atlas without activation sums.
    """
    wanted, shown = measuring or Measuring(), progress or Quiet()
    with Atlas(existing(file), limits=_LIMITS) as atlas:
        adapter = model_of(atlas, model)
        require_model(atlas, adapter)
        held, notes = read_held_out(atlas, adapter, text)
        ablation, means_from = ablation_of(atlas, zero=wanted.zero)
        sets = _sets(atlas, neurons, wanted)
        notes = (means_from, *notes)
    from atlas.measure.ablation import Ablator

    with Ablator(adapter, held, ablation) as ablator:
        known = {} if wanted.again else _known(Path(file), eval_id(ablator.evaluation))
        run = _Run(Path(file), adapter.spec.d_mlp, ablator, wanted, shown)
        rows = {tuple(sorted(one)): known.get(tuple(sorted(one))) for one in sets}
        new = list(_measured(run, [list(one) for one, row in rows.items() if row is None]))
    rows |= {tuple(row["neurons"]): row for row in new}
    return _found(run, [rows[tuple(sorted(one))] or {} for one in sets], len(new), notes)


def document(found: Found, d_mlp: int) -> dict[str, Any]:
    """The impact analysis of the set as a whole, then that of each neuron; KL and NLL in nats per token."""
    told: dict[str, Any] = {}
    if found.joint is not None:
        told = _analysis(found.joint, d_mlp) | {name: found.joint[name] for name in ("sum_kl", "joint_over_sum")}
    place = [{"layer_index": row["layer"], "neuron_index": row["neuron"]} for row in found.individual]
    each = [at | _short(row) for at, row in zip(place, found.individual, strict=True)]
    rest = {"eval_id": found.eval_id, "ablation": found.ablation, "notes": list(found.notes)}
    return told | {"individual_impacts": each} | rest


# -- what a measurement needs of an atlas; also for layers, batches and the model that is written ----------------------


def model_of(atlas: Atlas, model: Adapter | str | Path | None) -> Adapter:
    """The model: given, of a folder, or of the recipe that the atlas was built from; in the atlas's dtype."""
    from atlas.models.adapter import Adapter, load_model

    if isinstance(model, Adapter):
        return model
    return load_model(model or recipe_model(atlas), dtype=atlas.metadata.get("dtype", "float32"))


def require_model(atlas: Atlas, adapter: Adapter) -> None:
    """Raise InputError unless the atlas is of this very model."""
    require_same_model(atlas, adapter.spec, then="give the model of this atlas")


def read_held_out(atlas: Atlas, adapter: Adapter, text: HeldOutText) -> tuple[HeldOut, tuple[str, ...]]:
    """The text as contexts, without calibration documents, and notes on what was left out."""
    from atlas.measure.ablation import held_out

    documents, left_out = fresh_documents(
        atlas.cursor(), _documents(text), skip=text.skip_calibration, vouched=text.fresh
    )
    held = held_out(adapter, documents, context_length=text.context_length, max_tokens=text.max_tokens)
    notes = [f"{left_out:,} calibration documents left out"] if left_out else []
    if len(held.sha256) < 20:
        notes.append(f"{len(held.sha256)} documents: an interval over so few is rough; 100 and more are better")
    return held, tuple(notes)


def ablation_of(atlas: Atlas, *, zero: bool = False) -> tuple[Ablation, str]:
    """What activations are replaced by, and in words where that is from.

    Means of the gradient pass over calibration documents; without one of the activation pass. StoreError for an atlas
    with neither.
    """
    import numpy as np

    from atlas.measure.ablation import Ablation

    if zero:
        return Ablation("zero"), "activations become 0"
    rows = atlas.sql(
        "SELECT layer * $width + neuron, grad_s_a / grad_tokens, s1 / n_tokens, grad_tokens, n_tokens "
        "FROM neuron_stats ORDER BY 1",
        {"width": atlas.d_mlp},
    ).fetchall()
    table = np.array([row[:3] for row in rows], np.float64).reshape(-1, 3)
    if not np.array_equal(table[:, 0], np.arange(atlas.layers * atlas.d_mlp)):
        raise StoreError(
            f"{atlas.name} has activation sums of {len(rows)} of {atlas.layers * atlas.d_mlp} neurons, so no means to "
            "replace activations by; build it with activations, or use --zero"
        )
    gradients = not np.isnan(table[:, 1]).any()
    kind, tokens = ("gradient", rows[0][3]) if gradients else ("activation", rows[0][4])
    said = f"activations become their mean over the {tokens:,} positions of the {kind} pass"
    return Ablation("mean", table[:, 1 if gradients else 2].reshape(atlas.layers, atlas.d_mlp)), said


# -- the measurement ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Run:
    file: Path
    d_mlp: int
    ablator: Ablator
    wanted: Measuring
    progress: Progress
    began: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))


def _sets(atlas: Atlas, neurons: Sequence[int], wanted: Measuring) -> list[list[int]]:
    """One set for each neuron, then all of them; the joint set of one neuron is that neuron."""
    if not (wanted.each or wanted.joint):
        raise InputError("nothing to measure: ask for each neuron, for all jointly, or for both")
    ids = list(dict.fromkeys(atlas.id_of(one) for one in neurons))
    if not ids:
        raise InputError("no neuron is named; give at least one")
    return [[one] for one in ids if wanted.each] + [sorted(ids)] * wanted.joint


def _measured(run: _Run, sets: list[list[int]]) -> Iterator[Row]:
    """Rows of sets that are not stored, saved from time to time and at the end, also after an interruption."""
    waiting: list[Row] = []
    saved, pause = time.monotonic(), _SAVE_AFTER
    try:
        for made in _portions(run, sets):
            waiting += made
            yield from made
            if time.monotonic() - saved > pause:
                pause = max(_SAVE_AFTER, 20 * _save(run, waiting))
                waiting, saved = [], time.monotonic()
    finally:
        _save(run, waiting)


def _portions(run: _Run, sets: list[list[int]]) -> Iterator[list[Row]]:
    """Rows of as many sets at a time as take _SECONDS; those that begin at one layer stand together."""
    ordered = sorted(sets, key=lambda one: (min(one) // run.d_mlp, len(one)))
    evaluation, wanted = run.ablator.evaluation, run.wanted
    with run.progress.task("impacts", len(sets) * evaluation.tokens, "set-tokens") as task:
        start, size = 0, _FIRST
        while start < len(ordered):
            some, began = ordered[start : start + size], time.monotonic()
            damages = run.ablator.measure(some, progress=_Part(task))
            found = impacts(damages, some, budget=wanted.budget, seed=wanted.seed)
            yield impact_rows(found, evaluation, d_mlp=run.d_mlp, created=_now(), run=run.began)
            start, size = start + size, max(_FIRST, int(_SECONDS / (time.monotonic() - began) * len(some)))


class _Part(Quiet):
    """Progress of a part: it advances the task of the whole."""

    def __init__(self, task: Task) -> None:
        self._task = task

    @contextmanager
    def task(self, title: str, total: int, unit: str) -> Iterator[Task]:
        yield self._task


def _save(run: _Run, rows: list[Row]) -> float:
    """Store rows; seconds that it took."""
    began = time.monotonic()
    if rows and run.wanted.store:
        _change(run, lambda con: store_impacts(con, rows))
    return time.monotonic() - began


def _change(run: _Run, change: Callable[[Any], Any]) -> None:
    revise(run.file, lambda con, _: change(con), d_mlp=run.d_mlp, limits=_LIMITS, what="with these impacts the atlas")


def _found(run: _Run, rows: list[Row], measured: int, notes: tuple[str, ...]) -> Found:
    """Rows judged as this call asks: stored ones may be of another budget, or their batch may be new."""
    wanted = run.wanted
    count = max(len(rows[-1]["neurons"]), 1) if wanted.joint else 1
    alone, joint = (rows[:-1], rows[-1]) if wanted.joint else (rows, None)
    individual = [_judged(row, wanted.budget / count) for row in alone]
    whole = None if joint is None else _judged(joint, wanted.budget) | _against_sum(joint, alone)
    if wanted.store:
        changed = [row for row in (*individual, whole) if row is not None and row not in rows]
        if changed:
            _change(run, lambda con: store_impacts(con, changed))
    return Found(eval_id(run.ablator.evaluation), run.ablator.evaluation.ablation, individual, whole, measured, notes)


def _judged(row: Row, budget: float) -> Row:
    values = {f.name: row[f.name] for f in fields(Impact)} | {"neurons": tuple(row["neurons"])}
    found = judged(Impact(**values), budget)
    return row | {name: getattr(found, name) for name in ("impact_score", "budget", "safe_to_prune", "reason")}


def _against_sum(joint: Row, alone: list[Row]) -> Row:
    if len(joint["neurons"]) < 2 or not alone:
        return {name: joint.get(name) for name in ("sum_kl", "joint_over_sum")}
    total = sum(row["kl"] for row in alone)
    return {"sum_kl": total, "joint_over_sum": joint["kl"] / total if total else None}


def _known(file: Path, evaluation: str) -> dict[tuple[int, ...], Row]:
    with Atlas(file, limits=_LIMITS) as atlas:
        if "impacts" in atlas.missing:
            return {}
        return stored_impacts(atlas.cursor(), evaluation)


def _documents(text: HeldOutText) -> Sequence[str]:
    from atlas.measure.corpus import read_corpus

    if bool(text.texts) == (text.corpus is not None):
        raise InputError('on which text? give one of --text "..." (repeat it) and --corpus FILE')
    if text.corpus is None:
        return text.texts
    if text.skip_documents < 0 or (text.documents is not None and text.documents < 1):
        raise InputError("skip at least 0 documents of the corpus, and keep at least 1")
    documents = read_corpus(text.corpus).documents
    stop = None if text.documents is None else text.skip_documents + text.documents
    found = documents[text.skip_documents : stop]
    if not found:
        raise InputError(f"{text.corpus} has {len(documents)} documents; --skip-documents leaves none")
    return found


def recipe_model(atlas: Atlas) -> Path:
    """The model folder that the atlas's recipe names; InputError where recipe or folder are not there."""
    from atlas.build.recipe import read_recipe

    recipe = Path(atlas.metadata.get("build_command", "").rpartition(" ")[2])
    if recipe.suffix == ".toml" and recipe.is_file():
        made = read_recipe(recipe)
        if made.model and made.path(made.model).is_dir():
            return made.path(made.model)
    raise InputError(f"where is the model of {atlas.name}? its recipe is not here; give --model FOLDER")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _analysis(row: dict[str, Any], d_mlp: int) -> dict[str, Any]:
    layers, neurons = zip(*(divmod(i, d_mlp) for i in row["neurons"]), strict=True)
    affected = {"affected_neurons": list(neurons), "affected_layers": list(layers)}
    seed = {name: row[name] for name in _SEED} | affected | {"safe_to_prune": row["safe_to_prune"]}
    return seed | {name: row[name] for name in _EVIDENCE}


def _short(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in (*_SEED, "safe_to_prune", *_EVIDENCE)}
