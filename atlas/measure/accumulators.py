"""Activations of a batch -> what adds up: moments, counts, histograms; and the few that lie beyond given bars.

Counts, minima and maxima are exact in any order, so each thread keeps its own `Tally`. Float sums depend on order, so
they are made per batch and added in the order of the batches. One pass over pieces of ROWS positions does it all: a
piece stays in the core's cache: 7.6 instead of 12.8 ns a value on the whole batch, one operation after the other.
torch.compile of the same sums, bins and comparisons takes 8.7 ns a value after a first call of 18 s, so it is not used.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from atlas.measure.calibration import Calibration, not_finite
from atlas.tables import HIST_BINS

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
BINS = HIST_BINS + 2
ROWS = 64  # of 2048 neurons in float32: 0.5 MB, and a buffer of the same size


@dataclass(frozen=True)
class Dense:
    """What one layer of one batch gave: sums of a, a^2, a^3, a^4, |a| [5, d_mlp] float64 and what lies beyond the bars.

    `flat` are rising indices into [positions, d_mlp], `value` the activations there.
    """

    sums: Tensor
    flat: Ints
    value: Floats


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

    def add(self, layer: int, values: Tensor, low: Floats, high: Floats) -> Dense:
        """Count `values` [positions, d_mlp]; find those <= `low` or >= `high` (both [d_mlp]).

        Raises ModelError for values that are not finite.
        """
        wide = torch.promote_types(values.dtype, torch.float32)
        if self._index.numel() < values.numel():  # fresh buffers cost more in page faults than the arithmetic on them
            self._index = torch.empty(values.numel(), dtype=torch.int32, device=values.device)
        index = self._index[: values.numel()].view(values.shape)
        sums = torch.zeros(5, values.shape[1], dtype=torch.float64, device=values.device)
        flat, found = [], []
        for first in range(0, len(values), step := _rows(values)):
            piece = values[first : first + step].to(wide)
            sums += self._moments(layer, piece)
            piece = piece.float()
            self._count(layer, piece, index[first : first + step])
            there, value = _outside(piece, low, high)
            there += first * values.shape[1]
            flat.append(there)
            found.append(value)
        self.hist[layer] += torch.bincount(index.view(-1), minlength=self.hist.shape[1])
        return Dense(sums, np.concatenate(flat), np.concatenate(found))

    def merge(self, other: Tally) -> None:
        """Add another thread's counts."""
        self.n_active += other.n_active
        self.hist += other.hist
        torch.minimum(self.low, other.low, out=self.low)
        torch.maximum(self.high, other.high, out=self.high)

    def _moments(self, layer: int, piece: Tensor) -> Tensor:
        """Products and sums inside a piece are in its dtype, everything beyond in float64."""
        buffer = self._scratch(piece)
        first, absolute = piece.sum(0), torch.abs(piece, out=buffer).sum(0)
        second = torch.mul(piece, piece, out=buffer).sum(0)
        third = torch.mul(buffer, piece, out=buffer).sum(0)
        fourth = torch.mul(buffer, piece, out=buffer).sum(0)
        if not bool(torch.isfinite(first.sum())):
            raise not_finite(layer)
        return torch.stack([first, second, third, fourth, absolute]).double()

    def _count(self, layer: int, piece: Tensor, index: Tensor) -> None:
        low, high = piece.amin(0), piece.amax(0)
        torch.minimum(self.low[layer], low, out=self.low[layer])
        torch.maximum(self.high[layer], high, out=self.high[layer])
        buffer = self._scratch(piece)
        torch.gt(piece, 0, out=buffer)  # 0.0 or 1.0: summing floats is 4 times as fast as summing booleans
        self.n_active[layer] += buffer.sum(0).long()
        torch.sub(piece, self._low[layer], out=buffer)
        buffer.mul_(self._scale[layer])
        if not bool(((low >= self._low[layer]) & (high <= self._high[layer])).all()):
            buffer.floor_().clamp_(-1, HIST_BINS)  # inside the range, conversion to integers is enough
        index.copy_(buffer)  # whole numbers; the offset is added as integers, floats would round it
        index.add_(self._first_bin)

    def _scratch(self, piece: Tensor) -> Tensor:
        if self._buffer.numel() < piece.numel() or self._buffer.dtype != piece.dtype:
            self._buffer = torch.empty(piece.numel(), dtype=piece.dtype, device=piece.device)
        return self._buffer[: piece.numel()].view(piece.shape)


def _rows(values: Tensor) -> int:
    """Positions of a piece: about 1 MB on a processor, everything on a GPU."""
    if values.device.type != "cpu":
        return max(len(values), 1)
    return max(ROWS * 2048 // values.shape[1], 8)


def _outside(values: Tensor, low: Floats, high: Floats) -> tuple[Ints, Floats]:
    """Flat indices and values where a <= low or a >= high, by rising index."""
    if values.device.type != "cpu":
        bars = (torch.from_numpy(bar).to(values.device) for bar in (low, high))
        found = ((values <= next(bars)) | (values >= next(bars))).view(-1).nonzero().view(-1)
        return found.cpu().numpy(), values.view(-1)[found].cpu().numpy()
    array: Floats = values.numpy()
    whole = np.zeros(-(-array.size // 8) * 8, dtype=np.bool_)
    mask = whole[: array.size].reshape(array.shape)
    np.greater_equal(array, high, out=mask)
    mask |= np.less_equal(array, low)
    flat = _true(whole)
    return flat, array.ravel().take(flat)


def _true(mask: Mask) -> Ints:
    """Find the true ones; first by eights, most of which are empty: half of the time of numpy's own search."""
    words = mask.view(np.uint64)
    some = np.flatnonzero(words != 0)
    inner = np.flatnonzero(words.take(some).view(np.bool_))
    found: Ints = (some << 3).take(inner >> 3)
    found += inner & 7
    return found
