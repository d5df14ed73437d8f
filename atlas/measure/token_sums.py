"""Firings of a layer in a stream -> count, sum, largest and smallest by (neuron, sign, token), in bounded memory.

No [neurons x vocabulary] table: firings wait as one 64-bit integer each (key and value), are sorted and summed when
they are many, and join what is known. A bound on the triples makes memory independent of the corpus and the vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]

_FLUSH = 1 << 20  # firings of a layer kept before they are summed: 16 MB
BYTES = 32  # of one triple


@dataclass(frozen=True)
class TokenSums:
    """Rows by rising key = (2 neuron + negative) * vocab + token: count, sum, largest and smallest activation."""

    key: Ints
    n: Ints
    sum: Doubles
    high: Floats
    low: Floats

    def at(self, rows: npt.NDArray[np.generic]) -> TokenSums:
        """The rows of a mask or of indices."""
        return TokenSums(self.key[rows], self.n[rows], self.sum[rows], self.high[rows], self.low[rows])


class TokenLayer:
    """Firings of one layer, summed by (neuron, sign, token).

    Firings must arrive in a fixed order of batches: where the sums are cut then is fixed too. Whenever more than `most`
    triples are held, every (neuron, sign) keeps its most // 2 // sides of largest |sum|; `dropped` counts the firings
    of the others, exactly. A dropped token that fires again starts from nothing, so its n and sum are those since.
    Memory: BYTES * `most`, twice while triples are joined, and a buffer of 16 MB.
    """

    def __init__(self, vocab: int, sides: int, most: int) -> None:
        self._vocab, self._sides, self._most = vocab, sides, most
        self._room = max(most // 2 // sides, 1)  # half of it: newcomers gather before they compete
        self._waiting: list[tuple[Ints, Floats]] = []
        self._size = 0
        self._runs: list[TokenSums] = []
        self.dropped = np.zeros(sides, dtype=np.int64)

    def add(self, side: Ints, token: Ints, value: Floats) -> None:
        """Add firings, one entry each; side = 2 neuron + negative."""
        key = side * self._vocab
        key += token
        self._waiting.append((key, value))
        self._size += len(value)
        if self._size >= _FLUSH:
            self._flush()

    def result(self) -> TokenSums:
        """All firings so far."""
        self._flush()
        while len(self._runs) > 1:
            self._join()
        if len(self._runs[0].key) > self._most:
            self._drop()
        return self._runs[0]

    def fired(self, sums: TokenSums) -> Ints:
        """Count firings by side, dropped ones too; `sums` is the `result`."""
        kept = np.bincount(sums.key // self._vocab, weights=sums.n, minlength=len(self.dropped))
        return kept.astype(np.int64) + self.dropped

    def emptied(self) -> TokenLayer:
        """A layer with the same bounds and no firings."""
        return TokenLayer(self._vocab, self._sides, self._most)

    def _flush(self) -> None:
        keys = [key for key, _ in self._waiting]
        values = [value for _, value in self._waiting]
        self._waiting, self._size = [], 0
        empty = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32)
        self._runs.append(_sum_firings(np.concatenate([empty[0], *keys]), np.concatenate([empty[1], *values])))
        # runs double in size, so every row is joined only a logarithmic number of times
        while len(self._runs) > 1 and len(self._runs[-2].key) <= 2 * len(self._runs[-1].key):
            self._join()
        if sum(len(run.key) for run in self._runs) > self._most:
            while len(self._runs) > 1:
                self._join()
            if len(self._runs[0].key) > self._most:
                self._drop()

    def _join(self) -> None:
        right, left = self._runs.pop(), self._runs.pop()
        self._runs.append(_join(left, right))

    def _drop(self) -> None:
        """Keep the `_room` triples of largest |sum| of every side, ties by token."""
        (run,) = self._runs
        side = run.key // self._vocab
        order = np.lexsort((run.key, -np.abs(run.sum), side))
        first = _starts(side)  # sides rise, before and after sorting inside them
        rank = np.arange(len(side)) - np.repeat(first, np.diff(np.append(first, len(side))))
        keep = np.zeros(len(side), dtype=np.bool_)
        keep[order[rank < self._room]] = True
        lost = np.bincount(side[~keep], weights=run.n[~keep], minlength=len(self.dropped))
        self.dropped += lost.astype(np.int64)
        self._runs = [run.at(keep)]


def _sum_firings(key: Ints, value: Floats) -> TokenSums:
    if not len(key):
        return TokenSums(key, key, np.empty(0), value, value)
    if (cells := int(key.max()) + 1) <= 4 * len(key):
        return _sum_counted(key, value, cells)
    if cells <= 1 << 32:
        key, value = _sort_packed(key, value)
    else:
        order = np.lexsort((value, key))
        key, value = key[order], value[order]
    starts = _starts(key)
    ends = np.append(starts[1:], len(key)) - 1
    sums = np.add.reduceat(value.astype(np.float64), starts)
    return TokenSums(key[starts], ends - starts + 1, sums, value[ends], value[starts])


def _sum_counted(key: Ints, value: Floats, cells: int) -> TokenSums:
    """Sum by counting into `cells` cells: for keys that are dense, 4 times as fast as sorting."""
    n = np.bincount(key, minlength=cells)
    sums: Doubles = np.bincount(key, weights=value, minlength=cells).astype(np.float64, copy=False)
    high = np.full(cells, -np.inf, dtype=np.float32)
    low = np.full(cells, np.inf, dtype=np.float32)
    np.maximum.at(high, key, value)
    np.minimum.at(low, key, value)
    found = np.flatnonzero(n)
    return TokenSums(found, n[found], sums[found], high[found], low[found])


def _sort_packed(key: Ints, value: Floats) -> tuple[Ints, Floats]:
    """Sort by key, then value, as one 64-bit integer each: several times as fast as an indirect sort."""
    bits = value.view(np.uint32)
    ordered = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31)).astype(np.uint32)
    packed = key.astype(np.uint64)
    packed <<= np.uint64(32)
    packed |= ordered
    packed.sort()
    low = packed.astype(np.uint32)
    bits = np.where(low >> 31, low ^ np.uint32(1 << 31), ~low).astype(np.uint32)
    packed >>= np.uint64(32)
    return packed.view(np.int64), bits.view(np.float32)


def _join(left: TokenSums, right: TokenSums) -> TokenSums:
    """Add `right` to `left`; known triples in place, new ones between them: no sort of what is sorted."""
    place = np.searchsorted(left.key, right.key)
    known = np.zeros(len(right.key), dtype=np.bool_)
    inside = place < len(left.key)
    known[inside] = left.key[place[inside]] == right.key[inside]
    at, same = place[known], right.at(known)
    left.n[at] += same.n
    left.sum[at] += same.sum
    left.high[at] = np.maximum(left.high[at], same.high)
    left.low[at] = np.minimum(left.low[at], same.low)
    if known.all():
        return left
    fresh = np.flatnonzero(~known)
    into = place[fresh] + np.arange(len(fresh))
    old = np.ones(len(left.key) + len(fresh), dtype=np.bool_)
    old[into] = False
    old_rows = np.flatnonzero(old)

    def both(name: str) -> npt.NDArray[np.generic]:
        before, after = getattr(left, name), getattr(right, name)
        merged = np.empty(len(old), dtype=before.dtype)
        merged[old_rows] = before
        merged[into] = after[fresh]
        return merged

    return TokenSums(both("key"), both("n"), both("sum"), both("high"), both("low"))  # type: ignore[arg-type]


def _starts(key: Ints) -> Ints:
    if not len(key):
        return np.empty(0, dtype=np.int64)
    return np.flatnonzero(np.append(True, key[1:] != key[:-1]))
