"""Activations of a batch -> what adds up: moments, counts, histograms; and the few that lie beyond given bars.

Counts, minima and maxima are exact in any order, so each thread keeps its own `Tally`. Float sums depend on order, so
they are made per batch and added in the order of the batches. On a processor one compiled loop does it all
(kernels.py); on a GPU torch does, one operation after the other. Tests hold one against the other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from atlas.measure.calibration import Calibration, not_finite
from atlas.measure.kernels import BINS, Floats, Found, Range, Totals, count_dense, first_of
from atlas.tables import HIST_BINS


@dataclass(frozen=True)
class Dense:
    """What one layer of one batch gave: sums of a, a^2, a^3, a^4, |a| [5, d_mlp] float64 and what lies beyond the bars.

    `found` is valid until the next call of `Tally.add`.
    """

    sums: Tensor
    found: Found


class Tally:
    """Order-free counts of one thread: n_active, min, max [layers, d_mlp] and hist [layers, d_mlp * BINS]."""

    def __init__(self, calibration: Calibration, device: torch.device, *, compiled: bool | None = None) -> None:
        """Count on `device`; `compiled` loops by default on a processor."""
        layers, width = calibration.hist_lo.shape
        self._compiled = device.type == "cpu" if compiled is None else compiled
        low, high = (torch.from_numpy(x).to(device) for x in (calibration.hist_lo, calibration.hist_hi))
        self._scale = HIST_BINS / (high - low)
        self._low = low
        self._first_bin = torch.arange(width, device=device, dtype=torch.int32) * BINS + 1
        self.n_active = torch.zeros(layers, width, dtype=torch.int64, device=device)
        self.low = torch.full((layers, width), torch.inf, device=device)
        self.high = torch.full((layers, width), -torch.inf, device=device)
        self.hist = torch.zeros(layers, width * BINS, dtype=torch.int64, device=device)
        self._found = Found(np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, np.float32))

    def add(self, layer: int, values: Tensor, low: Floats, high: Floats) -> Dense:
        """Count `values` [positions, d_mlp]; find those <= `low` or >= `high` (both [d_mlp]).

        Raises ModelError for values that are not finite.
        """
        wide = values.to(torch.promote_types(values.dtype, torch.float32))
        dense = self._compiled_loop(layer, wide, low, high) if self._compiled else self._torch(layer, wide, low, high)
        if not bool(torch.isfinite(dense.sums[0].sum())):
            raise not_finite(layer)
        return dense

    def merge(self, other: Tally) -> None:
        """Add another thread's counts."""
        self.n_active += other.n_active
        self.hist += other.hist
        torch.minimum(self.low, other.low, out=self.low)
        torch.maximum(self.high, other.high, out=self.high)

    def _compiled_loop(self, layer: int, values: Tensor, low: Floats, high: Floats) -> Dense:
        if len(self._found.value) < values.numel():  # used again for fewer page faults; only what is filled is touched
            row, neuron = (np.empty(values.numel(), np.int32) for _ in range(2))
            self._found = Found(row, neuron, np.empty(values.numel(), np.float32))
        sums = np.zeros((5, values.shape[1]))
        totals = Totals(*(x[layer].numpy() for x in (self.low, self.high, self.n_active, self.hist)))
        ranges = Range(self._low[layer].numpy(), self._scale[layer].numpy(), low, high)
        filled = count_dense(values.contiguous().numpy(), ranges, totals, sums, self._found)
        return Dense(torch.from_numpy(sums), first_of(self._found, filled))

    def _torch(self, layer: int, wide: Tensor, low: Floats, high: Floats) -> Dense:
        values = wide.float()
        square = wide * wide
        powers = [wide, square, square * wide, square * square, wide.abs()]
        torch.minimum(self.low[layer], values.amin(0), out=self.low[layer])
        torch.maximum(self.high[layer], values.amax(0), out=self.high[layer])
        self.n_active[layer] += (values > 0).sum(0)
        index = ((values - self._low[layer]) * self._scale[layer]).floor_().clamp_(-1, HIST_BINS).nan_to_num_(0)
        index = index.int().add_(self._first_bin)  # added as integers, floats would round it
        self.hist[layer] += torch.bincount(index.view(-1), minlength=self.hist.shape[1])
        sums = torch.stack([power.sum(0) for power in powers]).double()
        return Dense(sums, _outside(values, low, high))


def _outside(values: Tensor, low: Floats, high: Floats) -> Found:
    """What is a <= low or a >= high, by row and neuron."""
    below, above = (torch.from_numpy(bar).to(values.device) for bar in (low, high))
    row, neuron = ((values <= below) | (values >= above)).nonzero(as_tuple=True)
    value = values[row, neuron].cpu().numpy()
    return Found(row.int().cpu().numpy(), neuron.int().cpu().numpy(), value)
