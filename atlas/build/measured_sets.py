"""Sets of neurons -> their impacts on one text, each measured once: what the atlas holds is not measured again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atlas.build.impacts import HeldOutText, ablation_of, model_of, read_held_out, require_model
from atlas.build.revision import revise
from atlas.errors import InputError
from atlas.ingest.impacts import store_impacts, stored_impacts
from atlas.measure.impact import BUDGET, Impact, eval_id, impact_rows, impacts, judged
from atlas.progress import Progress, Quiet
from atlas.query.atlas import Atlas
from atlas.store.connection import Limits, existing

if TYPE_CHECKING:
    from atlas.measure.ablation import Ablation, Ablator, HeldOut
    from atlas.models.adapter import Adapter

Row = dict[str, Any]
_LIMITS = Limits("1GiB", 2)


@dataclass(frozen=True)
class Judging:
    """How sets are ablated and judged, and whether what is measured stays in the atlas."""

    zero: bool = False  # ablate to 0 instead of the mean over calibration documents
    budget: float = BUDGET  # nats per token
    seed: int = 0  # of the bootstrap over documents
    again: bool = False  # measure also what is stored
    store: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.budget < float("inf"):
            raise InputError(f"budget is {self.budget}; give nats per token above 0, such as {BUDGET}")


@dataclass
class MeasuredSets:
    """A model on one text; made by `measured_sets`. `notes` say what the text is."""

    adapter: Adapter
    held: HeldOut
    ablation: Ablation
    judging: Judging
    ablator: Ablator
    known: dict[tuple[int, ...], Impact]
    notes: tuple[str, ...]
    progress: Progress
    rows: dict[tuple[int, ...], Row] = field(default_factory=dict)  # to be stored
    began: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    @property
    def eval_id(self) -> str:
        """Of everything that is measured here."""
        return eval_id(self.ablator.evaluation)

    def impacts(self, sets: Sequence[Sequence[int]]) -> list[Impact]:
        """The impact of each set of packed ids, in order, judged by the budget."""
        keys = [tuple(sorted(set(one))) for one in sets]
        new = [list(key) for key in dict.fromkeys(keys) if key not in self.known]
        if new:
            damages = self.ablator.measure(new, progress=self.progress)
            found = impacts(damages, new, budget=self.judging.budget, seed=self.judging.seed)
            self.known |= {impact.neurons: impact for impact in found}
            self.keep(found)
        return [judged(self.known[key], self.judging.budget) for key in keys]

    def keep(self, found: Sequence[Impact], more: Mapping[int, Row] | None = None, **evidence: Any) -> None:
        """Have impacts stored; `more` has further columns by the packed id of a single neuron."""
        spec, now = self.adapter.spec, datetime.now(UTC).isoformat(timespec="seconds")
        evaluation = self.ablator.evaluation
        for row in impact_rows(found, evaluation, d_mlp=spec.d_mlp, created=now, run=self.began, **evidence):
            key = tuple(row["neurons"])
            self.rows[key] = row | ((more or {}).get(key[0], {}) if len(key) == 1 else {})


@contextmanager
def measured_sets(
    file: str | Path,
    text: HeldOutText,
    *,
    model: Adapter | str | Path | None = None,
    judging: Judging | None = None,
    progress: Progress | None = None,
) -> Iterator[MeasuredSets]:
    """Measure on held-out text with the model of an atlas; everything is stored at the end, also after an interruption.

    Raises what atlas.build.impacts.measure_impacts does for the text, the model and the atlas.
    """
    from atlas.measure.ablation import Ablator

    wanted = judging or Judging()
    with Atlas(existing(file), limits=_LIMITS) as atlas:
        adapter = model_of(atlas, model)
        require_model(atlas, adapter)
        held, notes = read_held_out(atlas, adapter, text)
        ablation, said = ablation_of(atlas, zero=wanted.zero)
    with Ablator(adapter, held, ablation) as ablator:
        known = {} if wanted.again else _known(Path(file), eval_id(ablator.evaluation))
        sets = MeasuredSets(
            adapter, held, ablation, wanted, ablator, known, (said, *notes), progress or Quiet()
        )  # fmt: skip
        try:
            yield sets
        finally:
            if wanted.store and sets.rows:
                _store(Path(file), adapter.spec.d_mlp, list(sets.rows.values()))


def _store(file: Path, d_mlp: int, rows: list[Row]) -> None:
    revise(
        file, lambda con, _: store_impacts(con, rows), d_mlp=d_mlp, limits=_LIMITS, what="with these impacts the atlas"
    )


def _known(file: Path, evaluation: str) -> dict[tuple[int, ...], Impact]:
    with Atlas(file, limits=_LIMITS) as atlas:
        rows = {} if "impacts" in atlas.missing else stored_impacts(atlas.cursor(), evaluation)
    names = [f.name for f in fields(Impact)]
    return {key: Impact(**{name: row[name] for name in names} | {"neurons": key}) for key, row in rows.items()}
