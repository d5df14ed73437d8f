"""Pruning candidates, a model and held-out text -> what each does alone, a batch jointly, and how many may go.

The order is that of the measured neurons, least harmful first; a batch is the first `batch_size` of them. Damage is
super-additive, so the batch is measured as a set, and the longest safe prefix is found by measuring prefixes.

>>> from atlas.build.prune_batch import batch_analysis                                    # doctest: +SKIP
>>> found = batch_analysis("demo.duckdb", [5, 7, 9], HeldOutText(corpus="held.json"))     # doctest: +SKIP
>>> found.document()["recommendations"]["suggested_batch_size"]                           # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atlas.build.measured_sets import Judging, MeasuredSets, measured_sets
from atlas.errors import InputError
from atlas.measure.batch_size import BatchSize, longest_safe
from atlas.measure.impact import Impact, judged
from atlas.progress import Progress

if TYPE_CHECKING:
    from atlas.build.impacts import HeldOutText
    from atlas.models.adapter import Adapter

HIGH = 0.3  # impact_score above three budgets
_SEED = ("impact_score", "mean_change", "max_change")
_EVIDENCE = ("kl", "kl_low", "kl_high", "delta_nll", "top1_flip_rate", "budget", "reason")


@dataclass(frozen=True)
class BatchOptions:
    """How many candidates are a batch at most, and how sets are judged."""

    batch_size: int = 10
    judging: Judging = field(default_factory=Judging)

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise InputError(f"batch size is {self.batch_size}; a batch has at least 1 neuron")


@dataclass(frozen=True)
class BatchAnalysis:
    """What came of the candidates.

    `individual`: all candidates, least harmful first, each judged by budget / members of the batch. `cumulative`: the
    first of them measured jointly, judged by the budget. `found` is None where there is no verdict.
    """

    eval_id: str
    ablation: str
    d_mlp: int
    individual: list[Impact]
    cumulative: Impact
    found: BatchSize | None
    notes: tuple[str, ...]

    @property
    def sum_kl(self) -> float:
        """Sum of the KL of the batch's members, each ablated alone: what the joint damage is compared with."""
        return sum(one.kl for one in self.individual[: len(self.cumulative.neurons)])

    def rows(self) -> list[dict[str, Any]]:
        """The individual impacts."""
        return [
            dict(zip(("layer_index", "neuron_index"), divmod(one.neurons[0], self.d_mlp), strict=True))
            | {name: getattr(one, name) for name in (*_SEED, "safe_to_prune", *_EVIDENCE)}
            for one in self.individual
        ]

    def document(self) -> dict[str, Any]:
        """The seed's batch analysis, with evidence; KL and NLL in nats per token."""
        joint, rows, total = asdict(self.cumulative), self.rows(), self.sum_kl
        safe = [row["safe_to_prune"] for row in rows]
        told = None not in safe
        return {
            "individual_impacts": rows,
            "cumulative_impact": {
                **{name: joint[name] for name in (*_SEED, "safe_to_prune", *_EVIDENCE)},
                "n_neurons": len(self.cumulative.neurons),
                "sum_kl": total,
                "joint_over_sum": self.cumulative.kl / total if total else None,
            },
            "recommendations": {
                "safe_to_prune": safe.count(True) if told else None,
                "risky_to_prune": safe.count(False) if told else None,
                "suggested_batch_size": None if self.found is None else self.found.size,
                "high_impact_neurons": [row for row in rows if (row["impact_score"] or 0) > HIGH],
                "reason": self.cumulative.reason,
                "measured_sizes": {} if self.found is None else dict(sorted(self.found.verdicts.items())),
                "monotone": None if self.found is None else self.found.monotone,
            },
            **{name: joint[name] for name in ("tokens", "documents", "budget")},
            "eval_id": self.eval_id,
            "ablation": self.ablation,
            "notes": list(self.notes),
        }


def batch_analysis(
    file: str | Path,
    neurons: Sequence[int],
    text: HeldOutText,
    *,
    options: BatchOptions | None = None,
    model: Adapter | str | Path | None = None,
    progress: Progress | None = None,
) -> BatchAnalysis:
    """Measure candidates (packed ids) alone, the first `batch_size` jointly, and prefixes of these by bisection.

    Everything measured is stored; a second run on the same text uses it. With too few tokens there are no verdicts and
    no suggestion. Raises InputError for the neurons and the text.
    """
    wanted = options or BatchOptions()
    if not neurons:
        raise InputError("no neuron is named; give at least one candidate")
    with measured_sets(file, text, model=model, judging=wanted.judging, progress=progress) as sets:
        return batch_of(sets, neurons, batch_size=wanted.batch_size)


def batch_of(sets: MeasuredSets, neurons: Sequence[int], *, batch_size: int = 10) -> BatchAnalysis:
    """As batch_analysis, on a text that is open for measuring."""
    alone = sorted(sets.impacts([[i] for i in dict.fromkeys(neurons)]), key=_harm)
    batch = [one.neurons[0] for one in alone[:batch_size]]
    whole = sets.impacts([batch])[0]
    if len(batch) > 1 and sets.known[whole.neurons].budget != whole.budget:
        sets.keep([whole])  # it was stored with a verdict by another budget
    found = None
    if whole.safe_to_prune is not None:

        def is_safe(sizes: Sequence[int]) -> list[bool]:
            return [bool(one.safe_to_prune) for one in sets.impacts([batch[:size] for size in sizes])]

        found = longest_safe(is_safe, len(batch))
    members = [judged(one, sets.judging.budget / len(batch)) for one in alone]
    notes = (*sets.notes, *_said(found, len(batch), len(alone)))
    return BatchAnalysis(
        sets.eval_id, sets.ablator.evaluation.ablation, sets.adapter.spec.d_mlp, members, whole, found, notes
    )


def _harm(one: Impact) -> tuple[float, float, int]:
    return (one.kl if one.kl_high is None else one.kl_high, one.kl, one.neurons[0])


def _said(found: BatchSize | None, members: int, candidates: int) -> list[str]:
    said = (
        [f"of {candidates:,} candidates, the {members:,} least harmful are the batch"] if members < candidates else []
    )
    if found is not None and not found.monotone:
        sizes = [size for size, safe in found.verdicts.items() if not safe and size < found.size]
        said.append(
            f"damage does not grow with every neuron: {found.size} neurons are safe, the first "
            f"{', '.join(map(str, sorted(sizes)))} of them are not"
        )
    if found is not None and found.size == members < candidates:
        said.append(f"the whole batch is safe; a larger batch than {members} may be too")
    return said
