"""Vectors of the residual stream at many positions -> the same behind or before a block's frozen attention.

What is carried stands in one matrix [rows, d_model]: items that begin at similar positions of one prompt form a bundle
[items, window, d_model], window being the positions that they can reach, and the bundles follow one another. Gains of
norms are folded into the value and output maps and their frozen scales into the pattern, so that a block costs two
products with V and O, one small product with the pattern for each bundle, and nothing else that is large.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from atlas.models.replacement import BlockTrace
from atlas.models.sweep import BlockMaps

Joining = tuple[Tensor, Tensor]  # vectors [n, d] and their positions in the prompt [n]


@dataclass(frozen=True)
class Bundle:
    """Items of one prompt that reach the positions `start`..`stop` - 1, in the order in which they join."""

    job: int
    prompt: int
    start: int
    stop: int
    items: Tensor  # [n] which items of the job
    joined: tuple[int, ...]  # by step: how many have joined after it

    @property
    def width(self) -> int:
        """Positions of the window."""
        return self.stop - self.start

    def part(self, step: int) -> slice:
        """The items that join at a step."""
        return slice(self.joined[step - 1] if step else 0, self.joined[step])


class Packed:
    """The matrix of all bundles, growing as items join."""

    def __init__(self, bundles: Sequence[Bundle], like: Tensor) -> None:
        """`like` [d] gives width, dtype and device."""
        self._bundles = bundles
        self._counts = [0] * len(bundles)
        self._rows = like.new_empty(0, len(like))

    def each(self) -> Iterator[tuple[Bundle, Tensor]]:
        """Every bundle with its rows so far, a view [items, window, d]."""
        for bundle, rows in zip(self._bundles, torch.split(self._rows, self._sizes()), strict=True):
            if len(rows):
                yield bundle, rows.view(-1, bundle.width, rows.shape[1])

    def join(self, step: int, new: Sequence[Joining | None]) -> None:
        """Add, by bundle, the items of a step."""
        if not any(found is not None for found in new):
            return
        old = torch.split(self._rows, self._sizes())
        self._counts = [bundle.joined[step] for bundle in self._bundles]
        sizes = self._sizes()
        packed = self._rows.new_empty(sum(sizes), self._rows.shape[1])
        for bundle, into, rows, found in zip(self._bundles, torch.split(packed, sizes), old, new, strict=True):
            into[: len(rows)] = rows
            if found is not None:
                into[len(rows) :] = 0
                vectors, position = found
                place = torch.arange(len(vectors), device=into.device) * bundle.width + position - bundle.start
                into[len(rows) + place] = vectors
        self._rows = packed

    def back_through_attention(self, block: BlockMaps, record: BlockTrace) -> None:
        """Cotangents behind the attention half -> before it."""
        if len(self._rows):
            self._through(folded_output(block), folded_value(block), _Heads.of(block, record), forward=False)

    def forward_through_attention(self, block: BlockMaps, record: BlockTrace) -> None:
        """Changes before the attention half -> behind it."""
        if len(self._rows):
            self._through(folded_value(block).T, folded_output(block).T, _Heads.of(block, record), forward=True)

    def _through(self, first: Tensor, second: Tensor, heads: _Heads, *, forward: bool) -> None:
        inner = self._rows @ first
        outer = inner if len(second) == inner.shape[1] else inner.new_empty(len(inner), len(second))
        parts = zip(self._bundles, torch.split(inner, self._sizes()), torch.split(outer, self._sizes()), strict=True)
        for bundle, rows, into in parts:
            if len(rows):
                window = slice(bundle.start, bundle.stop)
                pattern = heads.patterns[bundle.prompt, :, window, window]
                mix, count = _mix_forward if forward else _mix_back, len(rows) // bundle.width
                mix(pattern, *(x.view(count, bundle.width, -1, heads.size) for x in (rows, into)))
        self._rows.addmm_(outer, second)

    def _sizes(self) -> list[int]:
        return [count * bundle.width for count, bundle in zip(self._counts, self._bundles, strict=True)]


@dataclass(frozen=True)
class _Heads:
    """Patterns [B, H, T, T] with the scales of the norms around attention, and the size of a head."""

    patterns: Tensor
    size: int

    @classmethod
    def of(cls, block: BlockMaps, record: BlockTrace) -> _Heads:
        patterns = record.pattern.to(block.value.weight.dtype)
        if "attention_norm" in block.norms:  # by key
            patterns = patterns * record.factors["attention_norm"].to(patterns.dtype).transpose(1, 2)[:, None]
        if "attention_out_norm" in block.norms:  # by query
            patterns = patterns * record.factors["attention_out_norm"].to(patterns.dtype)[:, None]
        return cls(patterns, block.output.weight.shape[1] // patterns.shape[1])


def folded_output(block: BlockMaps) -> Tensor:
    """O [d, H * e] with the gain of the norm on attention's output."""
    norm = block.norms.get("attention_out_norm")
    return block.output.weight if norm is None else norm.linear(block.output.weight.T, 1.0).T


def folded_value(block: BlockMaps) -> Tensor:
    """V [G * e, d] with the gain (and centring) of the norm before attention."""
    norm = block.norms.get("attention_norm")
    return block.value.weight if norm is None else norm.transpose(block.value.weight, 1.0)


def _mix_back(pattern: Tensor, rows: Tensor, into: Tensor) -> None:
    """P^T on every head: pattern [H, W, W], rows [n, W, H, e] -> into [n, W, G, e], summed over a group's heads."""
    count, width, heads, size = rows.shape
    groups = into.shape[2]
    shared = heads // groups
    by_head = rows.view(count, width, groups, shared, size).permute(2, 3, 1, 0, 4).reshape(groups, shared * width, -1)
    back = pattern.reshape(groups, shared * width, width).transpose(1, 2) @ by_head
    into.copy_(back.view(groups, width, count, size).permute(2, 1, 0, 3))


def _mix_forward(pattern: Tensor, rows: Tensor, into: Tensor) -> None:
    """P on every head: pattern [H, W, W], rows [n, W, G, e] -> into [n, W, H, e]."""
    count, width, groups, size = rows.shape
    shared = into.shape[2] // groups
    by_group = rows.permute(2, 1, 0, 3).reshape(groups, width, -1)
    mixed = (pattern.reshape(groups, shared * width, width) @ by_group).view(groups, shared, width, count, size)
    into.view(count, width, groups, shared, size).copy_(mixed.permute(3, 2, 0, 1, 4))
