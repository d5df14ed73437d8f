"""What the layouts share: the facts they write about, units of work, ids, explanations.

A layout is a module with PER_UNIT, `write_unit(job, unit, chunks)` and `finish(job, layers)`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any, Protocol

from atlas.export.neuronpedia.tally import ELLIPSIS, Tally, visible

if TYPE_CHECKING:
    from atlas.export.neuronpedia.files import Files
    from atlas.export.neuronpedia.plan import Names, NeuronpediaPlan
    from atlas.export.neuronpedia.records import Exemplar, Neuron, Row


@dataclass(frozen=True)
class Facts:
    """What the atlas says of itself."""

    metadata: dict[str, str]
    layers: int
    d_mlp: int
    modules: dict[str, str] = field(default_factory=dict)  # cluster_path: label

    def text(self, key: str) -> str | None:
        """A text among the metadata that can be published."""
        value = self.metadata.get(key)
        return visible(value) if value else None

    def number(self, key: str) -> int | None:
        """A whole number among the metadata."""
        value = self.metadata.get(key, "")
        return int(value) if value.isdigit() else None


@dataclass(frozen=True)
class Unit:
    """Neurons whose files are written together; `batch` counts within the layer, from 0."""

    index: int
    layer: int
    batch: int
    neurons: tuple[int, ...]


@dataclass
class Job:
    """One export: `files` and `tally` are those of the current unit."""

    plan: NeuronpediaPlan
    names: Names
    facts: Facts
    files: Files
    tally: Tally
    next_file: dict[str, int] = field(default_factory=dict)  # by folder: number of its next batch


class Layout(Protocol):
    """A module that writes one layout."""

    PER_UNIT: int

    def write_unit(self, job: Job, unit: Unit, chunks: Iterator[list[Neuron]]) -> None:
        """Write the files of a unit."""

    def finish(self, job: Job, layers: Sequence[int]) -> None:
        """Write the files that describe the rest, once every unit is there."""


def units(ids: Sequence[int], d_mlp: int, size: int) -> list[Unit]:
    """Up to `size` neurons of one layer each, in ascending order; repeats count once.

    >>> [(u.layer, u.batch, u.neurons) for u in units([9, 1, 0, 2, 1], 8, 2)]
    [(0, 0, (0, 1)), (0, 1, (2,)), (1, 0, (1,))]
    """
    made: list[Unit] = []
    for layer, group in groupby(sorted(set(ids)), key=lambda one: one // d_mlp):
        neurons = [one % d_mlp for one in group]
        for batch, first in enumerate(range(0, len(neurons), size)):
            made.append(Unit(len(made), layer, batch, tuple(neurons[first : first + size])))
    return made


def count(tally: Tally, neuron: Neuron) -> None:
    """Count a neuron that is published, and what it has."""
    tally.counts["features"] += 1
    tally.counts["activations"] += len(neuron.exemplars)
    tally.counts["explanations"] += len(neuron.labels)
    tally.counts["features without activations"] += not neuron.exemplars
    tally.counts["features with a logit lens"] += bool(neuron.promoted or neuron.suppressed)
    tally.counts["features with a histogram"] += neuron.histogram is not None
    tally.counts["features with top tokens"] += bool(neuron.tokens)


def stable_id(*parts: object) -> str:
    """24 hex digits of what names a row: the same row gets the same id in every export."""
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=12).hexdigest()


def described(label: Row) -> str:
    """The text of an explanation; one of negative activations says so."""
    text: str = label["label"]
    return f"when negative: {text}" if label["polarity"] < 0 else text


def provenance(label: Row) -> dict[str, Any]:
    """All else that is known of a label."""
    return {name: value for name, value in label.items() if name != "label" and value is not None}


def cut(text: str, limit: int, tally: Tally, *, what: str) -> str:
    """A text of at most `limit` characters as JavaScript counts them; a cut one ends with … and is counted."""
    if len(text.encode("utf-16-le")) // 2 <= limit:
        return text
    tally.altered[f"{what} over {limit} characters: cut, with an ellipsis"] += 1
    kept = text.encode("utf-16-le")[: 2 * (limit - 1)].decode("utf-16-le", "ignore")
    return kept.rstrip() + ELLIPSIS


def shortened(exemplar: Exemplar, limit: int, tally: Tally) -> tuple[list[str], Any, int]:
    """Tokens, values and peak of at most `limit` tokens around the peak."""
    size = len(exemplar.tokens)
    if size <= limit:
        return exemplar.tokens, exemplar.values, exemplar.peak
    tally.altered[f"exemplars over {limit:,} tokens: cut around the peak"] += 1
    start = min(max(exemplar.peak - limit // 2, 0), size - limit)
    return exemplar.tokens[start : start + limit], exemplar.values[start : start + limit], exemplar.peak - start
