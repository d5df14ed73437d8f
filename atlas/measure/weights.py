"""Weight files -> exact statistics of every tensor, and the weight norms of every neuron.

Tensors are read one at a time and summed in float64 piece by piece, on one core, so the numbers do not depend on the
machine. A tensor that a checkpoint ties to another one is stored, and counted, once.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pyarrow as pa
import torch
from safetensors import safe_open
from torch import Tensor

from atlas.errors import InputError, ModelError
from atlas.models.adapter import Adapter
from atlas.models.linear import Linear
from atlas.models.sweep import BlockMaps, linear_maps
from atlas.models.threads import one_core
from atlas.progress import Progress, Quiet
from atlas.shards import Shard, new_shard
from atlas.tables import SHARDS

_PIECE = 1 << 22  # numbers summed at once: 32 MB in float64
_LAYER = re.compile(r"(?:^|\.)(\d+)(?:\.|$)")

_Read = Callable[[], Tensor]


@torch.no_grad()
def measure(
    adapter: Adapter, folder: Path | None, root: Path, *, shard: Shard, progress: Progress | None = None
) -> None:
    """Write weight_stats of this shard's tensors (sorted by name) and neuron_weights of its layers.

    `folder` holds the safetensors files; None takes the tensors of the model in memory. Integer and empty tensors are
    left out. gate_norm is NULL for ungated models.
    """
    maps = linear_maps(adapter)
    with ExitStack() as stack:
        tensors = _model_tensors(adapter) if folder is None else _file_tensors(folder, stack)
        names = sorted(tensors)
        owned = [names[i] for i in shard.span(len(names))]
        layers = shard.span(len(maps))
        draft = stack.enter_context(new_shard(root, shard))
        stack.enter_context(one_core())
        task = stack.enter_context((progress or Quiet()).task("weights", len(owned) + len(layers), "tensors"))
        stats = []
        for name in owned:
            tensor = tensors[name]()
            stats += [tensor_statistics(name, tensor)] if tensor.is_floating_point() and tensor.numel() else []
            task.advance()
        draft.write("weight_stats", pa.Table.from_pylist(stats, schema=SHARDS["weight_stats"]))
        neurons = [SHARDS["neuron_weights"].empty_table()]
        for layer in layers:
            neurons.append(_neuron_table(layer, maps.block(layer)))
            task.advance()
        draft.write("neuron_weights", pa.concat_tables(neurons))


def tensor_statistics(name: str, tensor: Tensor) -> dict[str, str | int | float]:
    """One row of weight_stats: magnitudes are |w|, std is over the whole tensor (population), l2 is Frobenius."""
    count, non_zero, total, squares, low, high = tensor.numel(), 0, 0.0, 0.0, math.inf, 0.0
    for piece in torch.split(tensor.reshape(-1), _PIECE):
        size = piece.double().abs()
        non_zero += int(size.count_nonzero())
        total, squares = total + float(size.sum()), squares + float(size.square().sum())
        low, high = min(low, float(size.min())), max(high, float(size.max()))
    mean = total / count
    layer = _LAYER.search(name)
    if not math.isfinite(squares):  # a NaN or infinite number in the tensor
        where = f" of layer {layer[1]}" if layer else ""
        raise ModelError(f"the weights {name}{where} are not finite; download the model again")
    return {
        "name": name.removesuffix(".weight"),
        "layer": int(layer[1]) if layer else -1,
        "total_parameters": count,
        "non_zero_parameters": non_zero,
        "sparsity": 1 - non_zero / count,
        "mean_magnitude": mean,
        "std_magnitude": math.sqrt(max(0.0, squares / count - mean * mean)),
        "min_magnitude": low,
        "max_magnitude": high,
        "l1_norm": total,
        "l2_norm": math.sqrt(squares),
    }


def _model_tensors(adapter: Adapter) -> dict[str, _Read]:
    return {name: parameter.detach for name, parameter in adapter.model.named_parameters()}


def _file_tensors(folder: Path, stack: ExitStack) -> dict[str, _Read]:
    """Readers of all tensors of a folder's safetensors files; nothing is read yet."""
    found: dict[str, _Read] = {}
    for path in sorted(folder.glob("*.safetensors")):
        file = stack.enter_context(safe_open(path, framework="pt"))
        found |= {name: partial(file.get_tensor, name) for name in file.keys()}  # noqa: SIM118
    if not found:
        raise InputError(f"no *.safetensors with tensors in {folder}; give the model's folder")
    return found


def _neuron_table(layer: int, block: BlockMaps) -> pa.Table:
    inputs = [block.up] if block.gate is None else [block.gate, block.up]
    parts = [part for linear in inputs for part in _rows(linear)] + [block.down.weight.T]
    total = torch.stack([part.double().abs().sum(1) for part in parts]).sum(0)
    columns = {
        "layer": [layer] * len(total),
        "neuron": range(len(total)),
        "weight_magnitude": (total / sum(part.shape[1] for part in parts)).cpu().numpy(),
        "gate_norm": pa.nulls(len(total)) if block.gate is None else _norms(block.gate.weight),
        "up_norm": _norms(block.up.weight),
        "output_norm": _norms(block.down.weight.T),
    }
    return pa.table(columns).cast(SHARDS["neuron_weights"])


def _rows(linear: Linear) -> list[Tensor]:
    return [linear.weight] if linear.bias is None else [linear.weight, linear.bias[:, None]]


def _norms(rows: Tensor) -> pa.Array:
    return pa.array(rows.double().square().sum(1).sqrt().cpu().numpy())
