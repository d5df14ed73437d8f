"""MLP matrices of a model -> the weight norms of every neuron, layer by layer, without loading the model.

A neuron's own weights are its rows of gate and up, their biases, and its column of down: sums along rows and along
columns, each in one pass over numbers widened a few MB at a time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from atlas.errors import InputError, ModelError
from atlas.models.linear import Linear, linear
from atlas.models.stored import Checkpoint
from atlas.models.tensors import MlpTensors, in_files
from atlas.progress import Progress, Quiet
from atlas.tables import SHARDS

_PIECE = 1 << 17  # numbers widened at once: 1 MB, which stays in a core's own cache

Doubles = npt.NDArray[np.float64]


def neuron_rows(
    checkpoint: Checkpoint, *, layer: int | None = None, progress: Progress | None = None
) -> list[dict[str, Any]]:
    """Rows of all neurons, or those of one layer: layer_index, neuron_index, weight_magnitude, weight_rank, norms.

    weight_rank 1 is the largest weight_magnitude of the layer. Raises InputError for a layer that does not exist, and
    the errors of `neuron_weights`.
    """
    require_unscaled(checkpoint)
    tensors = in_files(checkpoint.folder, device="cpu")
    if layer is not None and not 0 <= layer < tensors.layers:
        raise InputError(f"layer {layer} is out of range: {tensors.name} has layers 0..{tensors.layers - 1}")
    layers, rows = range(tensors.layers) if layer is None else [layer], []
    with (progress or Quiet()).task("neuron weights", len(layers), "layers") as task:
        for one in layers:
            rows += _ranked(neuron_weights(tensors, one).to_pylist())
            task.advance()
    return rows


def require_unscaled(checkpoint: Checkpoint) -> None:
    """Raise ModelError for fp8 whose scales are tensors of their own: a neuron has no norm in the stored numbers."""
    if checkpoint.scaled:
        raise ModelError(
            f"the weights in {checkpoint.folder} are fp8 with scales, which are not multiplied in here; "
            "save the model in bfloat16 first"
        )


@torch.no_grad()
def neuron_weights(tensors: MlpTensors, layer: int) -> pa.Table:
    """Table neuron_weights of one layer: mean |w| over a neuron's own weights, L2 norms of its gate, up and out.

    gate_norm is NULL for ungated models. Raises ModelError for weights that are not finite.
    """
    block = tensors.blocks[layer]
    inputs = {role: linear(tensors.fill(module)) for role, module in (("gate", block.gate), ("up", block.up)) if module}
    down = linear(tensors.fill(block.down)).weight.T
    sums = {role: _sums(part.weight) for role, part in inputs.items()} | {"out": _sums(down)}
    biases = [_bias(part) for part in inputs.values() if part.bias is not None]
    total: Doubles = np.sum([*(found[0] for found in sums.values()), *biases], axis=0)
    width = sum(part.weight.shape[1] for part in inputs.values()) + down.shape[1] + len(biases)
    if not np.isfinite(total).all():
        raise ModelError(f"the MLP weights of layer {layer} are not finite; download the model again")
    norms = {role: pa.array(np.sqrt(found[1])) for role, found in sums.items()}
    columns = {
        "layer": [layer] * len(total),
        "neuron": range(len(total)),
        "weight_magnitude": total / width,
        "gate_norm": norms.get("gate", pa.nulls(len(total))),
        "up_norm": norms["up"],
        "output_norm": norms["out"],
    }
    return pa.table(columns).cast(SHARDS["neuron_weights"])


def _ranked(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    order = sorted(found, key=lambda row: (-row["weight_magnitude"], row["neuron"]))
    ranks = {row["neuron"]: rank for rank, row in enumerate(order, 1)}
    return [
        {
            "layer_index": row["layer"],
            "neuron_index": row["neuron"],
            "weight_magnitude": row["weight_magnitude"],
            "weight_rank": ranks[row["neuron"]],
            **{name: row[name] for name in ("gate_norm", "up_norm", "output_norm")},
        }
        for row in found
    ]


def _sums(weight: Tensor) -> tuple[Doubles, Doubles]:
    """Sums of |w| and of w^2 over every row; a transposed view is read as it is stored."""
    rows = weight.is_contiguous()
    stored = weight if rows else weight.T.contiguous()
    pieces = [_piece_sums(piece, axis=int(rows)) for piece in torch.split(stored, max(1, _PIECE // stored.shape[1]))]
    join = np.concatenate if rows else np.sum
    size, squares = (join(part, axis=0) for part in zip(*pieces, strict=True))
    return size, squares


def _piece_sums(piece: Tensor, axis: int) -> tuple[Doubles, Doubles]:
    wide = piece.to(torch.float64, copy=True).numpy()
    size = np.abs(wide, out=wide).sum(axis)
    return size, np.square(wide, out=wide).sum(axis)


def _bias(part: Linear) -> Doubles:
    assert part.bias is not None
    found: Doubles = part.bias.double().abs().numpy()
    return found
