"""Lists of strongest connections -> rows of the wiring table, with c_up, c_gate and lab_strength of every pair.

Only listed pairs are multiplied (40 a neuron of N): sampled products of two matrices on a sparse pattern, which read
each row where it stands; gathering the rows first took 5 times as long.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from atlas.measure.batches import work_in_order
from atlas.models.norm import Norm
from atlas.models.tensors import MlpTensors, Role
from atlas.models.toplists import unpack
from atlas.tables import SHARDS

_DIRECTIONS = pa.array(["downstream", "upstream"])


@dataclass(frozen=True)
class _Pairs:
    """Pairs of one of this layer's neurons and a neuron of another layer, as a sparse pattern."""

    start: Tensor  # [N + 1]: where each neuron's pairs begin
    other: Tensor  # neuron of the other layer, ascending for each neuron


@dataclass(frozen=True)
class _Mine:
    """This layer's matrices [N, d]: reads and writes with the gains of its own norms, and raw."""

    reads: list[Tensor]  # up and, where there is one, gate
    raw_reads: list[Tensor]
    writes: Tensor
    raw_writes: Tensor


def wiring_table(tensors: MlpTensors, layer: int, lists: Tensor, source: str, workers: int) -> pa.Table:
    """Rows of one layer from packed lists [2 directions (downstream first), 2 signs, N, top].

    Ordered by neuron, direction, polarity (+1 first) and rank. Memory: 5 matrices [d_mlp, d_model] in float32 (6 with a
    norm behind the MLP), and 2 more for each of `workers` threads.
    """
    strength, names = (part.permute(2, 0, 1, 3) for part in unpack(lists))  # [N, direction, sign, rank]
    neuron, direction, sign, rank = (strength > 0).nonzero(as_tuple=True)
    width = strength.shape[0]
    chosen = names[neuron, direction, sign, rank]
    other_layer, other = chosen // width, chosen % width
    columns = _columns(tensors, layer, (neuron, other_layer, other), workers)
    polarity = 1 - 2 * sign
    values: dict[str, Any] = {
        "layer": np.full(len(neuron), layer),
        "neuron": neuron,
        "direction": pa.DictionaryArray.from_arrays(_numpy(direction), _DIRECTIONS),
        "polarity": polarity,
        "rank": rank,
        "other_layer": other_layer,
        "other_neuron": other,
        "effective_strength": strength[neuron, direction, sign, rank] * polarity,
        "polarity_source": pa.repeat(source, len(neuron)),
        **columns,
    }
    schema = SHARDS["wiring"]
    return pa.table({name: _arrow(values[name], len(neuron)) for name in schema.names}).cast(schema)


def agreement(up: Tensor, gate: Tensor) -> Tensor:
    """|c_up| + |c_gate| with their common sign; 0 where the signs differ."""
    return torch.where(up.sign() == gate.sign(), up + gate, torch.zeros_like(up))


def _arrow(values: Any, count: int) -> pa.Array:
    if values is None:
        return pa.nulls(count)
    return values if isinstance(values, pa.Array) else pa.array(_numpy(values))


def _numpy(values: Any) -> Any:
    return values.cpu().numpy() if isinstance(values, Tensor) else values


def _columns(
    tensors: MlpTensors, layer: int, pairs: tuple[Tensor, Tensor, Tensor], workers: int
) -> dict[str, Tensor | None]:
    """c_up, c_gate and lab_strength of (neuron, other layer, other neuron); the last two None without a gate."""
    neuron, other_layer, other = pairs
    mine, width = _mine(tensors, layer), tensors.shape[0]
    order = torch.argsort((other_layer * width + neuron) * width + other)
    counts = torch.bincount(other_layer, minlength=tensors.layers).tolist()
    items = ((that, chosen) for that, chosen in enumerate(torch.split(order, counts)) if len(chosen))

    def multiply(item: tuple[int, Tensor]) -> list[Tensor]:
        that, chosen = item
        found = _pairs(neuron[chosen], other[chosen], width)
        return (_into if that < layer else _from)(tensors, mine, that, found)

    parts = [part for _, part in work_in_order(items, multiply, workers=workers)]
    names = ("c_up", "c_gate", "lab_strength") if tensors.gated else ("c_up",)
    columns: dict[str, Tensor | None] = {"c_gate": None, "lab_strength": None}
    for index, name in enumerate(names):
        columns[name] = _placed([part[index] for part in parts] or [mine.writes.new_empty(0)], order)
    return columns


def _placed(values: list[Tensor], order: Tensor) -> Tensor:
    joined = torch.cat(values)
    return torch.empty_like(joined).index_copy_(0, order, joined)


def _pairs(neuron: Tensor, other: Tensor, width: int) -> _Pairs:
    count = torch.bincount(neuron, minlength=width)
    return _Pairs(torch.cat([count.new_zeros(1), count.cumsum(0)]), other)


def _into(tensors: MlpTensors, mine: _Mine, that: int, pairs: _Pairs) -> list[Tensor]:
    """Columns of pairs whose target is this layer's neuron."""
    writes = _matrix(tensors, that, "down")
    behind = _gained(tensors.norm(that, "mlp_out_norm"), writes)
    found = [_sampled(matrix, behind, pairs) for matrix in mine.reads]
    return [*found, agreement(*(_sampled(raw, writes, pairs) for raw in mine.raw_reads))] if tensors.gated else found


def _from(tensors: MlpTensors, mine: _Mine, that: int, pairs: _Pairs) -> list[Tensor]:
    """Columns of pairs whose source is this layer's neuron; one matrix of the target's at a time."""
    arriving = _gained(tensors.norm(that, "mlp_norm"), mine.writes)
    found, raw = [], []
    for role in _roles(tensors):
        matrix = _matrix(tensors, that, role)
        found.append(_sampled(arriving, matrix, pairs))
        if tensors.gated:
            raw.append(_sampled(mine.raw_writes, matrix, pairs))
    return [*found, agreement(*raw)] if raw else found


def _mine(tensors: MlpTensors, layer: int) -> _Mine:
    raw = [_matrix(tensors, layer, role) for role in _roles(tensors)]
    writes, before = _matrix(tensors, layer, "down"), tensors.norm(layer, "mlp_norm")
    reads = [m if before is None else before.to(m.dtype, m.device).transpose(m, 1.0) for m in raw]
    return _Mine(reads, raw, _gained(tensors.norm(layer, "mlp_out_norm"), writes), writes)


def _roles(tensors: MlpTensors) -> tuple[Role, ...]:
    return ("up", "gate") if tensors.gated else ("up",)


def _matrix(tensors: MlpTensors, layer: int, role: Role) -> Tensor:
    """Gate, up, or the columns of down, [N, d] in at least float32."""
    stored = tensors.weight(layer, role)
    stored = stored.T if role == "down" else stored
    return stored.to(tensors.device, torch.promote_types(stored.dtype, torch.float32)).contiguous()


def _gained(norm: Norm | None, writes: Tensor) -> Tensor:
    """What neurons write [N, d] behind a norm, its factor left out."""
    if norm is None:
        return writes
    norm = norm.to(writes.dtype, writes.device)
    return norm.linear(writes, 1.0) if norm.centred else writes * norm.weight


def _sampled(mine: Tensor, others: Tensor, pairs: _Pairs) -> Tensor:
    """Products mine[i] . others[j] of the pairs, in their order."""
    size = (len(mine), len(others))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse (CSR|invariant)", category=UserWarning)
        pattern = torch.sparse_csr_tensor(
            pairs.start, pairs.other, mine.new_zeros(len(pairs.other)), size, check_invariants=False
        )
    products: Tensor = torch.sparse.sampled_addmm(pattern, mine, others.T, beta=0.0).values()
    return products
