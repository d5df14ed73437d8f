"""Input rows of neurons and token embeddings -> the tokens that each row reads most strongly, by weights alone.

What an MLP of layer l reads when the residual stream before it holds the embedding e_t of token t and nothing else:
x_t = norm_l(e_t), with the norm before that MLP, its own scale at e_t included (RMSNorm: gain * e_t / rms(e_t),
LayerNorm: centred first). The value is the share of the token in a pre-activation, row . x_t: of the gate (W_gate) and
of what is gated (W_up), or of the single input map of an ungated MLP (called up). A gated neuron's activation is
act(gate) * up, so gate tokens open it and up tokens give it its sign.

e_t is what the embedding module gives: the input embedding where it is not tied, times Gemma's scale; position
embeddings (GPT-2) are left out. Constants that are the same for all tokens (biases of norm and map) are left out too.
Where no norm stands before the MLP (OLMo-2, OLMo-3), x_t = e_t. Attention and earlier MLPs have no part in it, so the
lists say most in the first layers; token_edges have what flowed directly in real texts.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from atlas.errors import ModelError
from atlas.models.adapter import Adapter
from atlas.models.norm import Norm
from atlas.models.ranking import largest
from atlas.models.sweep import BlockMaps, Maps, linear_maps
from atlas.models.threads import in_order, one_core
from atlas.progress import Progress, Quiet
from atlas.shards import Shard, new_shard
from atlas.tables import SHARDS

_CELLS = 1 << 24  # pre-activations held at once: 64 MB in float32
# A gate that a token closes is next to 0 (SiLU, GELU), however far: only what opens it is listed.
_LISTS = {"gate": (1,), "up": (1, -1)}

_Kind = tuple[float, bool] | None  # epsilon and centring of the norm before the MLP: what decides x_t but for the gain


@torch.no_grad()
def measure(adapter: Adapter, root: Path, *, shard: Shard, top: int = 10, progress: Progress | None = None) -> None:
    """Write read_tokens for the neurons of this shard's layers.

    Polarity +1: the `top` largest values, -1 (part 'up' only): the `top` smallest; rank 0 is the strongest; ties go to
    the smaller token id; only values of that sign are listed. Memory: the embeddings once in float32, and for each
    thread 64 MB and the input rows of a layer where the model is in half precision.
    """
    maps, shown = linear_maps(adapter), progress or Quiet()
    layers, read = shard.span(len(maps)), _embeddings(adapter, maps)
    with new_shard(root, shard) as draft, one_core() as cores:
        draft.rows["read_tokens"] = 0
        path = draft.folder / "read_tokens.parquet"
        with (
            pq.ParquetWriter(path, SHARDS["read_tokens"], compression="zstd") as writer,
            in_order(lambda layer: _layer_table(maps, read, layer, top), layers, cores) as tables,
            shown.task("read tokens", len(layers), "layers") as task,
        ):
            for table in tables:
                writer.write_table(table)
                draft.rows["read_tokens"] += table.num_rows
                task.advance()


def _embeddings(adapter: Adapter, maps: Maps) -> dict[_Kind, Tensor]:
    """x_t without the gain, [V, d], for every kind of norm; one kind in every family."""
    count = min(len(adapter.embedding.weight), adapter.spec.vocab)  # type: ignore[arg-type]
    rows = adapter.embedding(torch.arange(count, device=adapter.device)).to(maps.dtype)
    norms = {_kind(norm): norm for norm in map(_norm, maps.stored)}
    return {kind: rows if norm is None else _without_gain(norm, maps.dtype)(rows) for kind, norm in norms.items()}


def _without_gain(norm: Norm, dtype: torch.dtype) -> Norm:
    return replace(norm, weight=torch.ones_like(norm.weight, dtype=dtype), bias=None)


def _norm(block: BlockMaps) -> Norm | None:
    return block.norms.get("mlp_norm")


def _kind(norm: Norm | None) -> _Kind:
    return None if norm is None else (norm.eps, norm.centred)


@torch.no_grad()
def _layer_table(maps: Maps, read: dict[_Kind, Tensor], layer: int, top: int) -> pa.Table:
    """Rows of one layer, ordered by neuron, part (gate first), polarity (+1 first) and rank."""
    block = maps.block(layer)
    norm, maps_in = _norm(block), {"gate": block.gate, "up": block.up}
    tokens = read[_kind(norm)]
    rows = {
        part: found.weight if norm is None else found.weight * norm.weight
        for part, found in maps_in.items() if found is not None
    }  # fmt: skip
    step = max(1, _CELLS // len(tokens))
    batches = zip(*(torch.split(each, step) for each in rows.values()), strict=True)
    lists = [_lists(dict(zip(rows, batch, strict=True)), tokens, top) for batch in batches]
    value, token = (torch.cat(parts) for parts in zip(*lists, strict=True))  # [N, lists, top]
    if not torch.isfinite(value).all():
        raise ModelError(f"read tokens of layer {layer} are not finite; check the embeddings and the MLP's input rows")
    return _table(layer, [(part, sign) for part in rows for sign in _LISTS[part]], value, token)


def _lists(rows: dict[str, Tensor], tokens: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """Values times their sign, and tokens, of every list of these neurons, [n, lists, top]."""
    found = []
    for part, weights in rows.items():
        reads = weights @ tokens.T
        found += [largest(reads if sign > 0 else -reads, top) for sign in _LISTS[part]]
    return torch.stack([f[0] for f in found], 1), torch.stack([f[1] for f in found], 1)


def _table(layer: int, lists: list[tuple[str, int]], value: Tensor, token: Tensor) -> pa.Table:
    neuron, place, rank = (index.cpu().numpy() for index in (value > 0).nonzero(as_tuple=True))
    part, sign = (np.array(column) for column in zip(*lists, strict=True))
    listed = (neuron, place, rank)
    columns = {
        "layer": np.full(len(neuron), layer),
        "neuron": neuron,
        "part": part[place],
        "polarity": sign[place],
        "rank": rank,
        "token_id": token.cpu().numpy()[listed],
        "value": value.cpu().numpy()[listed] * sign[place],
    }
    return pa.table(columns).cast(SHARDS["read_tokens"])
