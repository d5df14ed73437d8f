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

_FLUSH = 1 << 21  # firings of a layer kept before they are summed: 16 MB, or 24 MB where keys need over 32 bits
_PACKED = 1 << 32  # keys below this are packed with their value


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
    Memory: 32 bytes * `most`, twice while triples are joined, and a buffer of 16 or 24 MB.
    """

    def __init__(self, vocab: int, sides: int, most: int) -> None:
        self._vocab, self._sides, self._most = vocab, sides, most
        self._room = max(most // 2 // sides, 1)  # half of it: newcomers gather before they compete
        self._is_packed = sides * vocab <= _PACKED
        self._waiting: list[tuple[Ints, Floats] | Words] = []
        self._size = 0
        self._runs: list[TokenSums] = []
        self.dropped = np.zeros(sides, dtype=np.int64)

    def add(self, side: Ints, token: Ints, value: Floats) -> None:
        """Add firings, one entry each; side = 2 neuron + negative."""
        key = side * self._vocab
        key += token
        self._waiting.append(_packed(key, value) if self._is_packed else (key, value))
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
        waiting, self._waiting, self._size = self._waiting, [], 0
        self._runs.append(_sum_packed(waiting) if self._is_packed else _sum_pairs(waiting))
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


def _packed(key: Ints, value: Floats) -> Words:
    """Key and value as one integer, in their order: sorting these is several times as fast as an indirect sort."""
    bits = value.view(np.int32)
    packed: Words = key.view(np.uint64) << np.uint64(32)
    packed |= (bits ^ (bits >> 31 | np.int32(-(1 << 31)))).view(np.uint32)
    return packed


def _sum_packed(waiting: list[tuple[Ints, Floats] | Words]) -> TokenSums:
    packed: Words = np.concatenate([np.empty(0, dtype=np.uint64), *waiting])
    packed.sort()
    bits = packed.astype(np.uint32).view(np.int32)
    value = (bits ^ (~(bits >> 31) | np.int32(-(1 << 31)))).view(np.float32)
    packed >>= np.uint64(32)
    return _sum_sorted(packed.view(np.int64), value)


def _sum_pairs(waiting: list[tuple[Ints, Floats] | Words]) -> TokenSums:
    key = np.concatenate([np.empty(0, dtype=np.int64), *(key for key, _ in waiting)])
    value = np.concatenate([np.empty(0, dtype=np.float32), *(value for _, value in waiting)])
    order = np.lexsort((value, key))
    return _sum_sorted(key[order], value[order])


def _sum_sorted(key: Ints, value: Floats) -> TokenSums:
    """Sum firings that are sorted by key, then value."""
    if not len(key):
        return TokenSums(key, np.empty(0, dtype=np.int64), np.empty(0), value, value)
    starts = _starts(key)
    ends = np.append(starts[1:], len(key)) - 1
    sums = np.add.reduceat(value.astype(np.float64), starts)
    return TokenSums(key[starts], ends - starts + 1, sums, value[ends], value[starts])


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
