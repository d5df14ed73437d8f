"""Tiles of connection strengths -> running lists of the strongest of every row and column, of both signs.

A list entry is one int64: the bits of a positive float32 strength above, 2^32 - 1 - id below. Such numbers order by
strength descending, then id ascending, so the largest of them is the best entry and no tie is left to chance. Most of
a tile is never looked at: the maximum of every block of it is, and only blocks that beat their line's floor are opened.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd
from typing import Literal

import torch
from torch import Tensor

_BLOCK = 16  # numbers of a block; 8 and 32 cost the same within noise on tiles of 512 x 8192
_WIDE = 64  # new entries of one line that are merged at once: bounds the memory of many equal strengths
_LARGEST_ID = (1 << 32) - 1

Axis = Literal["rows", "columns"]


@dataclass(frozen=True)
class Found:
    """Entries that may belong on a list, all [S]: index of the sign (0 = positive), line, packed entry.

    Those of one list stand together.
    """

    sign: Tensor
    line: Tensor
    entry: Tensor


def empty_lists(lines: int, top: int, device: torch.device) -> Tensor:
    """Empty lists [2 signs, lines, top] of packed entries, strongest first; 0 is no entry."""
    return torch.zeros(2, lines, top, dtype=torch.int64, device=device)


def floors(lists: Tensor) -> Tensor:
    """Strengths [2, lines] that a new entry must exceed; 0 where a list is not full."""
    return (lists[..., -1] >> 32).int().view(torch.float32)


def unpack(entries: Tensor) -> tuple[Tensor, Tensor]:
    """Strengths (float32) and ids of packed entries of any shape; strength 0 marks no entry."""
    return (entries >> 32).int().view(torch.float32), _LARGEST_ID - (entries & _LARGEST_ID)


def strongest(tile: Tensor, floor: Tensor, *, axis: Axis, first_id: int, top: int) -> Found:
    """Find what may belong on the lists of a tile's rows (or columns): a superset of the `top` best of each line.

    tile: [R, C] float32, contiguous; floor: [2 signs, lines]; first_id: id of the first number of a line. Entries of a
    later tile with the strength of the list's last must have larger ids: they are not found.
    """
    rows, columns = tile.shape
    length = columns if axis == "rows" else rows
    size = gcd(length, _BLOCK)
    count = length // size
    # the numbers of a block stand `step` apart: strided maxima over rows are as fast as those over columns
    cut = tile.view(rows, size, count) if axis == "rows" else tile.view(count, size, columns)
    maxima = tile.new_empty(2, cut.shape[0], cut.shape[2])
    torch.amax(cut, 1, out=maxima[0])
    torch.amin(cut, 1, out=maxima[1]).neg_()
    if axis == "columns":
        maxima = maxima.transpose(1, 2)
    floor = _raised(maxima, floor, top)
    sign, line, block = (maxima > floor[..., None]).nonzero(as_tuple=True)
    values = cut[line, :, block] if axis == "rows" else cut[block, :, line]
    values.mul_((1 - 2 * sign)[:, None])
    hit, at = (values > floor[sign, line][:, None]).nonzero(as_tuple=True)
    sign, line, block, value = sign[hit], line[hit], block[hit], values[hit, at]
    place = block + at * count if axis == "rows" else block * size + at
    return Found(sign, line, _pack(value, place + first_id))


def merge(lists: Tensor, found: Found) -> None:
    """Put entries on lists [2, lines, top], in place; an entry must not be on its list already."""
    place, count = torch.unique_consecutive(found.sign * lists.shape[1] + found.line, return_counts=True)
    if not len(place):
        return
    row = torch.repeat_interleave(torch.arange(len(place), device=place.device), count)
    slot = torch.arange(len(row), device=place.device) - (count.cumsum(0) - count)[row]
    where = (place // lists.shape[1], place % lists.shape[1])
    for first in range(0, int(count.max()), _WIDE):
        part = (slot >= first) & (slot < first + _WIDE)
        _merge_part(lists, where, (row[part], slot[part] - first, found.entry[part]))


def _merge_part(lists: Tensor, where: tuple[Tensor, Tensor], new: tuple[Tensor, Tensor, Tensor]) -> None:
    row, slot, entry = new
    top = lists.shape[2]
    wide = torch.zeros(len(where[0]), top + int(slot.max()) + 1, dtype=torch.int64, device=lists.device)
    wide[:, :top] = lists[where]
    wide[row, top + slot] = entry
    lists[where] = wide.topk(top, dim=1).values


def _raised(maxima: Tensor, floor: Tensor, top: int) -> Tensor:
    """While lists are not full, the `top`-th largest block maximum of a line bounds its `top` best from below."""
    if maxima.shape[2] < top or bool((floor > 0).all()):
        return floor
    bound = maxima.contiguous().topk(top, dim=2).values[..., -1]
    just_below = torch.nextafter(bound, torch.full_like(bound, -torch.inf))
    return torch.maximum(floor, just_below)


def _pack(strength: Tensor, names: Tensor) -> Tensor:
    return (strength.contiguous().view(torch.int32).long() << 32) | (_LARGEST_ID - names)
