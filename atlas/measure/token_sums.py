"""Firings of a layer in a stream -> count, sum, largest and smallest by (neuron, sign, token), in bounded memory.

No [neurons x vocabulary] table: firings wait as key and value, are sorted and summed when they are many, and join what
is known. A bound on the triples makes memory independent of the corpus and the vocabulary.
"""

from __future__ import annotations

import numpy as np

from atlas.measure.kernels import (
    Array,
    Fired,
    Floats,
    Ints,
    Summed,
    first_of,
    join,
    pack,
    sort_pairs,
    sum_sorted,
    thin,
    unpack,
)

_FLUSH = 1 << 21  # firings of a layer kept before they are summed: 16 MB, or 24 MB where keys need over 32 bits
_NARROW = 1 << 32  # keys below this wait in 32 bits


def key_type(sides: int, vocab: int) -> type[np.uint32] | type[np.uint64]:
    """The type of the keys of firings: the smallest that holds them all."""
    return np.uint32 if sides * vocab <= _NARROW else np.uint64


class TokenLayer:
    """Firings of one layer, summed by (neuron, sign, token).

    Firings must arrive in a fixed order of batches: where the sums are cut then is fixed too. Whenever more than `most`
    triples are held, every (neuron, sign) keeps its most // 2 // sides of largest |sum|; `dropped` counts the firings
    of the others, exactly. A dropped token that fires again starts from nothing, so its n and sum are those since.
    Memory: 32 bytes * `most`, twice while triples are joined, and a buffer of 16 or 24 MB, twice while it is sorted.
    """

    def __init__(self, vocab: int, sides: int, most: int) -> None:
        self._vocab, self._sides, self._most = vocab, sides, most
        self._room = max(most // 2 // sides, 1)  # half of it: newcomers gather before they compete
        self._waiting: list[Fired] = []
        self._size = 0
        self._runs: list[Summed] = []
        self.dropped = np.zeros(sides, dtype=np.int64)

    def add(self, fired: Fired) -> None:
        """Add firings, one entry each; key = side * vocab + token, side = 2 neuron + negative."""
        self._waiting.append(fired)
        self._size += len(fired.value)
        if self._size >= _FLUSH:
            self._flush()

    def result(self) -> Summed:
        """All firings so far."""
        self._flush()
        self._join_all()
        return self._runs[0]

    def fired(self, sums: Summed) -> Ints:
        """Count firings by side, dropped ones too; `sums` is the `result`."""
        kept = np.bincount(sums.key // self._vocab, weights=sums.n, minlength=len(self.dropped))
        return kept.astype(np.int64) + self.dropped

    def emptied(self) -> TokenLayer:
        """A layer with the same bounds and no firings."""
        return TokenLayer(self._vocab, self._sides, self._most)

    def _flush(self) -> None:
        none = Fired(np.empty(0, key_type(self._sides, self._vocab)), np.empty(0, np.float32))
        key, value = (np.concatenate(columns) for columns in zip(none, *self._waiting, strict=True))
        self._waiting, self._size = [], 0
        key, value = self._sorted(key, value)
        into = _room_for(len(key))
        self._runs.append(first_of(into, sum_sorted(key, value, into)))
        # runs double in size, so every row is joined only a logarithmic number of times
        while len(self._runs) > 1 and len(self._runs[-2].key) <= 2 * len(self._runs[-1].key):
            self._join()
        if sum(len(run.key) for run in self._runs) > self._most:
            self._join_all()

    def _sorted(self, key: Array, value: Floats) -> tuple[Array, Floats]:
        if key.dtype == np.uint64:
            return sort_pairs(key, value, (self._sides * self._vocab - 1).bit_length())
        packed = pack(key, value)
        packed.sort()  # numpy's vectorised sort: 8 ns a firing, sort_pairs 20
        unpack(packed, key, value)
        return key, value

    def _join_all(self) -> None:
        while len(self._runs) > 1:
            self._join()
        (run,) = self._runs
        if len(run.key) > self._most:
            kept = thin(run, self._vocab, self._room, self.dropped)
            self._runs = [Summed(*(column.copy() for column in first_of(run, kept)))]  # type: ignore[arg-type]

    def _join(self) -> None:
        right, left = self._runs.pop(), self._runs.pop()
        into = _room_for(len(left.key) + len(right.key))
        self._runs.append(first_of(into, join(left, right, into)))


def _room_for(rows: int) -> Summed:
    return Summed(
        np.empty(rows, np.int64), np.empty(rows, np.int64), np.empty(rows), np.empty(rows, np.float32),
        np.empty(rows, np.float32),
    )  # fmt: skip
