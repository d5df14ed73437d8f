"""Output directions of neurons -> the tokens each one promotes and suppresses, and the vocabulary as text.

One unit of a neuron adds its column of W_down to the residual stream; seen through the final norm's gain and the
unembedding this is a change of every logit, up to the norm's positive scale: (w * v) @ W_U^T, with v centred first
when the final norm is a LayerNorm (which removes the mean). nostalgebraist 2020, "interpreting GPT: the logit lens".
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from atlas.errors import ModelError
from atlas.models.adapter import Adapter, token_texts
from atlas.models.ranking import largest
from atlas.models.sweep import Maps, linear_maps
from atlas.models.threads import in_order, one_core
from atlas.progress import Progress, Quiet
from atlas.shards import Shard, new_shard
from atlas.tables import SHARDS

_CELLS = 1 << 24  # logits held at once: 64 MB in float32


@torch.no_grad()
def measure(adapter: Adapter, root: Path, *, shard: Shard, top: int = 20, progress: Progress | None = None) -> None:
    """Write logit_lens for the neurons of this shard's layers, and vocab (in shard 0; empty in the others).

    Polarity +1: the `top` largest changes, -1: the `top` smallest; rank 0 is the strongest; value in logits per unit
    of activation before the scales of the norms between. Ties go to the smaller token id. Only changes of that sign
    are listed.
    """
    maps, shown = linear_maps(adapter), progress or Quiet()
    layers = shard.span(len(maps))
    with new_shard(root, shard) as draft, one_core() as cores:
        draft.write("vocab", _vocab(adapter) if shard.index == 0 else SHARDS["vocab"].empty_table())
        draft.rows["logit_lens"] = 0
        path = draft.folder / "logit_lens.parquet"
        with (
            pq.ParquetWriter(path, SHARDS["logit_lens"], compression="zstd") as writer,
            in_order(lambda layer: _layer_table(maps, layer, top), layers, cores) as tables,
            shown.task("logit lens", len(layers), "layers") as task,
        ):
            for table in tables:
                writer.write_table(table)
                draft.rows["logit_lens"] += table.num_rows
                task.advance()


def _vocab(adapter: Adapter) -> pa.Table:
    texts = token_texts(adapter.tokenizer, adapter.spec.vocab)
    return pa.table({"token_id": np.arange(len(texts)), "token": texts})


@torch.no_grad()
def _layer_table(maps: Maps, layer: int, top: int) -> pa.Table:
    """Rows of one layer, ordered by neuron, polarity (+1 first) and rank."""
    block, unembedding = maps.block(layer), maps.unembedding.weight.to(maps.dtype)
    directions = block.down.weight.T
    if (norm := block.norms.get("mlp_out_norm")) is not None:
        directions = norm.linear(directions, 1.0)
    batches = torch.split(maps.final_norm.linear(directions, 1.0), max(1, _CELLS // len(unembedding)))
    lists = [_both_ends(batch @ unembedding.T, top) for batch in batches]
    value, token = (torch.cat(parts) for parts in zip(*lists, strict=True))  # [N, 2, top]
    if not torch.isfinite(value).all():
        raise ModelError(f"logit lens of layer {layer} is not finite; check the weights of W_down and the unembedding")
    return _rows(layer, value, token)


def _both_ends(change: Tensor, top: int) -> tuple[Tensor, Tensor]:
    found = [largest(signed, top) for signed in (change, -change)]
    return torch.stack([f[0] for f in found], 1), torch.stack([f[1] for f in found], 1)


def _rows(layer: int, value: Tensor, token: Tensor) -> pa.Table:
    neuron, sign, rank = (value > 0).nonzero(as_tuple=True)
    polarity = 1 - 2 * sign
    columns = {
        "layer": np.full(len(neuron), layer),
        "neuron": neuron.cpu().numpy(),
        "polarity": polarity.cpu().numpy(),
        "rank": rank.cpu().numpy(),
        "token_id": token[neuron, sign, rank].cpu().numpy(),
        "value": (value[neuron, sign, rank] * polarity).cpu().numpy(),
    }
    return pa.table(columns).cast(SHARDS["logit_lens"])
