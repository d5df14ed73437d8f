"""A model folder -> shards of the weight analysis: statistics of every tensor, weight norms of every neuron.

Both are read from the files, tensor by tensor; the model is not loaded.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from atlas.measure.neuron_weights import neuron_weights, require_unscaled
from atlas.measure.weight_files import weight_statistics
from atlas.models.stored import stored_tensors
from atlas.models.tensors import MlpTensors
from atlas.progress import Progress, Quiet
from atlas.shards import Shard, new_shard
from atlas.tables import SHARDS


def measure(tensors: MlpTensors, folder: Path, root: Path, *, shard: Shard, progress: Progress | None = None) -> None:
    """Write weight_stats of this shard's tensors (sorted by name) and neuron_weights of its layers.

    What the folder's files hold besides their floating parameters is left out and noted. gate_norm is NULL for ungated
    models. Raises the errors of `stored_tensors`; ModelError, naming the layer, for weights that are not finite and for
    fp8 with scales, whose neurons have no norm in the stored numbers.
    """
    progress = progress or Quiet()
    checkpoint, layers = stored_tensors(folder), shard.span(tensors.layers)
    require_unscaled(checkpoint)
    owned = [checkpoint.tensors[i] for i in shard.span(len(checkpoint.tensors))]
    for note in checkpoint.notes:
        progress.note(note)
    with new_shard(root, shard) as draft:
        stats = sorted(weight_statistics(owned, progress=progress), key=lambda row: str(row["name"]))
        draft.write("weight_stats", pa.Table.from_pylist(stats, schema=SHARDS["weight_stats"]))
        found = [SHARDS["neuron_weights"].empty_table()]
        with progress.task("neuron weights", len(layers), "layers") as task:
            for layer in layers:
                found.append(neuron_weights(tensors, layer))
                task.advance()
        draft.write("neuron_weights", pa.concat_tables(found))
