"""Activations of one block of a batch -> the few that may enter an exemplar list, and all firings.

A dense comparison (accumulators.py) with the smaller of two bars (firing threshold, weakest kept exemplar) leaves
about 4 % of the values; everything else happens on these.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from atlas.measure.batches import Batch
from atlas.measure.calibration import Calibration
from atlas.measure.exemplars import WEAK_SHARE, Candidates, Exemplars, neuron_seed, position_hash, strength_of
from atlas.measure.kernels import (
    Chosen,
    Fired,
    Floats,
    Found,
    Ints,
    Places,
    Shorts,
    Sides,
    Words,
    choose_strong,
    choose_weak,
    cut_windows,
    first_of,
)
from atlas.measure.token_sums import key_type

_MANY = 1 << 14
_LEAST = np.nextafter(np.float32(0), np.float32(1))


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
class Bars:
    """Smallest |a| by side [2 d_mlp]: that may enter a list of the strongest; that does, or fires."""

    kept: Floats
    any: Floats


class Selector:
    """What one model, calibration and set of exemplar lists select from a batch."""

    def __init__(self, calibration: Calibration, exemplars: Exemplars, *, vocab: int, top: int, window: int) -> None:
        self._exemplars, self._vocab = exemplars, vocab
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
        self, layer: int, found: Found, bars: Bars, every: Tensor, positions: Positions
    ) -> tuple[Fired, Candidates]:
        """Select the firings (above fire_pos, below fire_neg) and the candidates.

        `found` holds what lies beyond `bars.any`; `every` [positions without padding, d_mlp], counted ones first.
        """
        limits = self._limits(layer)
        sides = Sides(self._fires[layer], bars.kept, self._seeds[layer], limits, self._edges[layer])
        room = len(found.value)
        fired = Fired(np.empty(room, key_type(2 * self._width, self._vocab)), np.empty(room, np.float32))
        strong = _room_to_choose(2 * room)
        places = Places(positions.hashes, positions.batch.token, self._vocab)
        firings, many = choose_strong(found, places, sides, fired, strong)
        chosen = [first_of(strong, many)]
        if self._exemplars.strata:
            chosen.append(_weak(every, positions, sides))
        return first_of(fired, firings), self._candidates(layer, chosen, every, positions)

    def _limits(self, layer: int) -> Words:
        limits: Words = self._exemplars.limit.reshape(-1, 2 * self._width, self._exemplars.strata + 1)[layer]
        return limits

    def _candidates(self, layer: int, chosen: list[Chosen], every: Tensor, positions: Positions) -> Candidates:
        row, side, stratum, order, value = (np.concatenate(columns) for columns in zip(*chosen, strict=True))
        batch, lists = positions.batch, self._exemplars.strata + 1
        first, last = (2 * self._width * lists * edge for edge in (layer, layer + 1))
        group = first + side.astype(np.int64) * lists + stratum
        if len(group) > _MANY:  # the first batches, while lists are open
            best = self._exemplars.best(first, last, group, order, batch.context_id[row], batch.position[row])
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

    def _windows(self, every: Tensor, batch: Batch, row: Ints, neuron: Shorts) -> Floats:
        centre = batch.rows[row]
        if every.device.type == "cpu" and every.dtype in (torch.float32, torch.float64):
            windows = np.empty((len(row), 2 * self._window + 1), np.float32)
            cut_windows(every.contiguous().numpy(), batch.place, centre, neuron, windows)
            return windows
        index = batch.place.take(centre[:, None] + np.arange(-self._window, self._window + 1), mode="clip")
        index *= self._width
        index += neuron[:, None]
        flat = torch.from_numpy(index.ravel()).to(every.device)
        shown: Floats = every.reshape(-1).index_select(0, flat).float().cpu().numpy().reshape(index.shape)
        return shown


def _weak(every: Tensor, positions: Positions, sides: Sides) -> Chosen:
    rows = positions.weak
    values = every.index_select(0, torch.from_numpy(rows).to(every.device)).float().cpu().numpy()
    chosen = _room_to_choose(values.size)
    return first_of(chosen, choose_weak(values, rows, positions.hashes[rows], sides, chosen))


def _room_to_choose(size: int) -> Chosen:
    row, side, stratum = (np.empty(size, np.int32) for _ in range(3))
    return Chosen(row, side, stratum, np.empty(size, np.uint64), np.empty(size, np.float32))


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
