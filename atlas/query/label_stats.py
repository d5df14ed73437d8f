"""The labels of an atlas -> what they are like: coverage, layers, types, interpretability, uniqueness, repeats.

One macro each (sql/queries/label_*.sql); their rows are counts and shares, so every table of it can be printed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from atlas.errors import InputError
from atlas.query.answer import Answer

if TYPE_CHECKING:
    from atlas.query.atlas import Atlas


@dataclass(frozen=True)
class LabelStats:
    """One answer a table, and how many neurons show a label."""

    neurons: int
    labelled: int
    sources: Answer
    layers: Answer
    types: Answer
    clarity: Answer
    clarity_pairs: Answer
    uniqueness: Answer
    repeats: Answer
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """All tables as lists of dicts, with the coverage."""
        names = ("sources", "layers", "types", "clarity", "clarity_pairs", "uniqueness", "repeats")
        share = self.labelled / self.neurons if self.neurons else None
        told: dict[str, Any] = {"neurons": self.neurons, "labelled": self.labelled, "share": share}
        return told | {name: getattr(self, name).rows() for name in names}


def label_stats(atlas: Atlas, *, source: str | None = None, generic: int = 10, limit: int | None = 10) -> LabelStats:
    """Statistics of all labels, or of one source ("rule" for all rules); `limit` is of the repeated texts.

    InputError for a source that no label has.
    """
    warnings = atlas.require("labels", "neurons")
    neurons, labelled = atlas.free("SELECT count(*), count(label) FROM neurons", {}).fetchall()[0]
    of = {"of_source": source}
    if source is not None:
        _require_source(atlas, source)
        labelled = sum(row[2] for row in atlas.ask("label_layers", of).fetchall())
    return LabelStats(
        neurons,
        labelled,
        atlas.ask("label_sources", {}),
        atlas.ask("label_layers", of),
        atlas.ask("label_types", of),
        atlas.ask("label_clarity", of),
        atlas.ask("label_clarity_pairs", of),
        atlas.ask("label_uniqueness", of | {"at_least": generic}),
        atlas.ask("label_repeats", of | {"max_rows": limit}),
        warnings,
    )


def _require_source(atlas: Atlas, source: str) -> None:
    known = [row[0] for row in atlas.free("SELECT DISTINCT source FROM labels ORDER BY source", {}).fetchall()]
    if not any(name == source or str(name).startswith(f"{source}:") for name in known):
        raise InputError(
            f"no labels of source {source!r} in {atlas.name}; there are {', '.join(map(str, known)) or 'none'}"
        )
