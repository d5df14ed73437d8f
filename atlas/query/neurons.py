"""One neuron -> its card: every part is the answer of one macro."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from atlas.errors import InputError
from atlas.neuron import NeuronId
from atlas.query.answer import Answer

if TYPE_CHECKING:
    from atlas.query.atlas import Atlas

EDGE_COLUMNS = ("layer", "neuron", "label", "mean_weight", "standard_error", "sign_consistency", "count", "share")


@dataclass(frozen=True)
class Card:
    """What is known of one neuron; parts that the atlas lacks are empty. `print(card)` is readable text."""

    id: NeuronId
    about: dict[str, Any]
    labels: Answer
    top_tokens: Answer
    exemplars: Answer
    logit_lens: Answer
    read_tokens: Answer
    edges_in: Answer
    edges_out: Answer
    wiring: Answer
    pruning: Answer
    impacts: Answer
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """All parts as plain lists and dicts."""
        parts = {f.name: getattr(self, f.name) for f in fields(self)}
        rows = {name: part.rows() for name, part in parts.items() if isinstance(part, Answer)}
        return {"id": str(self.id), **self.about, **rows, "notes": list(self.notes)}

    def __str__(self) -> str:
        from atlas.query.card_text import card_text

        return card_text(self)


def card(atlas: Atlas, neuron: object, *, k: int = 10) -> Card:
    """Return the card of a neuron in any id form; k = rows of each list (of each sign where both are shown)."""
    found = atlas.neuron_id(neuron)
    of = {"of_layer": found.layer, "of_neuron": found.neuron}
    rows = {**of, "max_rows": k}
    truncated = atlas.truncation()
    about = atlas.ask("neuron_card", of)
    parts = {
        "labels": atlas.ask("neuron_labels", of),
        "top_tokens": atlas.ask("neuron_top_tokens", rows),
        "exemplars": atlas.ask("neuron_exemplars", rows),
        "logit_lens": atlas.ask("neuron_logit_lens", rows),
        "read_tokens": atlas.ask("neuron_read_tokens", rows),
        "edges_in": atlas.ask("edges_into", rows, headline=EDGE_COLUMNS, warnings=truncated),
        "edges_out": atlas.ask("edges_from", rows, headline=EDGE_COLUMNS, warnings=truncated),
        "wiring": atlas.ask("neuron_wiring", rows),
        "pruning": atlas.ask("neuron_pruning", of),
        "impacts": atlas.ask("neuron_impacts", of),
    }
    atlas.fetch([about, *parts.values()])
    if not about.rows():
        raise InputError(f"neuron {found} is not in {atlas.name}, which lists only some neurons; choose another")
    lacks = tuple(f"no table {t} in {atlas.name}" for t in sorted(atlas.missing & _SHOWN))
    return Card(id=found, about=about.rows()[0], **parts, notes=truncated + lacks)


_SHOWN = {
    "exemplars", "labels", "logit_lens", "neuron_stats", "pruning", "read_tokens", "token_stats", "vocab", "wiring",
}  # fmt: skip
