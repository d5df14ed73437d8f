"""Activations of one block of a batch -> the few that may enter an exemplar list, and all firings.

A dense comparison (accumulators.py) with the smaller of two bars (firing threshold, weakest kept exemplar) leaves
about 4 % of the values; everything else happens on these.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from atlas.measure.accumulators import Dense
from atlas.measure.batches import Batch
from atlas.measure.calibration import Calibration
from atlas.measure.exemplars import (
    WEAK_SHARE,
    Candidates,
    Exemplars,
    Floats,
    Ints,
    Words,
    mixed,
    neuron_seed,
    position_hash,
    priority,
    strength_of,
    strength_order,
)

Mask = npt.NDArray[np.bool_]
_MANY = 1 << 14
_LEAST = np.nextafter(np.float32(0), np.float32(1))


@dataclass(frozen=True)
class Firings:
    """Activations beyond the neuron's threshold: side = 2 neuron + negative, token id at the position, value."""

    side: Ints
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
    """Single activations: index into the counted positions, side = 2 neuron + negative (of the layer), value."""

    row: Ints
    side: Ints
    value: Floats

    def at(self, index: Ints) -> _Sparse:
        return _Sparse(self.row[index], self.side[index], self.value[index])

    def where(self, mask: Mask) -> _Sparse:
        return self.at(np.flatnonzero(mask))  # one scan of the mask, then plain gathers: twice as fast as three masks


@dataclass(frozen=True)
class Bars:
    """Smallest |a| by side [2 d_mlp]: that may enter a list of the strongest; that does, or fires."""

    kept: Floats
    any: Floats


class Selector:
    """What one model, calibration and set of exemplar lists select from a batch."""

    def __init__(self, calibration: Calibration, exemplars: Exemplars, *, top: int, window: int) -> None:
        self._calibration, self._exemplars = calibration, exemplars
        self._top, self._window = top, window
        layers, self._width = calibration.fire_pos.shape
        # by layer and side: the smallest |a| that fires, edges of |a|
        bars = np.stack([calibration.fire_pos, -calibration.fire_neg], axis=2).reshape(layers, -1)
        self._fires = np.nextafter(bars, np.float32(np.inf))
        self._seeds = neuron_seed(np.arange(bars.size) >> 1).reshape(layers, -1)
        edges = calibration.edges.transpose(0, 2, 1, 3)
        self._edges = np.ascontiguousarray(edges).reshape(layers, 2 * self._width, -1)

    def bars(self, layer: int, values: Tensor) -> Bars:
        """Find the bars for a batch of one layer, `values` [counted positions, d_mlp]."""
        kept = strength_of(self._limits(layer)[:, 0])
        if not kept.any() and len(values) > self._top:
            kept = _batch_bars(values.float(), self._top)
        kept = np.maximum(kept, _LEAST)
        return Bars(kept, np.minimum(self._fires[layer], kept))

    def select(
        self, layer: int, dense: Dense, bars: Bars, every: Tensor, positions: Positions
    ) -> tuple[Firings, Candidates]:
        """Select the firings (above fire_pos, below fire_neg) and the candidates.

        `dense` holds what lies beyond `bars.any`; `every` [positions without padding, d_mlp], counted ones first.
        """
        limits, strong = self._limits(layer), self._strong(dense)
        strength = np.abs(strong.value)
        firing = strong
        if (bars.any < self._fires[layer]).any():  # later on, lists hold nothing that does not fire
            firing = strong.where(strength >= self._fires[layer].take(strong.side))
        chosen = [self._strongest(strong, strength, bars.kept)]
        if self._exemplars.strata:
            chosen.append(self._weak(layer, every, positions, limits))
        if self._exemplars.strata > 1:
            chosen.append(self._sampled(layer, firing, positions, limits))
        fires = Firings(firing.side, positions.batch.token.take(firing.row), firing.value)
        return fires, self._candidates(layer, chosen, every, positions)

    def _limits(self, layer: int) -> Words:
        limits: Words = self._exemplars.limit.reshape(-1, 2 * self._width, self._exemplars.strata + 1)[layer]
        return limits

    def _strong(self, dense: Dense) -> _Sparse:
        row = dense.flat // self._width
        side = dense.flat
        side -= row * self._width
        side += side
        side += dense.value < 0
        return _Sparse(row, side, dense.value)

    def _strongest(self, strong: _Sparse, strength: Floats, kept: Floats) -> tuple[_Sparse, Ints, Words]:
        found = strong.where(strength >= kept.take(strong.side))
        return found, np.zeros(len(found.row), dtype=np.int64), strength_order(found.value)

    def _weak(self, layer: int, every: Tensor, positions: Positions, limits: Words) -> tuple[_Sparse, Ints, Words]:
        rows, bars = positions.weak, limits[:, 1]
        found = every.index_select(0, torch.from_numpy(rows).to(every.device)).float().cpu().numpy().ravel()
        place = layer * self._width + np.arange(self._width)
        order = priority(positions.hashes[rows][:, None], place[None, :])
        near = np.flatnonzero(order <= np.maximum(bars[::2], bars[1::2]))  # few, once lists are full
        row, neuron = np.divmod(near, self._width)
        value, order = found[near], order.ravel()[near]
        weak = _Sparse(rows[row], 2 * neuron + (value < 0), value)
        strength = np.abs(value)
        enters = (order <= bars[weak.side]) & (strength < self._fires[layer][weak.side]) & (strength > 0)
        return weak.where(enters), np.ones(np.count_nonzero(enters), dtype=np.int64), order[enters]

    def _sampled(self, layer: int, firing: _Sparse, positions: Positions, limits: Words) -> tuple[_Sparse, Ints, Words]:
        order = mixed(positions.hashes.take(firing.row), self._seeds[layer].take(firing.side))
        near = np.flatnonzero(order <= limits[:, 2:].max(axis=1).take(firing.side))  # few, once lists are full
        firing, order = firing.at(near), order[near]
        stratum = 2 + (np.abs(firing.value)[:, None] > self._edges[layer][firing.side]).sum(axis=1)
        enters = order <= limits[firing.side, stratum]
        return firing.where(enters), stratum[enters], order[enters]

    def _candidates(
        self, layer: int, chosen: list[tuple[_Sparse, Ints, Words]], every: Tensor, positions: Positions
    ) -> Candidates:
        batch = positions.batch
        row = np.concatenate([sparse.row for sparse, _, _ in chosen])
        side = np.concatenate([sparse.side for sparse, _, _ in chosen])
        value = np.concatenate([sparse.value for sparse, _, _ in chosen])
        stratum = np.concatenate([stratum for _, stratum, _ in chosen])
        order = np.concatenate([order for _, _, order in chosen])
        group = (layer * self._width * 2 + side) * (self._exemplars.strata + 1) + stratum
        if len(group) > _MANY:  # the first batches, while lists are open
            best = self._exemplars.best(group, order, batch.context_id[row], batch.position[row])
            row, side, value, order, group = row[best], side[best], value[best], order[best], group[best]
        return Candidates(
            group=group,
            order=order,
            context_id=batch.context_id[row],
            position=batch.position[row],
            length=batch.length[row],
            value=value,
            window=self._windows(every, batch, row, side >> 1),
        )

    def _windows(self, every: Tensor, batch: Batch, row: Ints, neuron: Ints) -> Floats:
        around = batch.rows[row][:, None] + np.arange(-self._window, self._window + 1)
        index = batch.place.take(around, mode="clip")
        index *= self._width
        index += neuron[:, None]
        flat = torch.from_numpy(index.ravel()).to(every.device)
        shown: Floats = every.reshape(-1).index_select(0, flat).float().cpu().numpy().reshape(index.shape)
        return shown


def _batch_bars(values: Tensor, top: int) -> Floats:
    """Find about the top-th largest a and -a of a batch: bars for lists that are still empty [2 d_mlp].

    The top-th largest of the maxima of 4 top groups of rows is at most the top-th largest of all, and much cheaper.
    """
    groups = min(4 * top, len(values))
    grouped = values[: len(values) // groups * groups].view(groups, -1, values.shape[1])
    ends = [
        grouped.amax(1).topk(top, dim=0, sorted=False).values.amin(0),
        -grouped.amin(1).topk(top, dim=0, largest=False).values.amax(0),
    ]
    bars: Floats = torch.stack(ends, dim=1).clamp(min=0).view(-1).cpu().numpy()
    return bars
