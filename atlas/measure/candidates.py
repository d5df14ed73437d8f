"""Activations of one block of a batch -> the few that may enter an exemplar list, and all firings.

A dense comparison with the smaller of two bars (firing threshold, weakest kept exemplar) leaves about 4 % of the
values; everything else happens on these.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from atlas.measure.batches import Batch
from atlas.measure.calibration import Calibration
from atlas.measure.exemplars import (
    WEAK_SHARE,
    Candidates,
    Exemplars,
    Floats,
    Ints,
    Words,
    position_hash,
    priority,
    strength_of,
    strength_order,
)

_MANY = 1 << 14
_LEAST = np.nextafter(np.float32(0), np.float32(1))


@dataclass(frozen=True)
class Firings:
    """Activations beyond the neuron's threshold: neuron, token id at the position, value."""

    neuron: Ints
    token: Ints
    value: Floats


@dataclass(frozen=True)
class Positions:
    """The counted positions of a batch with their hashes."""

    batch: Batch
    hashes: Words
    weak: Ints  # indices into the counted positions where weak activations are sampled

    @classmethod
    def of(cls, batch: Batch) -> Positions:
        """Hash every counted position."""
        hashes = position_hash(batch.context_id, batch.position)
        return cls(batch, hashes, np.flatnonzero(hashes % np.uint64(WEAK_SHARE) == 0))


@dataclass(frozen=True)
class _Sparse:
    """Single activations: index into the counted positions, neuron within the layer, value."""

    row: Ints
    neuron: Ints
    value: Floats

    def where(self, mask: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> _Sparse:
        return _Sparse(self.row[mask], self.neuron[mask], self.value[mask])


class Selector:
    """What one model, calibration and set of exemplar lists select from a batch."""

    def __init__(self, calibration: Calibration, exemplars: Exemplars, *, top: int, window: int) -> None:
        self._calibration, self._exemplars = calibration, exemplars
        self._top, self._window = top, window
        self._width = calibration.fire_pos.shape[1]

    def select(
        self, layer: int, values: Tensor, every: Tensor, positions: Positions
    ) -> tuple[tuple[Firings, Firings], Candidates]:
        """Select the firings (above fire_pos, below fire_neg) and the candidates.

        `values` [counted positions, d_mlp] and `every` [positions of the batch, d_mlp] are float32.
        """
        limits = self._exemplars.limit.reshape(-1, self._width, 2, self._exemplars.strata + 1)[layer]
        strong = self._strong(layer, values, limits)
        fired = (strong.value > self._calibration.fire_pos[layer][strong.neuron]) | (
            strong.value < self._calibration.fire_neg[layer][strong.neuron]
        )
        firing = strong.where(fired)
        chosen = [self._strongest(strong, limits)]
        if self._exemplars.strata:
            chosen.append(self._weak(layer, values, positions, limits))
        if self._exemplars.strata > 1:
            chosen.append(self._sampled(layer, firing, positions, limits))
        token, positive = positions.batch.token[firing.row], firing.value > 0
        fires = tuple(Firings(firing.neuron[m], token[m], firing.value[m]) for m in (positive, ~positive))
        return (fires[0], fires[1]), self._candidates(layer, chosen, every, positions)

    def _strong(self, layer: int, values: Tensor, limits: Words) -> _Sparse:
        kept = strength_of(limits[..., 0])
        if not kept.any() and self._top and len(values) > self._top:
            kept = _batch_bars(values, self._top)
        high = np.maximum(np.minimum(self._calibration.fire_pos[layer], kept[:, 0]), _LEAST)
        low = np.minimum(np.maximum(self._calibration.fire_neg[layer], -kept[:, 1]), -_LEAST)
        flat, value = _outside(values, low, high)
        row, neuron = np.divmod(flat, self._width)
        return _Sparse(row, neuron, value)

    def _strongest(self, strong: _Sparse, limits: Words) -> tuple[_Sparse, Ints, Words]:
        order = strength_order(strong.value)
        enters = order <= limits[strong.neuron, (strong.value < 0).astype(np.int64), 0]
        if not self._top:
            enters[:] = False
        return strong.where(enters), np.zeros(int(enters.sum()), dtype=np.int64), order[enters]

    def _weak(self, layer: int, values: Tensor, positions: Positions, limits: Words) -> tuple[_Sparse, Ints, Words]:
        rows = positions.weak
        found = values[torch.from_numpy(rows).to(values.device)].cpu().numpy()
        place = layer * self._width + np.arange(self._width)
        order = priority(positions.hashes[rows][:, None], place[None, :])
        bar = np.where(found > 0, limits[:, 0, 1], limits[:, 1, 1])
        calm = (found <= self._calibration.fire_pos[layer]) & (found >= self._calibration.fire_neg[layer])
        row, neuron = np.nonzero((order <= bar) & calm & (found != 0))
        return _Sparse(rows[row], neuron, found[row, neuron]), np.ones(len(row), dtype=np.int64), order[row, neuron]

    def _sampled(self, layer: int, firing: _Sparse, positions: Positions, limits: Words) -> tuple[_Sparse, Ints, Words]:
        order = priority(positions.hashes[firing.row], layer * self._width + firing.neuron)
        sign = (firing.value < 0).astype(np.int64)
        near = order <= limits.max(axis=2)[firing.neuron, sign]  # most fall here, before their stratum is looked up
        firing, order, sign = firing.where(near), order[near], sign[near]
        edges = self._calibration.edges[layer][sign, firing.neuron]
        stratum = 2 + (np.abs(firing.value)[:, None] > edges).sum(axis=1)
        enters = order <= limits[firing.neuron, sign, stratum]
        return firing.where(enters), stratum[enters], order[enters]

    def _candidates(
        self, layer: int, chosen: list[tuple[_Sparse, Ints, Words]], every: Tensor, positions: Positions
    ) -> Candidates:
        batch = positions.batch
        row = np.concatenate([sparse.row for sparse, _, _ in chosen])
        neuron = np.concatenate([sparse.neuron for sparse, _, _ in chosen])
        value = np.concatenate([sparse.value for sparse, _, _ in chosen])
        stratum = np.concatenate([stratum for _, stratum, _ in chosen])
        order = np.concatenate([order for _, _, order in chosen])
        group = ((layer * self._width + neuron) * 2 + (value < 0)) * (self._exemplars.strata + 1) + stratum
        if len(group) > _MANY:  # the first batches, while lists are open
            best = self._exemplars.best(group, order, batch.context_id[row], batch.position[row])
            row, neuron, value, order, group = row[best], neuron[best], value[best], order[best], group[best]
        return Candidates(
            group=group,
            order=order,
            context_id=batch.context_id[row],
            position=batch.position[row],
            length=batch.length[row],
            value=value,
            window=self._windows(every, batch.start[row], batch.position[row], neuron),
        )

    def _windows(self, every: Tensor, start: Ints, position: Ints, neuron: Ints) -> Floats:
        around = start + position
        index = around[:, None] + np.arange(-self._window, self._window + 1)
        index = np.clip(index, 0, len(every) - 1) * self._width + neuron[:, None]
        flat = torch.from_numpy(index).to(every.device)
        shown: Floats = every.reshape(-1)[flat].cpu().numpy()
        return shown


def _batch_bars(values: Tensor, top: int) -> Floats:
    """Find the top-th largest a and -a of a batch: bars for lists that are still empty [d_mlp, 2]."""
    columns = values.t().contiguous()
    ends = [
        columns.topk(top, dim=1, sorted=False).values.amin(1),
        -columns.topk(top, dim=1, largest=False).values.amax(1),
    ]
    bars: Floats = torch.stack(ends, dim=1).clamp(min=0).cpu().numpy()
    return bars


def _outside(values: Tensor, low: Floats, high: Floats) -> tuple[Ints, Floats]:
    """Flat indices and values where a <= low or a >= high, by rising index."""
    if values.device.type != "cpu":
        bars = (torch.from_numpy(bar).to(values.device) for bar in (low, high))
        found = ((values <= next(bars)) | (values >= next(bars))).view(-1).nonzero().view(-1)
        return found.cpu().numpy(), values.view(-1)[found].cpu().numpy()
    array: Floats = values.numpy()
    mask = np.greater_equal(array, high)
    mask |= np.less_equal(array, low)
    flat = np.flatnonzero(mask)
    return flat, array.ravel()[flat]
