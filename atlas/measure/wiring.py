"""MLP weights (and calibration means) -> each neuron's strongest connections to earlier and later MLPs.

A connection m -> n is what neuron m writes, read by neuron n at the same token through the residual stream, with the
gains of the norms in between folded in: c_up and c_gate. Its strength is A_n * c_gate + B_n * c_up with
A_n = E[r u act'(g)] and B_n = E[r act(g)] from the activation pass, r being the factor of the norm before n's MLP.
Where a norm stands behind m's MLP, the strength is also multiplied by the mean E[r_m] of that norm's factor: an
approximation, which takes r_m and n's regime as independent. Without calibration the strength is |c_up| + |c_gate| with
their common sign, 0 when the signs differ. Attention paths are not part of it.

Tiles (source layer, target layer) are computed in pieces of some target neurons, and what a piece may add to the
running lists is picked out while it is in the cache (atlas.models.toplists). GROUP target layers are held while the
source layers stream past, so a source is read layers / GROUP times.

Memory, with M = one matrix [d_mlp, d_model] in float32 (180 MB for a 7B model) and N = d_mlp: about GROUP + 3 times M
(2 GROUP + 3 without calibration; up to 14 in the last part with 4 threads), PIECE numbers for each thread (twice that
without calibration), and lists of 320 N bytes for each of the shard's layers (7B: 3.5 MB). A Python process with torch
is 300 MB more. Nothing else grows with the number of layers.
"""

from __future__ import annotations

import threading
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
from atlas.measure.batches import work_in_order
from atlas.measure.wiring_columns import agreement, wiring_table
from atlas.models.tensors import MlpTensors
from atlas.models.threads import one_core
from atlas.models.toplists import Axis, Found, empty_lists, floors, merge, strongest
from atlas.progress import Progress, Quiet
from atlas.shards import REPEATED, Shard, ShardDraft, new_shard, shard_files
from atlas.tables import SHARDS

GROUP = 4  # target layers held at once
PIECE = {"cpu": 1 << 23, "cuda": 1 << 26}  # numbers of one piece of a tile: 32 MB for each thread, 256 MB on a GPU
_FEWEST = 256  # target neurons of a piece: enough blocks to bound the lists of the columns
_COLUMN_WORKERS = 4  # threads of the last part, each of which holds two matrices
_STEP = 1024  # neurons whose weights are folded at once
_AXES: tuple[tuple[str, Axis], ...] = (("downstream", "columns"), ("upstream", "rows"))

Lists = dict[tuple[str, int], Tensor]  # (direction, layer) -> packed lists [2 signs, N, top] (toplists)


@dataclass(frozen=True)
class Calibration:
    """Means over the corpus: A = E[r u act'(g)] (None: ungated) and B = E[r act(g)] (or r act'(z)), [layers, neurons].

    out_mean [layers] = E[r_s] of the norm behind each layer's MLP; None for models without one.
    """

    gate_mean: NDArray[np.float64] | None
    up_mean: NDArray[np.float64]
    out_mean: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class _Piece:
    """Some target neurons of one tile; `reads` is one matrix [N, d], or up and gate; `writes` is [d, N]."""

    source: int
    target: int
    rows: slice
    reads: tuple[Tensor, ...]
    writes: Tensor
    floors: dict[str, Tensor]  # direction -> [2, lines], for the owned layers


@dataclass(frozen=True)
class _Ranking:
    """One run: what is read, whose lists are made, and how long they are."""

    tensors: MlpTensors
    calibration: Calibration | None
    owned: frozenset[int]
    top: int
    lists: Lists
    scratch: threading.local


def read_calibration(activations: Path) -> Calibration:
    """Calibration means from the neuron_stats of complete activation shards, summed in shard order.

    Raises ShardError when shards are missing or damaged.
    """
    names = ["layer", "neuron", "n_tokens", "calib_gate", "calib_up", "calib_out"]
    tables = [pq.read_table(path, columns=names) for path in shard_files(activations, "neuron_stats")]
    gate, up, out, tokens = (
        np.sum([_grid(table, name) for table in tables], axis=0)
        for name in ("calib_gate", "calib_up", "calib_out", "n_tokens")
    )
    if not np.all(tokens):
        raise InputError(f"{activations} holds neurons without tokens; measure the activations on a larger corpus")
    gated, behind = (tables[0][name].null_count == 0 for name in ("calib_gate", "calib_out"))
    return Calibration(gate / tokens if gated else None, up / tokens, (out / tokens)[:, 0] if behind else None)


@torch.no_grad()
def measure(
    tensors: MlpTensors,
    calibration: Calibration | None,
    root: Path,
    *,
    shard: Shard,
    top: int = 10,
    progress: Progress | None = None,
) -> None:
    """Write the lists of the neurons of this shard's layers: up to `top` per direction and sign.

    Positive strengths are polarity +1, negative ones -1; zeros are not listed, so a list may be shorter. Strengths are
    compared in float32; ties go to the smaller (layer, neuron). lab_strength comes from the raw weights, NULL for
    ungated models. Rows are ordered by layer, neuron, direction, polarity (+1 first) and rank, and no bit depends on
    the number of threads or shards. Raises ModelError for weights that are not finite, InputError for a calibration
    of another model. Memory: see the module.
    """
    if top < 1:
        raise InputError(f"top is {top}; use at least 1")
    _check_calibration(tensors, calibration)
    owned = frozenset(shard.span(tensors.layers))
    source = "weights_only" if calibration is None else "calibrated"
    with new_shard(root, shard) as draft:
        with one_core() as cores:
            workers = cores if tensors.device.type == "cpu" else 1
            lists = _ranked(tensors, calibration, owned, top, workers=workers, progress=progress or Quiet())
            _write(draft, tensors, lists, source, min(workers, _COLUMN_WORKERS))
        draft.facts["polarity_source"] = source


def _write(draft: ShardDraft, tensors: MlpTensors, lists: Lists, source: str, workers: int) -> None:
    schema, layers = SHARDS["wiring"], sorted({layer for _, layer in lists})
    repeated = [name for name in schema.names if name in REPEATED]
    draft.rows["wiring"] = 0
    path = draft.folder / "wiring.parquet"
    with pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=repeated) as writer:
        for layer in layers:
            both = torch.stack([lists.pop((direction, layer)) for direction, _ in _AXES])
            table = wiring_table(tensors, layer, both, source, workers)
            writer.write_table(table)
            draft.rows["wiring"] += table.num_rows


def _grid(table: pa.Table, name: str) -> NDArray[np.float64]:
    layer, neuron = table["layer"].to_numpy(), table["neuron"].to_numpy()
    grid = np.zeros((layer.max() + 1, neuron.max() + 1))
    grid[layer, neuron] = table[name].to_numpy(zero_copy_only=False)
    return grid


def _check_calibration(tensors: MlpTensors, calibration: Calibration | None) -> None:
    if calibration is None:
        return
    expected = (tensors.layers, tensors.shape[0])
    if calibration.up_mean.shape != expected:
        raise InputError(
            f"calibration is for {calibration.up_mean.shape} (layers, neurons), {tensors.name} has "
            f"{expected}; measure the activations of this model"
        )
    if tensors.has_out_norm != (calibration.out_mean is not None):
        there = "has a norm" if tensors.has_out_norm else "has no norm"
        raise InputError(
            f"{tensors.name} {there} behind its MLPs, the calibration is for the other kind; measure again"
        )


def _ranked(
    tensors: MlpTensors,
    calibration: Calibration | None,
    owned: frozenset[int],
    top: int,
    *,
    workers: int,
    progress: Progress | Quiet,
) -> Lists:
    width = tensors.shape[0]
    lists = {(d, layer): empty_lists(width, top, tensors.device) for d, _ in _AXES for layer in sorted(owned)}
    ranking = _Ranking(tensors, calibration, owned, top, lists, threading.local())
    tiles = sum(len(_sources(ranking, target)) for target in range(tensors.layers))
    with progress.task("wiring", tiles, "tiles") as task:
        for piece, found in work_in_order(_pieces(ranking), lambda p: _rank(ranking, p), workers=workers):
            for direction, entries in found:
                merge(lists[direction, _owner(piece, direction)][:, _lines(piece, direction)], entries)
            if piece.rows.stop == width:
                task.advance()
    return lists


def _sources(ranking: _Ranking, target: int) -> list[int]:
    """Source layers of the tiles of one target layer that touch an owned layer."""
    return [s for s in range(target) if s in ranking.owned or target in ranking.owned]


def _pieces(ranking: _Ranking) -> Iterator[_Piece]:
    """Every piece: for each list, other layers come in ascending order, and so do their neurons."""
    layers = ranking.tensors.layers
    for first in range(0, layers, GROUP):
        wanted = {t: set(_sources(ranking, t)) for t in range(first, min(first + GROUP, layers))}
        reads = {t: _reads(ranking, t) for t, sources in wanted.items() if sources}
        for source in sorted(set().union(*wanted.values())):
            writes = _writes(ranking, source)
            for target in (t for t in reads if source in wanted[t]):
                for rows in _row_pieces(ranking):
                    piece = _Piece(source, target, rows, reads[target], writes, {})
                    yield _with_floors(ranking, piece)


def _row_pieces(ranking: _Ranking) -> list[slice]:
    width = ranking.tensors.shape[0]
    count = max(PIECE[ranking.tensors.device.type] // width // 32 * 32, _FEWEST)  # 32: whole blocks
    return [slice(i, min(i + count, width)) for i in range(0, width, count)]


def _with_floors(ranking: _Ranking, piece: _Piece) -> _Piece:
    """Floors as they are now: later ones are higher, so a piece finds too much at worst."""
    for direction, _ in _AXES:
        if _owner(piece, direction) in ranking.owned:
            part = ranking.lists[direction, _owner(piece, direction)][:, _lines(piece, direction)]
            piece.floors[direction] = floors(part)
    return piece


def _owner(piece: _Piece, direction: str) -> int:
    return piece.source if direction == "downstream" else piece.target


def _lines(piece: _Piece, direction: str) -> slice:
    return slice(None) if direction == "downstream" else piece.rows


def _rank(ranking: _Ranking, piece: _Piece) -> list[tuple[str, Found]]:
    """What one piece may add to the lists of its owned layers."""
    tile = _strengths(ranking, piece)
    width = ranking.tensors.shape[0]
    first = {"downstream": piece.target * width + piece.rows.start, "upstream": piece.source * width}
    return [
        (direction, strongest(tile, piece.floors[direction], axis=axis, first_id=first[direction], top=ranking.top))
        for direction, axis in _AXES
        if direction in piece.floors
    ]


def _strengths(ranking: _Ranking, piece: _Piece) -> Tensor:
    """Strengths [rows, N] of one piece in float32."""
    products = []
    for index, matrix in enumerate(piece.reads):
        rows = matrix[piece.rows]
        out = _buffer(ranking, index, (len(rows), piece.writes.shape[1]), rows)
        products.append(torch.mm(rows, piece.writes, out=out))
    found = products[0] if len(products) == 1 else agreement(*products)
    return found.float()


def _buffer(ranking: _Ranking, index: int, shape: tuple[int, int], like: Tensor) -> Tensor:
    """A thread's own memory for a product: fresh pages cost as much as a look through the piece."""
    held: dict[Any, Tensor] = ranking.scratch.__dict__
    size = shape[0] * shape[1]
    if index not in held or len(held[index]) < size:
        held[index] = like.new_empty(size)
    return held[index][:size].view(shape)


def _reads(ranking: _Ranking, layer: int) -> tuple[Tensor, ...]:
    """What the strength of a connection into each neuron is a product with: [N, d], gains folded in."""
    tensors, means = ranking.tensors, ranking.calibration
    up = tensors.weight(layer, "up")
    gate = tensors.weight(layer, "gate") if tensors.gated else None
    if means is None:
        found = tuple(_folded(tensors, layer, [(w, None)]) for w in (up, gate) if w is not None)
    else:
        parts = [(up, means.up_mean[layer])]
        if gate is not None and means.gate_mean is not None:
            parts.append((gate, means.gate_mean[layer]))
        found = (_folded(tensors, layer, parts),)
    for matrix in found:
        _check_finite(matrix, layer)
    return found


def _folded(tensors: MlpTensors, layer: int, parts: list[tuple[Tensor, NDArray[np.float64] | None]]) -> Tensor:
    """Sum of matrices [N, d], each row times its mean, with the gain of the norm before the MLP."""
    norm, dtype = tensors.norm(layer, "mlp_norm"), _wide(parts[0][0])
    found = torch.empty(parts[0][0].shape, dtype=dtype, device=tensors.device)
    norm = None if norm is None else norm.to(dtype, tensors.device)
    for start in range(0, len(found), _STEP):
        rows = slice(start, start + _STEP)
        total = found[rows].zero_()
        for matrix, means in parts:
            part = matrix[rows].to(tensors.device, dtype)
            total += part if means is None else part * torch.from_numpy(means[rows, None]).to(part)
        if norm is not None:
            found[rows] = norm.transpose(total, 1.0)
    return found


def _writes(ranking: _Ranking, layer: int) -> Tensor:
    """What each neuron adds to the residual stream, [d, N]; with the gain, and the mean factor, of a norm behind."""
    tensors, means = ranking.tensors, ranking.calibration
    down = tensors.weight(layer, "down")
    found = down.to(tensors.device, _wide(down))
    norm = tensors.norm(layer, "mlp_out_norm")
    if norm is not None:
        factor = 1.0 if means is None or means.out_mean is None else float(means.out_mean[layer])
        found = norm.to(found.dtype, tensors.device).linear(found.T, factor).T
    _check_finite(found, layer)
    return found


def _wide(stored: Tensor) -> torch.dtype:
    return torch.promote_types(stored.dtype, torch.float32)


def _check_finite(matrix: Tensor, layer: int) -> None:
    if not all(bool(torch.isfinite(end)) for end in torch.aminmax(matrix)):
        raise ModelError(f"MLP weights or calibration of layer {layer} are not finite; check the model's weights")
