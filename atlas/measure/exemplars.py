"""Candidate activations -> the strongest of each sign and a sample inside quantile strata, for every neuron.

A list is one (layer, neuron, sign, stratum). Stratum 0 keeps the strongest. Stratum 1 samples weak activations (of
that sign, up to the firing threshold) at one position in WEAK_SHARE, chosen by hash; strata 2.. sample firings, cut
into bins of equal calibration count, the last being the strongest. A sample keeps the smallest priorities, a hash of
neuron, context and position. What a list holds depends on the set of candidates alone, not on their order: ties are
broken by (context, position), so lists of shards can be merged.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from atlas.measure.kernels import Array, Lists, enter, put

Ints = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]
Floats = npt.NDArray[np.float32]

WEAK_SHARE = 32
_OPEN = np.uint64(2**64 - 1)


@dataclass(frozen=True)
class Candidates:
    """One entry per candidate; `order` is smaller for the better one of a list, `window` [n, 2 w + 1] float32.

    `window` is centred on the position; entries outside the context (see `length`) mean nothing.
    """

    group: Ints  # index of the list: ((layer * d_mlp + neuron) * 2 + negative) * (strata + 1) + stratum
    order: Words
    context_id: Ints
    position: Ints
    length: Ints
    value: Floats
    window: Floats


class Exemplars:
    """The running lists of a model, by neuron and sign: `top` strongest, then `per_stratum` in each of `strata`.

    Memory: 40 + 4 (2 w + 1) bytes an entry, and 24 a list.
    """

    def __init__(self, neurons: int, *, top: int, strata: int, per_stratum: int, window: int) -> None:
        self.strata = strata
        self._sizes = np.array([top] + [per_stratum] * strata, dtype=np.int32)
        self._lists = _lists(self._sizes, 2 * neurons)
        slots = len(self._lists.entry)
        self._value: Floats = np.empty(slots, dtype=np.float32)
        self._length = np.empty(slots, dtype=np.int32)
        self._window: Floats = np.empty((slots, 2 * window + 1), dtype=np.float32)

    @property
    def limit(self) -> Words:
        """The worst `order` that may still enter, by list; only ever falls, so other threads may read it any time."""
        return self._lists.limit

    def add(self, found: list[Candidates]) -> None:
        """Enter the candidates of a batch, all layers."""
        for part in found:
            slots = enter(self._lists, part.group, part.order, part.context_id, part.position)
            put(slots, part.value, self._value)
            put(slots, part.length, self._length)
            put(slots, part.window, self._window)

    def best(self, first: int, last: int, group: Ints, *others: Array) -> Ints:
        """Choose among candidates of lists `first` to `last` those for which their lists, if empty, had room.

        `others` are order, context_id and position; the answer is indices.
        """
        lists = _lists(self._sizes, (last - first) // len(self._sizes))
        np.minimum(lists.limit, self._lists.limit[first:last], out=lists.limit)
        slots = enter(lists, group - first, *others)
        chosen = np.full(len(lists.entry), -1)
        put(slots, np.arange(len(group)), chosen)
        found: Ints = chosen[chosen >= 0]
        return found

    def part(self, first: int, last: int) -> Candidates:
        """Entries of lists `first` to `last` by (list, rank), with their windows."""
        group, entry = self._entries(first, last)
        place = entry[:, 3]
        return Candidates(
            group=group,
            order=entry[:, 0].astype(np.uint64),
            context_id=entry[:, 1],
            position=entry[:, 2],
            length=self._length[place].astype(np.int64),
            value=self._value[place],
            window=self._window[place],
        )

    def contexts(self) -> Ints:
        """Contexts that an entry points into, rising."""
        width = len(self._sizes) * 1024  # some lists at a time, for the memory
        lists = len(self._lists.limit)
        edges = range(0, lists + width, width)
        ids = [np.unique(self._entries(first, min(last, lists))[1][:, 1]) for first, last in pairwise(edges)]
        return np.unique(np.concatenate(ids))

    def _entries(self, first: int, last: int) -> tuple[Ints, Ints]:
        """List and entry of what lists `first` to `last` hold, by (list, rank)."""
        group = np.repeat(np.arange(first, last), self._lists.held[first:last])
        return group, self._lists.entry[self._lists.first[group] + ranks(group)]


def _lists(sizes: npt.NDArray[np.int32], times: int) -> Lists:
    """Empty lists of these sizes, `times` over."""
    size = np.tile(sizes, times)
    ends = np.cumsum(size, dtype=np.int64)
    slots = int(ends[-1]) if times else 0
    return Lists(
        size=size,
        first=ends - size,
        held=np.zeros(len(size), dtype=np.int32),
        limit=np.full(len(size), _OPEN),
        entry=np.empty((slots, 4), dtype=np.int64),
    )


def ranks(group: Ints) -> Ints:
    """Rank within runs of equal values of a sorted array."""
    first = np.flatnonzero(np.append(True, group[1:] != group[:-1])[: len(group)])
    return np.arange(len(group)) - np.repeat(first, np.diff(np.append(first, len(group))))


def strength_of(order: Words) -> Floats:
    """Turn a stratum 0 order back into |a|; 0 for a list that is not full."""
    bits = np.where(order == _OPEN, np.uint64(0), np.uint64(1 << 32) - np.minimum(order, np.uint64(1 << 32)))
    return bits.astype(np.uint32).view(np.float32)


def position_hash(context_id: Ints, position: Ints) -> Words:
    """Hash a position of the corpus to 64 bits."""
    return _mix(_mix(context_id.astype(np.uint64)) + position.astype(np.uint64))


def priority(position_hash: Words, neuron: Ints) -> Words:
    """Priority of (neuron of the model, position): 32 bits, the smaller the earlier chosen."""
    x = _mix(position_hash + neuron_seed(neuron))
    x >>= np.uint64(32)
    return x


def neuron_seed(neuron: Ints) -> Words:
    """Share of a neuron of the model in its priorities."""
    return neuron.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)


def _mix(x: Words) -> Words:
    """Apply the finaliser of splitmix64 (Steele, Lea, Flood 2014)."""
    x = x ^ (x >> np.uint64(30))
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return x
