"""Packed ids -> everything that any layout publishes of each neuron, asked for 200 neurons of a layer at a time.

Values are those stored: float32, in the model's units. Nothing is computed that the atlas does not hold; a histogram is
only ever merged, by whole bins.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from atlas.export.neuronpedia.plan import merged_bins
from atlas.export.neuronpedia.tally import Tally

if TYPE_CHECKING:
    from atlas.export.neuronpedia.plan import NeuronpediaPlan
    from atlas.query.atlas import Atlas

Row = dict[str, Any]
Floats = npt.NDArray[np.float32]
CHUNK = 200  # neurons in memory at a time


@dataclass(frozen=True)
class Exemplar:
    """One text: `values` [len(tokens)] are the activations, `peak` the index of the position it is an exemplar of."""

    polarity: int
    rank: int  # among those exported of this sign, 0 = strongest
    tokens: list[str]
    values: Floats
    peak: int
    corpus: str | None
    interval: tuple[float, float, float] | None  # activations from, to, and the share of positions in between


@dataclass(frozen=True)
class Histogram:
    """`edges` [n + 1] ascending, `counts` [n]; where positions lie outside the stored bins the outer bins hold them."""

    edges: Floats
    counts: list[int]

    @property
    def middles(self) -> Floats:
        """Middle of each bin."""
        middles: Floats = ((self.edges[1:].astype(np.float64) + self.edges[:-1]) / 2).astype(np.float32)
        return middles


@dataclass(frozen=True)
class Logits:
    """Tokens by logit per unit of activation, strongest first; both lists are equally long."""

    tokens: list[str]
    values: Floats


@dataclass(frozen=True)
class Neuron:
    """One neuron; `about` is its row of export_statistics."""

    layer: int
    neuron: int
    about: Row
    histogram: Histogram | None = None
    exemplars: list[Exemplar] = field(default_factory=list)
    promoted: Logits | None = None
    suppressed: Logits | None = None
    tokens: list[Row] = field(default_factory=list)  # token, polarity, n, mean
    labels: list[Row] = field(default_factory=list)  # as export_labels


class Reader:
    """Reads neurons of an atlas; the texts of the vocabulary stay in memory (150,000 of them: 20 MB)."""

    def __init__(self, atlas: Atlas, plan: NeuronpediaPlan) -> None:
        self._atlas, self._plan = atlas, plan
        rows = atlas.free("SELECT token_id, token FROM vocab", {}).fetchall()
        tally = Tally()
        self._texts: dict[int, str] = {one: tally.text(text) or f"<{one}>" for one, text in rows if text is not None}
        self._changed = {one for one, text in rows if text is not None and self._texts[one] != text}

    def chunks(self, layer: int, neurons: Sequence[int], tally: Tally) -> Iterator[list[Neuron]]:
        """Yield neurons of a layer in ascending order, up to 200 at a time; `tally` counts what is altered."""
        for first in range(0, len(neurons), CHUNK):
            yield self._chunk(layer, list(neurons[first : first + CHUNK]), tally)

    def _chunk(self, layer: int, neurons: list[int], tally: Tally) -> list[Neuron]:
        plan = self._plan
        about = {row["neuron"]: row for row in self._rows("export_statistics", layer, neurons)}
        promoted, suppressed = self._logits(layer, neurons, tally) if plan.wants("logit_lens") else ({}, {})
        exemplars = self._exemplars(layer, neurons, about, tally)
        tokens = self._tokens(layer, neurons, tally) if plan.wants("top_tokens") else {}
        labels = self._labels(layer, neurons, about, tally) if plan.wants("explanations") else {}
        found = []
        for one in neurons:
            if one not in about:
                tally.left_out["neurons: no row in the table neurons"] += 1
                continue
            row = about[one]
            bars = histogram(row, plan.bins, tally) if plan.wants("histograms") else None
            found.append(Neuron(layer, one, row, bars, exemplars.get(one, []), promoted.get(one),
                                suppressed.get(one), tokens.get(one, []), labels.get(one, [])))  # fmt: skip
        return found

    def _rows(self, macro: str, layer: int, neurons: list[int], **more: object) -> list[Row]:
        return self._atlas.ask(macro, {"of_layer": layer, "of_neurons": neurons, **more}).rows()

    def _exemplars(
        self, layer: int, neurons: list[int], about: dict[int, Row], tally: Tally
    ) -> dict[int, list[Exemplar]]:
        asked = {"of_layer": layer, "of_neurons": neurons, "of_signs": list(self._plan.signs)}
        table = self._atlas.ask("export_exemplars", asked | {"max_rows": self._plan.activations}).arrow()
        table = table.combine_chunks()
        windows = _Lists(table.column("activations"), np.float32)
        texts = _Lists(table.column("token_ids"), np.int64)
        ranges = {one: intervals(row) for one, row in about.items()}
        found: dict[int, list[Exemplar]] = defaultdict(list)
        ranks: dict[tuple[int, int], int] = defaultdict(int)
        columns = ("neuron", "polarity", "activation", "place", "corpus")
        for i, row in enumerate(zip(*(table.column(name).to_pylist() for name in columns), strict=True)):
            one, sign, activation, place, corpus = row
            values, ids = _fitting(windows[i], texts[i], place, tally)
            if values is None or one not in about:
                continue
            tokens, where = self._decode(ids.tolist(), tally), interval(ranges[one], activation)
            name = corpus and tally.text(corpus)
            found[one].append(Exemplar(sign, ranks[one, sign], tokens, values, place, name, where))
            ranks[one, sign] += 1
        return found

    def _logits(self, layer: int, neurons: list[int], tally: Tally) -> tuple[dict[int, Logits], dict[int, Logits]]:
        lists: dict[tuple[int, int], tuple[list[int], list[float]]] = defaultdict(lambda: ([], []))
        for row in self._rows("export_logits", layer, neurons, max_rows=self._plan.top_k):
            if not finite(row["value"]):
                tally.left_out["tokens of the logit lens: the value is not a number"] += 1
                continue
            ids, values = lists[row["polarity"], row["neuron"]]
            ids.append(row["token_id"])
            values.append(row["value"])
        made: tuple[dict[int, Logits], dict[int, Logits]] = ({}, {})
        for (sign, one), (ids, values) in lists.items():
            made[sign < 0][one] = Logits(self._decode(ids, tally), np.array(values, np.float32))
        return made

    def _tokens(self, layer: int, neurons: list[int], tally: Tally) -> dict[int, list[Row]]:
        found: dict[int, list[Row]] = defaultdict(list)
        asked = {"of_signs": list(self._plan.signs), "max_rows": self._plan.tokens}
        for row in self._rows("export_tokens", layer, neurons, **asked):
            if not finite(row["mean"]):
                tally.left_out["top tokens: the mean is not a number"] += 1
                continue
            found[row["neuron"]].append(row | {"token": self._decode([row["token_id"]], tally)[0]})
        return found

    def _labels(self, layer: int, neurons: list[int], about: dict[int, Row], tally: Tally) -> dict[int, list[Row]]:
        found: dict[int, list[Row]] = defaultdict(list)
        known: set[tuple[int, str]] = set()
        wanted = {0, *self._plan.signs}
        for row in self._rows("export_labels", layer, neurons):
            one = row.pop("neuron")
            known.add((one, row["label"]))
            row["score"] = row["score"] if finite(row["score"]) else None
            if row["polarity"] in wanted:
                found[one].append({k: tally.text(v) if isinstance(v, str) else v for k, v in row.items()})
        for one, row in about.items():  # atlases of other tools have names but no rows in labels
            if row["label"] and (one, row["label"]) not in known:
                chosen = {name: row[name] and tally.text(row[name]) for name in ("label", "description")}
                found[one].insert(0, _LABEL | chosen)
        return found

    def _decode(self, ids: list[int], tally: Tally) -> list[str]:
        texts = self._texts
        if self._changed and (changed := sum(one in self._changed for one in ids)):
            tally.altered["tokens without a text that can be published: made visible"] += changed
        try:
            return [texts[one] for one in ids]
        except KeyError:
            tally.altered["tokens without a text in the vocabulary: written as <id>"] += sum(
                i not in texts for i in ids
            )
            return [texts.get(one, f"<{one}>") for one in ids]


_LABEL: Row = dict.fromkeys(
    ("pass", "label", "short_label", "description", "type", "interpretability", "confidence", "source", "model",
     "run", "score", "created")
) | {"polarity": 0}  # fmt: skip


def finite(value: float | None) -> bool:
    """Whether there is a number."""
    return value is not None and math.isfinite(value)


def short(value: float | None) -> float | None:
    """A stored float32 as the double with the fewest digits that is the same float32; None for what is no number.

    >>> short(0.20289714634418488)
    0.20289715
    """
    return float(str(np.float32(value))) if value is not None and math.isfinite(value) else None


def histogram(row: Row, bins: int, tally: Tally) -> Histogram | None:
    """The stored histogram in at most `bins` inner bins, each the sum of equally many stored ones; None without one.

    Positions below and above the stored bins become one outer bin each, from the smallest to the largest activation.
    """
    low, high, stored = row["hist_lo"], row["hist_hi"], row["hist"]
    if not stored or not sum(stored) or not finite(low) or not finite(high):
        return None
    inner = len(stored) - 2
    merged = merged_bins(inner, bins)
    counts = np.array(stored[1:-1]).reshape(merged, inner // merged).sum(axis=1).tolist()
    edges = (low + (high - low) * np.arange(merged + 1) / merged).tolist()
    if stored[0]:
        edges, counts = [row["min"], *edges], [stored[0], *counts]
    if stored[-1] and row["max"] == high:  # all of them at the right edge
        counts[-1] += stored[-1]
    elif stored[-1]:
        edges, counts = [*edges, row["max"]], [*counts, stored[-1]]
    made = np.array([math.nan if edge is None else edge for edge in edges], np.float32)
    if not np.all(np.diff(made) > 0):
        tally.left_out["histograms: their edges do not ascend"] += 1
        return None
    return Histogram(made, counts)


@dataclass(frozen=True)
class Intervals:
    """Of one sign: activations from 0 to `limit` and on to `far`, with the shares of positions in both parts."""

    threshold: float | None  # of firing, as stored; None without one, then all is up to `far`
    limit: float | None  # the same with the fewest digits
    far: float
    below: float
    beyond: float


def intervals(row: Row) -> dict[bool, Intervals]:
    """The ranges of both signs (True: positive) whose positions were counted; empty without statistics."""
    density, found = row["density"], dict[bool, Intervals]()
    if not finite(density):
        return found
    sides = (
        (True, "max", "fire_pos", "share_pos", density),
        (False, "min", "fire_neg", "share_neg", 1 - density),
    )
    for positive, far, limit, share, whole in sides:
        end, edge, beyond = short(row[far]), short(row[limit]), row[share]
        if end is not None and (edge is None or beyond is None):
            found[positive] = Intervals(None, None, end, whole, 0.0)
        elif end is not None:
            found[positive] = Intervals(row[limit], edge, end, max(whole - beyond, 0.0), beyond)
    return found


def interval(ranges: dict[bool, Intervals], activation: float) -> tuple[float, float, float] | None:
    """The range that an exemplar lies in, from, to, and the share of positions there; None where it is not known.

    Beyond the firing threshold of its sign, or between 0 and it.
    """
    found = ranges.get(activation > 0)
    if found is None or not finite(activation):
        return None
    if found.threshold is None or found.limit is None:
        low, high, share = 0.0, found.far, found.below
    elif abs(activation) > abs(found.threshold):
        low, high, share = found.limit, found.far, found.beyond
    else:
        low, high, share = 0.0, found.limit, found.below
    return min(low, high), max(low, high), share


class _Lists:
    """A column of lists as views into one array; None where there is no list."""

    def __init__(self, column: Any, kind: Any) -> None:
        if len(column):
            array = column.chunk(0)
            self._valid = array.is_valid().to_numpy(zero_copy_only=False)
            self._ends = array.offsets.to_numpy()
            self._values = np.ascontiguousarray(array.values.to_numpy(zero_copy_only=False).astype(kind))

    def __getitem__(self, i: int) -> npt.NDArray[Any] | None:
        return self._values[self._ends[i] : self._ends[i + 1]] if self._valid[i] else None


def _fitting(
    values: npt.NDArray[Any] | None, ids: npt.NDArray[Any] | None, place: int | None, tally: Tally
) -> tuple[Floats | None, npt.NDArray[Any]]:
    """Values and tokens of equal length that hold the place, or None for the values, counted."""
    none = np.empty(0, np.int64)
    if values is None or ids is None or not len(ids):
        tally.left_out["exemplars: their text is not stored"] += 1
        return None, none
    size = min(len(values), len(ids))
    if place is None or not 0 <= place < size:
        tally.left_out["exemplars: their position is outside the stored window"] += 1
        return None, none
    if not math.isfinite(float(values[:size].sum())) and not np.isfinite(values[:size]).all():
        tally.left_out["exemplars: an activation is not a number"] += 1
        return None, none
    return values[:size], ids[:size]
