"""An atlas and a layer -> what is known of each of its neurons, in the words of a prompt.

Each kind of evidence is one query for the whole layer, sorted by neuron; the streams are read side by side, so only a
few thousand rows are Python objects at a time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any, Protocol

from atlas.derive.labelling.answers import Form
from atlas.derive.labelling.prompts import Template, quoted, safe
from atlas.derive.labelling.request import Request, Setting, make_request
from atlas.query.answer import Answer
from atlas.query.atlas import Atlas

Row = dict[str, Any]
SETTLED, NO_EVIDENCE = "settled by a rule", "without evidence"
_BATCH = 4096


class Names(Protocol):
    """What neurons (by packed id) and modules (by path) are called that were labelled in this run."""

    def get(self, key: Any, /) -> str | None:
        """The label; None when this run gave none."""


@dataclass(frozen=True)
class Asking:
    """What all questions of a pass are made from."""

    atlas: Atlas
    setting: Setting
    names: Names
    everyone: bool = False  # also neurons about which a rule leaves nothing to ask
    at_least: int = 2  # neurons of a module


@dataclass(frozen=True)
class Question:
    """One neuron, or module by its path, and what is asked about it, or why nothing is."""

    neuron: int | str
    request: Request | None = None
    unasked: str | None = None  # SETTLED or NO_EVIDENCE


class Streams:
    """Answers that are sorted by neuron (or module), read in step; these must be asked for in ascending order."""

    def __init__(self, answers: Mapping[str, Answer], *, key: str = "neuron") -> None:
        self._groups = {name: _groups(answer, key) for name, answer in answers.items()}
        self._next: dict[str, tuple[Any, list[Row]] | None] = {n: next(g, None) for n, g in self._groups.items()}

    def of(self, one: int | str) -> dict[str, list[Row]]:
        """The rows of one neuron, by the name of the answer."""
        return {name: self._take(name, one) for name in self._groups}

    def groups(self, name: str) -> Iterator[tuple[Any, list[Row]]]:
        """All that one answer has, neuron by neuron."""
        while (found := self._next[name]) is not None:
            yield found
            self._next[name] = next(self._groups[name], None)

    def _take(self, name: str, one: Any) -> list[Row]:
        while (found := self._next[name]) is not None and found[0] < one:
            self._next[name] = next(self._groups[name], None)
        return found[1] if found is not None and found[0] == one else []


def neurons_of(asking: Asking, layer: int, wanted: Collection[int] | None) -> Iterator[Row]:
    """The rows of layer_neurons that are wanted (None: all), in order."""
    for _, rows in _groups(asking.atlas.ask("layer_neurons", {"of_layer": layer}), "neuron"):
        yield from (row for row in rows if wanted is None or row["neuron"] in wanted)


def question(asking: Asking, layer: int, row: Row, said: tuple[str, str], what: tuple[Template, Form]) -> Question:
    """Ask about one neuron. `said`: the evidence with and without what other neurons are called."""
    template, form = what
    facts = {
        "layer": layer, "last": asking.atlas.layers - 1, "model": safe(asking.atlas.metadata.get("model", "a model")),
        "fields": form.described(),
    }  # fmt: skip
    full, own = (template.render({**facts, "evidence": text}) for text in said)
    subject = f"L{layer}/N{row['neuron']}"
    request = make_request(subject, full, form, asking.setting, prompt=template.stamp, own=own)
    return Question(row["neuron"], request)


def edges_or_wiring(asking: Asking, layer: int, direction: str) -> tuple[str, Answer]:
    """The strongest edges of a layer in one direction; the wiring by weights where the atlas has no edges."""
    macro = "layer_edges_out" if direction == "downstream" else "layer_edges_in"
    if has(asking.atlas, "edges"):
        return "edges", asking.atlas.ask(macro, {"of_layer": layer})
    return "wiring", asking.atlas.ask("layer_wiring", {"of_layer": layer, "of_direction": direction})


def edge_lines(rows: list[Row], names: Names | None) -> list[str]:
    """One line an edge; `names` None leaves out what the others are called."""
    return [_edge_line(row, names) for row in rows]


def token_lines(rows: list[Row]) -> str:
    """Direct edges with tokens, in one line."""
    return ", ".join(f"{quoted(row['token'])} {number(row['mean_weight'])} ({row['count']}x)" for row in rows)


def number(value: float) -> str:
    """A number with its sign and three digits."""
    return f"{value:+.3g}"


def has(atlas: Atlas, table: str) -> bool:
    """Whether a table is there and holds rows."""
    return table not in atlas.missing and not atlas.require(table)


def _edge_line(row: Row, names: Names | None) -> str:
    times = f" in {row['count']} observations" if row["count"] is not None else ""
    line = f"- L{row['other_layer']}/N{row['other_neuron']} {number(row['mean_weight'])}{times}"
    if names is None:
        return line
    told = [names.get(row["other"]) or row["name"], row.get("effect")]
    parts = [f'{word}"{safe(text, most=200)}"' for word, text in zip(("", "it does: "), told, strict=True) if text]
    return f"{line}: {'; '.join(parts)}" if parts else line


def _groups(answer: Answer, key: str) -> Iterator[tuple[Any, list[Row]]]:
    rows = (row for batch in answer.arrow().to_batches(max_chunksize=_BATCH) for row in batch.to_pylist())
    return ((one, list(group)) for one, group in groupby(rows, key=itemgetter(key)))
