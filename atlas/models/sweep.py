"""A Trace and rows of cotangents -> direct and total effects, without an autograd tape.

Between the MLPs the replacement model is linear in the residual stream, so the cotangents of many targets travel back
together as one array [T, K, d] (positions, targets, d_model) through frozen attention and frozen norms; the effect of
a neuron is the product of that array with its column of W_down.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from atlas.errors import ModelError
from atlas.models.adapter import Adapter, Block, bias, weight
from atlas.models.norm import Norm, norm_of
from atlas.models.replacement import BlockTrace, Trace, activation_ratio


@dataclass(frozen=True)
class Linear:
    """One linear map: weight [out, in] and bias [out] or None."""

    weight: Tensor
    bias: Tensor | None


@dataclass(frozen=True)
class BlockMaps:
    """The linear parts of one block: d d_model, N neurons, H heads of size e, G key-value heads."""

    block: Block
    attention_norm: Norm
    value: Linear  # [G * e, d]
    output: Linear  # [d, H * e]
    mlp_norm: Norm
    gate: Linear | None  # [N, d]
    up: Linear  # [N, d]
    down: Linear  # [d, N]


@dataclass(frozen=True)
class Maps:
    """The linear parts of a model, in at least float32."""

    blocks: tuple[BlockMaps, ...]
    final_norm: Norm
    unembedding: Linear  # [V, d]
    dtype: torch.dtype


@dataclass(frozen=True)
class Total:
    """Effects of everything on one metric through all paths of the replacement model."""

    neurons: Tensor  # [L, T, N] dm/dh
    embedding: Tensor  # [T, d] dm/d(token embedding), equal to dm/d(position embedding)
    biases: float  # sum of b * dm/db over every bias


@dataclass(frozen=True)
class Places:
    """Neurons at positions, each an int64 tensor [S], of one layer and sorted by position."""

    neuron: Tensor
    position: Tensor


def linear_maps(adapter: Adapter) -> Maps:
    """Read the linear parts of a model; nothing is copied for float32 and float64."""
    dtype = torch.promote_types(adapter.dtype, torch.float32)
    return Maps(
        blocks=tuple(_block_maps(block, dtype) for block in adapter.blocks),
        final_norm=_norm(adapter.final_norm, dtype),
        unembedding=_linear(adapter.unembedding, dtype),
        dtype=dtype,
    )


def metric_rows(maps: Maps, trace: Trace, tokens: Tensor, signs: Tensor, position: int) -> Tensor:
    """Cotangents [T, K, d] at the end of the residual stream of K signed logits at one position."""
    rows = maps.unembedding.weight[tokens] * signs[:, None]
    start = rows.new_zeros(len(trace.final_factor), *rows.shape)
    start[position] = maps.final_norm.transpose(rows, trace.final_factor[position].to(maps.dtype))
    return start


def total_effects(maps: Maps, trace: Trace, start: Tensor) -> Total:
    """Effects [T, 1, d] -> Total, with every MLP live (half rule, frozen ratios)."""
    cotangent, neurons, biases = start, [], 0.0
    for block, record in zip(reversed(maps.blocks), reversed(trace.blocks), strict=True):
        effect, passed, share = _through_mlp(block, record, cotangent)
        neurons.append(effect)
        cotangent, more = through_attention(block, record, cotangent + passed)
        biases += share + more
    return Total(torch.stack(neurons[::-1])[:, :, 0], cotangent[:, 0], biases)


def target_rows(block: BlockMaps, record: BlockTrace, places: Places, gradient: Tensor) -> Tensor:
    """Cotangents [T, S, d] before the MLP's norm of S neurons, each scaled by `gradient` [S] (closed form of J)."""
    neuron, position = places.neuron, places.position
    up, ratio = _at(record.up, places, gradient), _at(_ratio(block, record), places, gradient)
    if block.gate is None or record.gate is None:
        rows = ratio[:, None] * block.up.weight[neuron]
    else:
        active = ratio * _at(record.gate, places, gradient)
        rows = 0.5 * ((ratio * up)[:, None] * block.gate.weight[neuron] + active[:, None] * block.up.weight[neuron])
    factor = record.mlp_factor[position].to(gradient.dtype)
    out = rows.new_zeros(len(record.up), *rows.shape)
    out[position, torch.arange(len(neuron), device=rows.device)] = block.mlp_norm.transpose(
        rows * gradient[:, None], factor
    )
    return out


def source_effects(block: BlockMaps, cotangent: Tensor, places: Places) -> Tensor:
    """Effects [K, S] of S neurons of one layer on K targets, from the cotangents after that layer's MLP."""
    columns = block.down.weight.T
    found = [cotangent[p] @ columns[neuron].T for p, neuron in _by_position(places)]
    return torch.cat(found, dim=1) if found else cotangent.new_zeros(cotangent.shape[1], 0)


def through_attention(block: BlockMaps, record: BlockTrace, cotangent: Tensor) -> tuple[Tensor, float]:
    """Cotangents [T, K, d] after the attention half -> before it, and what its biases add (summed over K)."""
    positions, count, _ = cotangent.shape
    heads = record.pattern.shape[0]
    size = block.output.weight.shape[1] // heads
    mixed = (cotangent @ block.output.weight).view(positions, count, heads, size).permute(2, 0, 1, 3)
    groups = block.value.weight.shape[0] // size
    pattern = record.pattern.to(cotangent.dtype).transpose(1, 2)
    summed = (
        (pattern @ mixed.reshape(heads, positions, count * size))
        .view(groups, heads // groups, positions, count, size)
        .sum(1)
    )
    values = summed.permute(1, 2, 0, 3).reshape(positions, count, groups * size)
    normed = values @ block.value.weight
    share = _share(block.output.bias, cotangent) + _share(block.value.bias, values)
    share += _share(block.attention_norm.bias, normed)
    factor = record.attention_factor.to(cotangent.dtype)[:, None]
    return cotangent + block.attention_norm.transpose(normed, factor), share


def metric_biases(maps: Maps, tokens: Tensor, signs: Tensor) -> float:
    """Sum what the biases after the last block add to the metric: final norm and unembedding."""
    rows = maps.unembedding.weight[tokens] * signs[:, None]
    found = _share(maps.final_norm.bias, rows)
    return found if maps.unembedding.bias is None else found + float(maps.unembedding.bias[tokens] @ signs)


def _through_mlp(block: BlockMaps, record: BlockTrace, cotangent: Tensor) -> tuple[Tensor, Tensor, float]:
    effect = cotangent @ block.down.weight  # [T, 1, N]
    ratio = _ratio(block, record)[:, None]
    up = record.up.to(effect.dtype)[:, None]
    if block.gate is None or record.gate is None:
        to_up = effect * ratio
        normed = to_up @ block.up.weight
        share = _share(block.up.bias, to_up)
    else:
        to_gate = effect * ratio * up * 0.5
        to_up = effect * ratio * record.gate.to(effect.dtype)[:, None] * 0.5
        normed = to_gate @ block.gate.weight + to_up @ block.up.weight
        share = _share(block.gate.bias, to_gate) + _share(block.up.bias, to_up)
    share += _share(block.down.bias, cotangent) + _share(block.mlp_norm.bias, normed)
    factor = record.mlp_factor.to(effect.dtype)[:, None]
    return effect, block.mlp_norm.transpose(normed, factor), share


def _ratio(block: BlockMaps, record: BlockTrace) -> Tensor:
    before = record.up if record.gate is None else record.gate
    return activation_ratio(block.block.act, before.to(block.up.weight.dtype))


def _at(values: Tensor, places: Places, like: Tensor) -> Tensor:
    return values[places.position, places.neuron].to(like.dtype)


def _by_position(places: Places) -> Iterator[tuple[int, Tensor]]:
    positions, counts = torch.unique_consecutive(places.position, return_counts=True)
    yield from zip(positions.tolist(), torch.split(places.neuron, counts.tolist()), strict=True)


def _share(of: Tensor | None, cotangent: Tensor) -> float:
    return 0.0 if of is None else float((cotangent * of).sum())


def _block_maps(block: Block, dtype: torch.dtype) -> BlockMaps:
    value, output = _value_and_output(block, dtype)
    return BlockMaps(
        block=block,
        attention_norm=_norm(block.attention_norm, dtype),
        value=value,
        output=output,
        mlp_norm=_norm(block.mlp_norm, dtype),
        gate=None if block.gate is None else _linear(block.gate, dtype),
        up=_linear(block.up, dtype),
        down=_linear(block.down, dtype),
    )


def _value_and_output(block: Block, dtype: torch.dtype) -> tuple[Linear, Linear]:
    parts = dict(block.attention.named_children())
    if "v_proj" in parts and "o_proj" in parts:
        return _linear(parts["v_proj"], dtype), _linear(parts["o_proj"], dtype)
    if "c_attn" not in parts or "c_proj" not in parts:
        raise ModelError(
            f"{type(block.attention).__name__} is not supported: no value and output projections "
            "(v_proj and o_proj, or c_attn and c_proj); use a Llama- or GPT-2-shaped model"
        )
    # GPT-2 keeps query, key and value in one matrix, in this order.
    fused, size = _linear(parts["c_attn"], dtype), weight(parts["c_proj"]).shape[1]
    return Linear(fused.weight[2 * size :], None if fused.bias is None else fused.bias[2 * size :]), _linear(
        parts["c_proj"], dtype
    )


def _linear(module: nn.Module, dtype: torch.dtype) -> Linear:
    found = bias(module)
    return Linear(weight(module).detach().to(dtype), None if found is None else found.detach().to(dtype))


def _norm(module: nn.Module, dtype: torch.dtype) -> Norm:
    norm = norm_of(module)
    shift = None if norm.bias is None else norm.bias.detach().to(dtype)
    return replace(norm, weight=norm.weight.detach().to(dtype), bias=shift)
