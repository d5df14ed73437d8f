"""A Trace and one row of cotangents per prompt -> total effects of every neuron and input, without an autograd tape.

Every part of the replacement model is linear, so its backward pass is a product with the transposed maps: this sweep
carries one cotangent [B, T, d] (prompts, positions, d_model) through all blocks with every MLP live. The maps are read
here as well (`Maps`); direct.py carries many targets at once with the MLPs stopped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from atlas.models.adapter import Adapter, Block
from atlas.models.linear import Linear, linear, value_and_output
from atlas.models.norm import Norm, norm_of
from atlas.models.replacement import BlockTrace, Trace, activation_ratio


@dataclass(frozen=True)
class BlockMaps:
    """The linear parts of one block: d d_model, N neurons, H heads of size e, G key-value heads."""

    block: Block
    norms: dict[str, Norm]  # by role, as in Block.norms
    value: Linear  # [G * e, d]
    output: Linear  # [d, H * e]
    gate: Linear | None  # [N, d]
    up: Linear  # [N, d]
    down: Linear  # [d, N]

    def to(self, dtype: torch.dtype) -> BlockMaps:
        """The same maps in another dtype; nothing is copied when they are that already."""
        return replace(
            self,
            norms={role: norm.to(dtype) for role, norm in self.norms.items()},
            value=self.value.to(dtype),
            output=self.output.to(dtype),
            gate=None if self.gate is None else self.gate.to(dtype),
            up=self.up.to(dtype),
            down=self.down.to(dtype),
        )


@dataclass(frozen=True)
class Maps:
    """The linear parts of a model, given in at least float32; half precision is widened block by block, when asked."""

    stored: tuple[BlockMaps, ...]
    final_norm: Norm
    unembedding: Linear  # [V, d], in the model's dtype
    dtype: torch.dtype

    def block(self, index: int) -> BlockMaps:
        """One block in `dtype`; a copy of its weights for half precision."""
        return self.stored[index].to(self.dtype)

    def __len__(self) -> int:
        """Number of blocks."""
        return len(self.stored)


def linear_maps(adapter: Adapter) -> Maps:
    """Read the linear parts of a model; nothing is copied for float32 and float64."""
    dtype = torch.promote_types(adapter.dtype, torch.float32)
    return Maps(
        stored=tuple(map(_block_maps, adapter.blocks)),
        final_norm=norm_of(adapter.final_norm).to(dtype),
        unembedding=linear(adapter.unembedding),
        dtype=dtype,
    )


def total_effects(
    maps: Maps, trace: Trace, start: Tensor, visit: Callable[[int, Tensor], None]
) -> tuple[Tensor, Tensor]:
    """Carry cotangents [B, T, d] at the end of the residual stream down to the embeddings, every MLP live.

    `visit` gets (layer, dm/dh [B, T, N]) from the last layer to the first. Returns dm/d(token embedding) [B, T, d],
    equal to dm/d(position embedding), and [B] in float64: the sum of b * dm/db over every bias.
    """
    cotangent, biases = start, start.new_zeros(len(start), dtype=torch.float64)
    for index in reversed(range(len(maps))):
        block, record = maps.block(index), trace.blocks[index]
        effect, passed, share = _through_mlp(block, record, cotangent)
        visit(index, effect)
        middle = cotangent if block.block.parallel else cotangent + passed
        attended, more = _through_attention(block, record, middle)
        cotangent = middle + attended + passed if block.block.parallel else middle + attended
        biases += share + more
    return cotangent, biases


def _through_mlp(block: BlockMaps, record: BlockTrace, cotangent: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What the MLP half adds: effects of its neurons [B, T, N], cotangent before it [B, T, d], share of its biases."""
    written, share = _out_of(block, record, "mlp_out_norm", cotangent)
    effect = written @ block.down.weight
    ratio, up = activation_slope(block, record), record.up.to(effect.dtype)
    if block.gate is None or record.gate is None:
        to_up = effect * ratio
        normed = to_up @ block.up.weight
    else:
        to_gate = effect * ratio * up * 0.5
        to_up = effect * ratio * record.gate.to(effect.dtype) * 0.5
        normed = to_gate @ block.gate.weight + to_up @ block.up.weight
        share = share + _share(block.gate.bias, to_gate)
    share = share + _share(block.up.bias, to_up) + _share(block.down.bias, written)
    passed, more = _out_of(block, record, "mlp_norm", normed)
    return effect, passed, share + more


def _through_attention(block: BlockMaps, record: BlockTrace, cotangent: Tensor) -> tuple[Tensor, Tensor]:
    """Cotangent [B, T, d] after the attention half -> what arrives before it through attention, share of its biases."""
    written, share = _out_of(block, record, "attention_out_norm", cotangent)
    pattern = record.pattern.to(cotangent.dtype)
    prompts, heads, count, _ = pattern.shape
    groups = block.value.weight.shape[0] * heads // block.output.weight.shape[1]
    mixed = (written @ block.output.weight).view(prompts, count, heads, -1).transpose(1, 2)
    summed = (pattern.transpose(2, 3) @ mixed).view(prompts, groups, heads // groups, count, -1).sum(2)
    values = summed.transpose(1, 2).reshape(prompts, count, -1)
    share = share + _share(block.output.bias, written) + _share(block.value.bias, values)
    passed, more = _out_of(block, record, "attention_norm", values @ block.value.weight)
    return passed, share + more


def _out_of(block: BlockMaps, record: BlockTrace, role: str, cotangent: Tensor) -> tuple[Tensor, Tensor]:
    """Cotangent of a norm's output -> of its input, and the share of its bias; unchanged where there is no norm."""
    if role not in block.norms:
        return cotangent, cotangent.new_zeros(len(cotangent), dtype=torch.float64)
    norm, factor = block.norms[role], record.factors[role].to(cotangent.dtype)
    return norm.transpose(cotangent, factor), _share(norm.bias, cotangent)


def activation_slope(block: BlockMaps, record: BlockTrace) -> Tensor:
    """The frozen ratio act(x)/x [B, T, N] of the gate, or of z without a gate."""
    before = record.up if record.gate is None else record.gate
    return activation_ratio(block.block.act, before.to(block.up.weight.dtype))


def activation_slope_at(block: BlockMaps, record: BlockTrace, place: tuple[int, Tensor, Tensor]) -> Tensor:
    """The same [n] at (prompt, positions [n], neurons [n])."""
    before = record.up if record.gate is None else record.gate
    return activation_ratio(block.block.act, before[place].to(block.up.weight.dtype))


def _share(of: Tensor | None, cotangent: Tensor) -> Tensor:
    """Sum of b * dm/db by prompt: [B] float64."""
    if of is None:
        return cotangent.new_zeros(len(cotangent), dtype=torch.float64)
    return (cotangent @ of).sum(1, dtype=torch.float64)


def _block_maps(block: Block) -> BlockMaps:
    value, output = value_and_output(block.attention)
    return BlockMaps(
        block=block,
        norms={role: norm_of(module) for role, module in block.norms.items()},
        value=value,
        output=output,
        gate=None if block.gate is None else linear(block.gate),
        up=linear(block.up),
        down=linear(block.down),
    )
