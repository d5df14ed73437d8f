"""Candidate activations -> the strongest of each sign and a sample inside quantile strata, for every neuron.

A list is one (layer, neuron, sign, stratum). Stratum 0 keeps the strongest. Stratum 1 samples weak activations (of
that sign, up to the firing threshold) at one position in WEAK_SHARE, chosen by hash; strata 2.. sample firings, cut
into bins of equal calibration count, the last being the strongest. A sample keeps the smallest priorities, a hash of
neuron, context and position. What a list holds depends on the set of candidates alone, not on their order: ties are
broken by (context, position), so lists of shards can be merged.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]
Floats = npt.NDArray[np.float32]

WEAK_SHARE = 32
_OPEN = np.uint64(2**64 - 1)
_FLUSH = 1 << 15
_ORDER_BITS = np.uint64(34)  # an order is below 2^33, so list and order fit one integer for up to 2^30 lists


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
    """The running lists of a model. Memory: about 40 + 4 (2 w + 1) bytes an entry, 40 of them again while sorting."""

    def __init__(self, neurons: int, *, top: int, strata: int, per_stratum: int, window: int) -> None:
        self.strata = strata
        lists = neurons * 2 * (strata + 1)
        self._size = np.where(np.arange(lists) % (strata + 1) == 0, top, per_stratum)
        self.limit = np.full(lists, _OPEN)  # the worst `order` that may still enter; read by other threads
        self.kept = _entries(empty_candidates(window))
        self._slots = np.empty(0, dtype=np.int64)  # rows of _windows, by entry: windows stay where they are
        self._windows: Floats = np.empty((0, 2 * window + 1), dtype=np.float32)
        self._waiting: list[Candidates] = []
        self._count = 0

    def add(self, found: list[Candidates]) -> None:
        """Offer the candidates of a batch, all layers; they are sorted in when they are many."""
        self._waiting.extend(found)
        self._count += sum(len(part.group) for part in found)
        if self._count > max(_FLUSH, len(self.kept.group) // 2) or len(self.kept.group) == 0:
            self.flush()

    def flush(self) -> None:
        """Sort the offered candidates into the lists."""
        merged = _concat([self.kept, *map(_entries, self._waiting)])
        chosen = self.best(merged.group, merged.order, merged.context_id, merged.position)
        self._slots = self._place(chosen)
        self._waiting, self._count = [], 0
        self.kept = _take(merged, chosen)
        full = ranks(self.kept.group) == self._size[self.kept.group] - 1
        limit = self.limit.copy()
        limit[self.kept.group[full]] = self.kept.order[full]
        self.limit = limit  # replaced as a whole: a reader sees the old or the new one, both are safe

    def best(self, group: Ints, order: Words, context_id: Ints, position: Ints) -> Ints:
        """Choose the candidates that their lists have room for: indices by (list, order, context, position)."""
        by = _sorted(group.astype(np.uint64) << _ORDER_BITS | order, context_id, position)
        return by[ranks(group[by]) < self._size[group[by]]]

    def part(self, first: int, last: int) -> Candidates:
        """Kept entries `first` to `last` by (list, rank), with their windows; call `flush` before."""
        found = _take(self.kept, np.arange(first, last))
        return replace(found, window=self._windows[self._slots[first:last]])

    def _place(self, chosen: Ints) -> Ints:
        """Put the windows of new entries where those of dropped ones were; slots of the chosen, in their order."""
        held = len(self._slots)
        new = np.flatnonzero(chosen >= held)
        left = np.ones(len(self._windows), dtype=np.bool_)
        left[self._slots[chosen[chosen < held]]] = False
        free = np.flatnonzero(left)
        if (more := len(new) - len(free)) > 0:
            free = np.append(free, np.arange(len(self._windows), len(self._windows) + more))
            room = np.empty((more, self._windows.shape[1]), dtype=np.float32)
            self._windows = np.concatenate([self._windows, room])
        offered = np.concatenate([part.window for part in self._waiting]) if self._waiting else self._windows[:0]
        self._windows[free[: len(new)]] = offered[chosen[new] - held]
        slots = np.append(self._slots, free[: len(new)])
        source = chosen.copy()
        source[new] = held + np.arange(len(new))
        placed: Ints = slots[source]
        return placed


def _entries(found: Candidates) -> Candidates:
    """Candidates without their windows."""
    return replace(found, window=np.empty((len(found.group), 0), dtype=np.float32))


def _sorted(packed: Words, context_id: Ints, position: Ints) -> Ints:
    """Sort by (packed, context, position); one integer sort, then only equal integers by the rest."""
    by = np.argsort(packed)
    found = packed[by]
    same = found[1:] == found[:-1]
    tied = np.flatnonzero(np.append(same, False) | np.append(False, same)[: len(found)]) if len(found) else by
    among = by[tied]
    by[tied] = among[np.lexsort((position[among], context_id[among], packed[among]))]
    return by


def ranks(group: Ints) -> Ints:
    """Rank within runs of equal values of a sorted array."""
    first = np.flatnonzero(np.append(True, group[1:] != group[:-1])[: len(group)])
    return np.arange(len(group)) - np.repeat(first, np.diff(np.append(first, len(group))))


def strength_order(value: Floats) -> Words:
    """Order of stratum 0: the larger |a|, the smaller."""
    return np.uint64(1 << 32) - np.abs(value).view(np.uint32).astype(np.uint64)


def strength_of(order: Words) -> Floats:
    """Turn a stratum 0 order back into |a|; 0 for a list that is not full."""
    bits = np.where(order == _OPEN, np.uint64(0), np.uint64(1 << 32) - np.minimum(order, np.uint64(1 << 32)))
    return bits.astype(np.uint32).view(np.float32)


def position_hash(context_id: Ints, position: Ints) -> Words:
    """Hash a position of the corpus to 64 bits."""
    return _mix(_mix(context_id.astype(np.uint64)) + position.astype(np.uint64))


def priority(position_hash: Words, neuron: Ints) -> Words:
    """Priority of (neuron of the model, position): 32 bits, the smaller the earlier chosen."""
    return mixed(position_hash, neuron_seed(neuron))


def neuron_seed(neuron: Ints) -> Words:
    """Share of a neuron of the model in its priorities."""
    return neuron.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)


def mixed(position_hash: Words, seed: Words) -> Words:
    """Priority from the hash of a position and the seed of a neuron."""
    x = _mix(position_hash + seed)
    x >>= np.uint64(32)
    return x


def _mix(x: Words) -> Words:
    """Apply the finaliser of splitmix64 (Steele, Lea, Flood 2014)."""
    x = x ^ (x >> np.uint64(30))
    x *= np.uint64(0xBF58476D1CE4E5B9)  # in place: this runs on every firing
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return x


def empty_candidates(window: int) -> Candidates:
    """No candidates, with windows of `window` positions on either side."""
    whole, real = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32)
    shown = np.empty((0, 2 * window + 1), dtype=np.float32)
    return Candidates(whole, np.empty(0, dtype=np.uint64), whole, whole, whole, real, shown)


def _concat(parts: list[Candidates]) -> Candidates:
    return Candidates(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Candidates)))


def _take(found: Candidates, index: Ints) -> Candidates:
    return Candidates(*(getattr(found, f.name)[index] for f in fields(Candidates)))
