"""Weights (and calibration means) -> each neuron's strongest connections to earlier and later MLPs.

A connection m -> n is what neuron m writes, read by neuron n at the same token through the residual stream, with the
gain of n's norm folded in: c_up and c_gate. Its strength is A_n * c_gate + B_n * c_up with A_n = E[r u act'(g)] and
B_n = E[r act(g)] from the activation pass; without them it is |c_up| + |c_gate| with their common sign, 0 when the
signs differ. Tiles (source layer, target layer) pass through a running top list per neuron, so memory does not grow
with the number of tiles.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from atlas.errors import InputError, ModelError
from atlas.models.adapter import Adapter
from atlas.models.ranking import largest, ordered
from atlas.models.sweep import BlockMaps, linear_maps
from atlas.models.threads import in_order, one_core
from atlas.progress import Progress, Quiet
from atlas.shards import Shard, new_shard, shard_files
from atlas.tables import SHARDS

_ROWS = 512  # target neurons of one piece of a tile; with 11,008 source neurons 22 MB in float32
_PAIRS = 1 << 14  # listed pairs whose columns are recomputed at once
_DIRECTIONS = ("downstream", "upstream")


@dataclass(frozen=True)
class Calibration:
    """Means over the corpus, [layers, neurons]: A = E[r u act'(g)] (None: ungated), B = E[r act(g)] (or r act'(z))."""

    gate_mean: NDArray[np.float64] | None
    up_mean: NDArray[np.float64]


@dataclass(frozen=True)
class _Readers:
    """What the neurons of one layer read and write; all [N, d] in at least float32."""

    up: Tensor  # with the norm's gain
    gate: Tensor | None
    raw_up: Tensor
    raw_gate: Tensor | None
    writes: Tensor
    combined: Tensor | None  # A * gate + B * up: one product instead of two; None without calibration


@dataclass
class _Lists:
    """Running lists of one layer's neurons in one direction: strengths and packed ids [2 signs, N, top]."""

    strength: Tensor
    other: Tensor

    def merge(self, sign: int, strength: Tensor, other: Tensor) -> None:
        """Keep the strongest of what is there and [N, K] new ones."""
        top = self.strength.shape[2]
        values, names = ordered(torch.cat([self.strength[sign], strength], 1), torch.cat([self.other[sign], other], 1))
        self.strength[sign], self.other[sign] = values[:, :top], names[:, :top]


def read_calibration(activations: Path) -> Calibration:
    """Calibration means from the neuron_stats of complete activation shards, summed in shard order.

    Raises ShardError when shards are missing or damaged.
    """
    names = ["layer", "neuron", "n_tokens", "calib_gate", "calib_up"]
    tables = [pq.read_table(path, columns=names) for path in shard_files(activations, "neuron_stats")]
    gate, up, tokens = (
        np.sum([_grid(table, name) for table in tables], axis=0) for name in ("calib_gate", "calib_up", "n_tokens")
    )
    if not np.all(tokens):
        raise InputError(f"{activations} holds neurons without tokens; measure the activations on a larger corpus")
    gated = tables[0]["calib_gate"].null_count == 0
    return Calibration(gate / tokens if gated else None, up / tokens)


@torch.no_grad()
def measure(
    adapter: Adapter,
    calibration: Calibration | None,
    root: Path,
    *,
    shard: Shard,
    top: int = 10,
    progress: Progress | None = None,
) -> None:
    """Write the lists of the neurons of this shard's layers: up to `top` per direction and sign.

    Positive strengths are polarity +1, negative ones -1; zeros are not listed, so a list may be shorter. Ties go to
    the smaller (layer, neuron). lab_strength comes from the raw weights, NULL for ungated models. Attention paths
    are not part of it. Memory: the weights in float32 and the lists of the shard's layers.
    """
    shown = progress or Quiet()
    readers = _all_readers(adapter, calibration)
    owned = set(shard.span(len(readers)))
    source = "weights_only" if calibration is None else "calibrated"
    with new_shard(root, shard) as draft, one_core() as cores:
        lists = _ranked(readers, owned, (top, cores), shown)
        with pq.ParquetWriter(draft.folder / "wiring.parquet", SHARDS["wiring"], compression="zstd") as writer:
            draft.rows["wiring"] = 0
            for layer in sorted(owned):
                table = _table(readers, layer, [lists[direction, layer] for direction in _DIRECTIONS], source)
                writer.write_table(table)
                draft.rows["wiring"] += table.num_rows
        draft.facts["polarity_source"] = source


def strengths(reader: _Readers, writes: Tensor, rows: slice) -> Tensor:
    """Strengths [n, M] of the connections from M writing neurons to n reading ones."""
    if reader.combined is not None:
        return reader.combined[rows] @ writes.T
    up = reader.up[rows] @ writes.T
    return up if reader.gate is None else agreement(up, reader.gate[rows] @ writes.T)


def agreement(up: Tensor, gate: Tensor) -> Tensor:
    """|c_up| + |c_gate| with their common sign; 0 where the signs differ."""
    return torch.where(up.sign() == gate.sign(), up + gate, torch.zeros_like(up))


def _grid(table: pa.Table, name: str) -> NDArray[np.float64]:
    layer, neuron = table["layer"].to_numpy(), table["neuron"].to_numpy()
    grid = np.zeros((layer.max() + 1, neuron.max() + 1))
    grid[layer, neuron] = table[name].to_numpy(zero_copy_only=False)
    return grid


def _all_readers(adapter: Adapter, calibration: Calibration | None) -> list[_Readers]:
    spec = adapter.spec
    if calibration is not None and calibration.up_mean.shape != (spec.layers, spec.d_mlp):
        raise InputError(
            f"calibration is for {calibration.up_mean.shape} (layers, neurons), {spec.name} has "
            f"{(spec.layers, spec.d_mlp)}; measure the activations of this model"
        )
    maps = linear_maps(adapter)
    found = [_readers(maps.block(layer), calibration) for layer in range(len(maps))]
    for layer, reader in enumerate(found):
        parts = (reader.up, reader.gate, reader.writes, reader.combined)
        if not all(part is None or bool(torch.isfinite(part).all()) for part in parts):
            raise ModelError(f"MLP weights or calibration of layer {layer} are not finite; check the model's weights")
    return found


def _readers(block: BlockMaps, calibration: Calibration | None) -> _Readers:
    up = _folded(block, block.up.weight)
    gate = None if block.gate is None else _folded(block, block.gate.weight)
    combined = None
    if calibration is not None:
        combined = _means(calibration.up_mean, block, up) * up
        if gate is not None and calibration.gate_mean is not None:
            combined = combined + _means(calibration.gate_mean, block, up) * gate
    return _Readers(
        up=up,
        gate=gate,
        raw_up=block.up.weight,
        raw_gate=None if block.gate is None else block.gate.weight,
        writes=block.down.weight.T,
        combined=combined,
    )


def _folded(block: BlockMaps, rows: Tensor) -> Tensor:
    norm = block.norms.get("mlp_norm")
    return rows if norm is None else norm.transpose(rows, 1.0)


def _means(means: NDArray[np.float64], block: BlockMaps, like: Tensor) -> Tensor:
    return torch.from_numpy(means[block.block.index]).to(like)[:, None]


def _ranked(
    readers: list[_Readers], owned: set[int], size: tuple[int, int], progress: Progress | Quiet
) -> dict[tuple[str, int], _Lists]:
    top, cores = size
    lists = {(d, layer): _empty(readers[layer], top) for d in _DIRECTIONS for layer in sorted(owned)}
    pieces = list(_pieces(readers, owned))

    def rank(piece: tuple[int, int, slice]) -> list[tuple[tuple[str, int], slice, int, Tensor, Tensor]]:
        return list(_ranked_piece(readers, owned, piece, top))

    with in_order(rank, pieces, cores) as results, progress.task("wiring", len(pieces), "tiles") as task:
        for found in results:
            for key, rows, sign, strength, other in found:
                _merge_rows(lists[key], rows, (sign, strength, other))
            task.advance()
    return lists


def _pieces(readers: list[_Readers], owned: set[int]) -> Iterator[tuple[int, int, slice]]:
    """(source layer, target layer, target rows) of every tile that touches an owned layer."""
    for target in range(len(readers)):
        for source in range(target):
            if source in owned or target in owned:
                count = len(readers[target].up)
                yield from ((source, target, slice(i, min(i + _ROWS, count))) for i in range(0, count, _ROWS))


def _ranked_piece(
    readers: list[_Readers], owned: set[int], piece: tuple[int, int, slice], top: int
) -> Iterator[tuple[tuple[str, int], slice, int, Tensor, Tensor]]:
    """Best lists of one piece: (list, rows of it, sign index, strengths, packed ids)."""
    source, target, rows = piece
    values = strengths(readers[target], readers[source].writes, rows)
    width = len(readers[source].writes)
    for sign, signed in enumerate((values, -values)):
        if target in owned:
            strength, column = largest(signed, top)
            yield ("upstream", target), rows, sign, strength, column + source * width
        if source in owned:
            strength, column = largest(signed.T, top)
            yield ("downstream", source), slice(0, width), sign, strength, column + target * width + rows.start


def _merge_rows(lists: _Lists, rows: slice, new: tuple[int, Tensor, Tensor]) -> None:
    sign, strength, other = new
    part = _Lists(lists.strength[:, rows], lists.other[:, rows])  # views: merging writes through
    part.merge(sign, strength, other)


def _empty(reader: _Readers, top: int) -> _Lists:
    shape = (2, len(reader.up), top)
    return _Lists(reader.up.new_zeros(shape), torch.full(shape, -1, dtype=torch.int64, device=reader.up.device))


def _table(readers: list[_Readers], layer: int, lists: list[_Lists], source: str) -> pa.Table:
    """Rows of one layer, ordered by neuron, direction, polarity (+1 first) and rank."""
    strength = torch.stack([found.strength for found in lists]).permute(2, 0, 1, 3)  # [N, direction, sign, rank]
    other = torch.stack([found.other for found in lists]).permute(2, 0, 1, 3)
    neuron, direction, sign, rank = (strength > 0).nonzero(as_tuple=True)
    chosen = other[neuron, direction, sign, rank]
    width = len(readers[layer].up)
    columns = _columns(readers, (layer, neuron), (chosen // width, chosen % width))
    values: dict[str, Any] = {
        "layer": np.full(len(neuron), layer),
        "neuron": neuron.cpu().numpy(),
        "direction": np.array(_DIRECTIONS)[direction.cpu().numpy()],
        "polarity": 1 - 2 * sign.cpu().numpy(),
        "rank": rank.cpu().numpy(),
        "other_layer": (chosen // width).cpu().numpy(),
        "other_neuron": (chosen % width).cpu().numpy(),
        "effective_strength": (strength[neuron, direction, sign, rank] * (1 - 2 * sign)).cpu().numpy(),
        "polarity_source": np.full(len(neuron), source),
        **{name: None if column is None else column.cpu().numpy() for name, column in columns.items()},
    }
    schema = SHARDS["wiring"]
    arrays = {n: pa.nulls(len(neuron)) if values[n] is None else pa.array(values[n]) for n in schema.names}
    return pa.table(arrays).cast(schema)


def _columns(
    readers: list[_Readers], mine: tuple[int, Tensor], other: tuple[Tensor, Tensor]
) -> dict[str, Tensor | None]:
    """c_up, c_gate and lab_strength of listed pairs, computed pair by pair."""
    layer, neuron = mine
    gated = readers[layer].gate is not None
    found = {name: readers[layer].up.new_zeros(len(neuron)) for name in ("c_up", "c_gate", "lab_strength")}
    for other_layer in torch.unique(other[0]).tolist():
        earlier = other_layer < layer  # the list is 'upstream' exactly when the other is the source
        source, target = (other_layer, layer) if earlier else (layer, other_layer)
        for index in torch.split((other[0] == other_layer).nonzero()[:, 0], _PAIRS):
            ends = (other[1][index], neuron[index]) if earlier else (neuron[index], other[1][index])
            for name, value in _pair_columns(readers[target], readers[source].writes[ends[0]], ends[1]).items():
                found[name][index] = value
    return {"c_up": found["c_up"], **{n: found[n] if gated else None for n in ("c_gate", "lab_strength")}}


def _pair_columns(reader: _Readers, writes: Tensor, target: Tensor) -> dict[str, Tensor]:
    found = {"c_up": (reader.up[target] * writes).sum(1)}
    if reader.gate is not None and reader.raw_gate is not None:
        found["c_gate"] = (reader.gate[target] * writes).sum(1)
        raw = ((reader.raw_up[target] * writes).sum(1), (reader.raw_gate[target] * writes).sum(1))
        found["lab_strength"] = agreement(*raw)
    return found
