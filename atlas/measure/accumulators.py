"""Activations of a batch -> what adds up: moments, counts, histograms, sums by token.

Counts, minima and maxima are exact in any order, so each thread keeps its own `Tally`. Float sums depend on order, so
they are made per batch and added in the order of the batches.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from atlas.measure.calibration import Calibration, not_finite
from atlas.tables import HIST_BINS

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
BINS = HIST_BINS + 2
_FLUSH = 1 << 20  # firings of a layer kept before they are summed: 16 MB


class Tally:
    """Order-free counts of one thread: n_active, min, max [layers, d_mlp] and hist [layers, d_mlp, BINS]."""

    def __init__(self, calibration: Calibration, device: torch.device) -> None:
        layers, width = calibration.hist_lo.shape
        low, high = (torch.from_numpy(x).to(device) for x in (calibration.hist_lo, calibration.hist_hi))
        self._scale = HIST_BINS / (high - low)
        self._low, self._high = low, high
        self._first_bin = torch.arange(width, device=device, dtype=torch.int32) * BINS + 1
        self.n_active = torch.zeros(layers, width, dtype=torch.int64, device=device)
        self.low = torch.full((layers, width), torch.inf, device=device)
        self.high = torch.full((layers, width), -torch.inf, device=device)
        self.hist = torch.zeros(layers, width * BINS, dtype=torch.int64, device=device)
        self._buffer = torch.empty(0, device=device)
        self._index = torch.empty(0, dtype=torch.int32, device=device)

    def add(self, layer: int, values: Tensor) -> Tensor:
        """Count `values` [positions, d_mlp], float32 or wider; gives their `moments`.

        Raises ModelError for values that are not finite.
        """
        sums = moments(values, self._scratch(values))
        if not bool(torch.isfinite(sums[0]).all()):
            raise not_finite(layer)
        values = values.float()
        low, high = values.amin(0), values.amax(0)
        torch.minimum(self.low[layer], low, out=self.low[layer])
        torch.maximum(self.high[layer], high, out=self.high[layer])
        inside = bool(((low >= self._low[layer]) & (high <= self._high[layer])).all())
        self._count(layer, values, inside)
        return sums

    def merge(self, other: Tally) -> None:
        """Add another thread's counts."""
        self.n_active += other.n_active
        self.hist += other.hist
        torch.minimum(self.low, other.low, out=self.low)
        torch.maximum(self.high, other.high, out=self.high)

    def _count(self, layer: int, values: Tensor, inside: bool) -> None:
        buffer = self._scratch(values)
        torch.gt(values, 0, out=buffer)  # 0.0 or 1.0: summing floats is 4 times as fast as summing booleans
        self.n_active[layer] += buffer.sum(0).long()
        torch.sub(values, self._low[layer], out=buffer)
        buffer.mul_(self._scale[layer])
        if not inside:  # inside the range, conversion to integers is enough
            buffer.floor_().clamp_(-1, HIST_BINS)
        index = self._index[: values.numel()].view(values.shape)
        index.copy_(buffer)  # whole numbers; the offset is added as integers, floats would round it
        index.add_(self._first_bin)
        self.hist[layer] += torch.bincount(index.view(-1), minlength=self.hist.shape[1])

    def _scratch(self, values: Tensor) -> Tensor:
        # fresh 6 MB buffers cost more in page faults than the arithmetic on them
        if self._buffer.numel() < values.numel():
            self._buffer = torch.empty(values.numel(), device=values.device)
            self._index = torch.empty(values.numel(), dtype=torch.int32, device=values.device)
        return self._buffer[: values.numel()].view(values.shape)


def moments(values: Tensor, buffer: Tensor | None = None) -> Tensor:
    """Sum a, a^2, a^3, a^4, |a| of `values` [positions, d_mlp] over positions: [5, d_mlp] float64.

    Products and the (cascaded) sums inside a batch are in the values' dtype, everything beyond in float64.
    """
    if buffer is None or buffer.dtype != values.dtype:
        buffer = torch.empty_like(values)
    first, absolute = values.sum(0), torch.abs(values, out=buffer).sum(0)
    second = torch.mul(values, values, out=buffer).sum(0)
    third = torch.mul(buffer, values, out=buffer).sum(0)
    fourth = torch.mul(buffer, values, out=buffer).sum(0)
    return torch.stack([first, second, third, fourth, absolute]).double()


@dataclass(frozen=True)
class TokenSums:
    """Rows by rising key = (2 neuron + negative) * vocab + token: count, sum, largest and smallest activation."""

    key: Ints
    n: Ints
    sum: Doubles
    high: Floats
    low: Floats


@dataclass
class TokenLayer:
    """Firings of one layer, summed by (neuron, sign, token); memory grows with distinct triples only.

    Firings must arrive in a fixed order of batches: where the sums are cut then is fixed too.
    """

    vocab: int
    _waiting: list[tuple[Ints, Floats]] = field(default_factory=list)
    _size: int = 0
    _runs: list[TokenSums] = field(default_factory=list)

    def add(self, side: Ints, token: Ints, value: Floats) -> None:
        """Add firings, one entry each; side = 2 neuron + negative."""
        self._waiting.append((side * self.vocab + token, value))
        self._size += len(value)
        if self._size >= _FLUSH:
            self._flush()

    def result(self) -> TokenSums:
        """All firings so far."""
        self._flush()
        while len(self._runs) > 1:
            self._join()
        return self._runs[0]

    def _flush(self) -> None:
        keys = [key for key, _ in self._waiting]
        values = [value for _, value in self._waiting]
        self._waiting, self._size = [], 0
        empty = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32)
        self._runs.append(_sum_firings(np.concatenate([empty[0], *keys]), np.concatenate([empty[1], *values])))
        # runs double in size, so every row is joined only a logarithmic number of times
        while len(self._runs) > 1 and len(self._runs[-2].key) <= 2 * len(self._runs[-1].key):
            self._join()

    def _join(self) -> None:
        right, left = self._runs.pop(), self._runs.pop()
        self._runs.append(_join(left, right))


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
    packed = np.sort(key.astype(np.uint64) << np.uint64(32) | ordered)
    low = packed.astype(np.uint32)
    bits = np.where(low >> 31, low ^ np.uint32(1 << 31), ~low).astype(np.uint32)
    return (packed >> np.uint64(32)).astype(np.int64), bits.view(np.float32)


def _join(left: TokenSums, right: TokenSums) -> TokenSums:
    size = len(left.key) + len(right.key)
    if size and (cells := int(max(left.key.max(initial=0), right.key.max(initial=0))) + 1) <= 4 * size:
        return _join_counted(left, right, cells)
    key = np.concatenate([left.key, right.key])
    order = np.argsort(key, kind="stable")
    key = key[order]
    starts = _starts(key)
    if not len(key):
        return left

    def both(name: str) -> npt.NDArray[np.generic]:
        return np.concatenate([getattr(left, name), getattr(right, name)])[order]

    return TokenSums(
        key[starts],
        np.add.reduceat(both("n"), starts),
        np.add.reduceat(both("sum"), starts),
        np.maximum.reduceat(both("high"), starts),
        np.minimum.reduceat(both("low"), starts),
    )


def _join_counted(left: TokenSums, right: TokenSums, cells: int) -> TokenSums:
    """Join in `cells` cells: for keys that are dense, half of the time of sorting."""
    n, sums = np.zeros(cells, dtype=np.int64), np.zeros(cells)
    high, low = np.full(cells, -np.inf, dtype=np.float32), np.full(cells, np.inf, dtype=np.float32)
    n[left.key], sums[left.key], high[left.key], low[left.key] = left.n, left.sum, left.high, left.low
    n[right.key] += right.n
    sums[right.key] += right.sum
    high[right.key] = np.maximum(high[right.key], right.high)
    low[right.key] = np.minimum(low[right.key], right.low)
    found = np.flatnonzero(n)
    return TokenSums(found, n[found], sums[found], high[found], low[found])


def _starts(key: Ints) -> Ints:
    if not len(key):
        return np.empty(0, dtype=np.int64)
    return np.flatnonzero(np.append(True, key[1:] != key[:-1]))
