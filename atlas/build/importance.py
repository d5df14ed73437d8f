"""One layer of an atlas's model and held-out text -> the importance of each of its neurons, stored in the atlas.

A forward pass and a few backward passes estimate what ablating each neuron does; some neurons are measured, and the
estimates of the others are calibrated on them. Column `evidence` says which is which.

>>> from atlas.build.importance import layer_importance                          # doctest: +SKIP
>>> found = layer_importance("demo.duckdb", 3, HeldOutText(corpus="held.json"))  # doctest: +SKIP
>>> found.document()["importance_scores"][0]["impact_score"]                     # doctest: +SKIP
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from atlas.build.measured_sets import Judging, MeasuredSets, Row, measured_sets
from atlas.errors import InputError
from atlas.measure.impact import Impact
from atlas.measure.importance import Calibration, Sample, calibrate, choose, critical, estimated_impacts
from atlas.progress import Progress

if TYPE_CHECKING:
    from atlas.build.impacts import HeldOutText
    from atlas.measure.sensitivity import Sensitivity
    from atlas.models.adapter import Adapter

SHARE = 3.0  # percent of a layer at each end of the estimates, and of random neurons between
EFFORT = 7e11  # floating-point operations that ablating the sample may take: 7 s at 100 GFLOP/s
FEWEST, USUAL = 12, 36  # neurons measured at least; and where they are cheap and SHARE gives fewer
_UNKNOWN = (
    "delta_nll", "delta_nll_low", "delta_nll_high", "kl_p99", "top1_flip_rate", "mean_change", "max_change",
)  # fmt: skip
_SCORES = (
    "layer_index", "neuron_index", "activation_magnitude", "activation_variance", "impact_score", "is_critical",
    "evidence", "kl", "kl_low", "kl_high", "safe_to_prune", "reason",
)  # fmt: skip


@dataclass(frozen=True)
class ImportanceOptions:
    """Which neurons of a layer are measured, and how."""

    share: float | None = None  # percent of the layer at each end and at random; None: SHARE, fewer where that is slow
    exact: bool = False  # all of them
    judging: Judging = field(default_factory=Judging)

    def __post_init__(self) -> None:
        if self.share is not None and not 0 < self.share <= 100:
            raise InputError(f"share is {self.share}; give percent of the layer above 0, at most 100")


@dataclass(frozen=True)
class Importance:
    """What came of a layer: rows of table impacts with _SCORES, most important first.

    `calibration` compares estimates with measured neurons. `critical_neurons` is None where no interval exists (one
    document).
    """

    layer: int
    eval_id: str
    ablation: str
    scores: list[Row]
    critical_neurons: int | None
    calibration: Calibration
    notes: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        """The seed's neuron-importance answer, with evidence; KL in nats per token."""
        measured = sum(row["evidence"] == "measured" for row in self.scores)
        return {
            "importance_scores": [{name: row[name] for name in _SCORES} for row in self.scores],
            "total_neurons": len(self.scores),
            "critical_neurons": self.critical_neurons,
            "layer_index": self.layer,
            "measured_neurons": measured,
            "calibration": asdict(self.calibration),
            **{name: self.scores[0][name] for name in ("tokens", "documents", "budget")},
            "eval_id": self.eval_id,
            "ablation": self.ablation,
            "notes": list(self.notes),
        }


def layer_importance(
    file: str | Path,
    layer: int,
    text: HeldOutText,
    *,
    options: ImportanceOptions | None = None,
    model: Adapter | str | Path | None = None,
    progress: Progress | None = None,
) -> Importance:
    """Estimate every neuron of a layer, and measure some of them or all.

    By default SHARE percent of the layer is measured at each end and at random, fewer where that would take more than
    EFFORT. Neurons that the atlas holds under the same eval_id keep their measured values. Raises InputError for the
    layer and the text, and what atlas.build.impacts.measure_impacts does for the model and the atlas.
    """
    wanted = options or ImportanceOptions()
    with measured_sets(file, text, model=model, judging=wanted.judging, progress=progress) as sets:
        return importance_of(sets, layer, share=wanted.share, exact=wanted.exact)


def importance_of(sets: MeasuredSets, layer: int, *, share: float | None = None, exact: bool = False) -> Importance:
    """As layer_importance, on a text that is open for measuring."""
    from atlas.measure.sensitivity import sensitivity

    _check_layer(sets, layer)
    means = np.zeros(sets.adapter.spec.d_mlp) if sets.ablation.means is None else sets.ablation.means[layer]
    seen = sensitivity(sets.adapter, sets.held, layer=layer, means=means, progress=sets.progress)
    raw = seen.kl.sum(0) / seen.tokens.sum()
    sample = _sample(sets, layer, raw, share=share, exact=exact)
    first = layer * sets.adapter.spec.d_mlp
    measured = sets.impacts([[first + int(i)] for i in sample.neurons])
    fitted = calibrate(raw[sample.neurons], np.array([one.kl for one in measured]), sample.random)
    every = estimated_impacts(seen, fitted, first=first, budget=sets.judging.budget, seed=sets.judging.seed)
    exact_ones = {i: sets.impacts([[first + i]])[0] for i in range(len(raw)) if (first + i,) in sets.known}
    return _kept(sets, layer, [exact_ones.get(i, one) for i, one in enumerate(every)], seen, fitted)


def affordable(adapter: Adapter, layer: int, tokens: int) -> int:
    """Neurons of a layer whose ablation on so many tokens takes EFFORT: only the blocks above run again."""
    above = adapter.blocks[layer + 1 :]
    weights = sum(p.numel() for block in above for part in (block.attention, block.mlp) for p in part.parameters())
    return int(EFFORT / (2 * tokens * (weights + adapter.spec.vocab * adapter.spec.d_model)))


def _check_layer(sets: MeasuredSets, layer: int) -> None:
    if not 0 <= layer < sets.adapter.spec.layers:
        raise InputError(f"layer {layer} is out of range: this model has layers 0..{sets.adapter.spec.layers - 1}")


def _sample(sets: MeasuredSets, layer: int, raw: Any, *, share: float | None, exact: bool) -> Sample:
    count = len(raw)
    if exact:
        return Sample(np.arange(count), np.ones(count, np.bool_))
    each = math.ceil((share or SHARE) * count / 100)
    if share is not None:
        return choose(raw, ends=each, middle=each)
    total = max(min(max(3 * each, USUAL), affordable(sets.adapter, layer, sets.held.tokens)), FEWEST)
    return choose(raw, ends=total // 4, middle=total - 2 * (total // 4))


def _kept(
    sets: MeasuredSets, layer: int, found: Sequence[Impact], seen: Sensitivity, fitted: Calibration
) -> Importance:
    """Mark critical neurons, have all rows stored, and sort them."""
    limits = [one.kl_low for one in found]
    kl, marks = np.array([one.kl for one in found]), [None] * len(found)
    if None not in limits:
        marks = critical(kl, np.array(limits, np.float64)).tolist()
    more = {
        one.neurons[0]: {
            "activation_magnitude": float(seen.magnitude[i]), "activation_variance": float(seen.variance[i]),
            "is_critical": marks[i],
        }
        for i, one in enumerate(found)
    }  # fmt: skip
    exact = [one for one in found if one.neurons in sets.known]
    sets.keep(exact, more)
    unknown: Row = dict.fromkeys(_UNKNOWN)
    rest = [one for one in found if one.neurons not in sets.known]
    sets.keep(rest, {key: value | unknown for key, value in more.items()}, evidence="estimated")
    rows = [sets.rows[one.neurons] for one in sorted(found, key=lambda one: (-one.kl, one.neurons))]
    scores = [row | {"layer_index": row["layer"], "neuron_index": row["neuron"]} for row in rows]
    total = None if None in limits else sum(bool(mark) for mark in marks)
    notes = (*sets.notes, *_said(fitted, len(exact), len(found), seen.probes))
    return Importance(layer, sets.eval_id, sets.ablator.evaluation.ablation, scores, total, fitted, notes)


def _said(fitted: Calibration, measured: int, total: int, probes: int) -> list[str]:
    passes = f"{probes} backward pass{'' if probes == 1 else 'es'}"
    said = [f"{measured:,} of {total:,} neurons measured, the others estimated from {passes}"]
    if measured == total:
        said = [f"all {total:,} neurons measured"]
    if fitted.spearman is not None:
        said.append(f"estimate against measured KL on {fitted.random:,} random neurons: Spearman {fitted.spearman:.2f}")
    if fitted.error_median is not None and fitted.error_p95 is not None and measured < total:
        said.append(
            f"an estimate is off by a factor of {math.exp(fitted.error_median):.2f} in the median, "
            f"{math.exp(fitted.error_p95):.2f} at the 95th percentile (measured neurons left out of the fit)"
        )
    if fitted.error_p95 is None and measured < total:
        said.append("too few measured neurons have a KL above rounding: estimates have no limits")
    return said
