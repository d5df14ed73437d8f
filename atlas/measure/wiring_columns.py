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
from atlas.models.tensors import MlpTensors, Role
from atlas.models.toplists import unpack
from atlas.tables import SHARDS

_DIRECTIONS = pa.array(["downstream", "upstream"])


@dataclass(frozen=True)
class _Pairs:
    """Pairs of one of this layer's neurons and a neuron of another layer, as a sparse pattern."""

    start: Tensor  # [N + 1]: where each neuron's pairs begin
    other: Tensor  # neuron of the other layer, ascending for each neuron


def wiring_table(tensors: MlpTensors, layer: int, lists: Tensor, source: str, workers: int) -> pa.Table:
    """Rows of one layer from packed lists [2 directions (downstream first), 2 signs, N, top].

    Ordered by neuron, direction, polarity (+1 first) and rank. Memory: 3 matrices [d_mlp, d_model] in float32, and 2 more
    for each of `workers` threads.
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
    up = _matrix(tensors, layer, "up")
    gate = _matrix(tensors, layer, "gate") if tensors.gated else None
    writes, width = _matrix(tensors, layer, "down"), len(up)
    order = torch.argsort((other_layer * width + neuron) * width + other)
    counts = torch.bincount(other_layer, minlength=tensors.layers).tolist()
    items = ((that, chosen) for that, chosen in enumerate(torch.split(order, counts)) if len(chosen))

    def multiply(item: tuple[int, Tensor]) -> list[Tensor]:
        that, chosen = item
        found = _pairs(neuron[chosen], other[chosen], width)
        if that < layer:
            return _into(tensors, (that, layer), (up, gate, _matrix(tensors, that, "down")), found)
        return _from(tensors, (layer, that), writes, found)

    parts = [part for _, part in work_in_order(items, multiply, workers=workers)]
    names = ("c_up", "c_gate", "lab_strength") if tensors.gated else ("c_up",)
    columns: dict[str, Tensor | None] = {"c_gate": None, "lab_strength": None}
    for index, name in enumerate(names):
        columns[name] = _placed([part[index] for part in parts] or [up.new_empty(0)], order)
    return columns


def _placed(values: list[Tensor], order: Tensor) -> Tensor:
    joined = torch.cat(values)
    return torch.empty_like(joined).index_copy_(0, order, joined)


def _pairs(neuron: Tensor, other: Tensor, width: int) -> _Pairs:
    count = torch.bincount(neuron, minlength=width)
    return _Pairs(torch.cat([count.new_zeros(1), count.cumsum(0)]), other)


def _into(
    tensors: MlpTensors, ends: tuple[int, int], matrices: tuple[Tensor, Tensor | None, Tensor], pairs: _Pairs
) -> list[Tensor]:
    """Columns of pairs whose target is this layer's neuron."""
    up, gate, writes = matrices
    folded = _arriving(tensors, ends, writes)
    found = [_sampled(matrix, folded, pairs) for matrix in (up, gate) if matrix is not None]
    raw = [_sampled(matrix, writes, pairs) for matrix in (up, gate) if matrix is not None and gate is not None]
    return [*found, agreement(*raw)] if raw else found


def _from(tensors: MlpTensors, ends: tuple[int, int], writes: Tensor, pairs: _Pairs) -> list[Tensor]:
    """Columns of pairs whose source is this layer's neuron; one matrix of the target's at a time."""
    folded = _arriving(tensors, ends, writes)
    found, raw = [], []
    roles: tuple[Role, ...] = ("up", "gate") if tensors.gated else ("up",)
    for role in roles:
        matrix = _matrix(tensors, ends[1], role)
        found.append(_sampled(folded, matrix, pairs))
        if tensors.gated:
            raw.append(_sampled(writes, matrix, pairs))
    return [*found, agreement(*raw)] if raw else found


def _matrix(tensors: MlpTensors, layer: int, role: Role) -> Tensor:
    """Gate, up, or the columns of down, [N, d] in at least float32."""
    stored = tensors.weight(layer, role)
    stored = stored.T if role == "down" else stored
    return stored.to(tensors.device, torch.promote_types(stored.dtype, torch.float32)).contiguous()


def _arriving(tensors: MlpTensors, ends: tuple[int, int], writes: Tensor) -> Tensor:
    """What the source's neurons write [N, d] behind its norm and before the target's, both factors left out."""
    behind, before = tensors.norm(ends[0], "mlp_out_norm"), tensors.norm(ends[1], "mlp_norm")
    for norm in (behind, before):
        if norm is not None:
            writes = norm.to(writes.dtype, tensors.device).linear(writes, 1.0)
    return writes


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
