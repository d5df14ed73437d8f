"""Running lists against sorting everything, in pieces, with ties, from stale floors."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from atlas.models.toplists import empty_lists, floors, merge, strongest, unpack

TOP = 5


def brute(lines: Tensor, sign: int) -> list[list[tuple[float, int]]]:
    """The TOP largest positive numbers of each line, equal ones by place."""
    found = [[(sign * float(v), i) for i, v in enumerate(line) if sign * v > 0] for line in lines]
    return [sorted(line, key=lambda pair: (-pair[0], pair[1]))[:TOP] for line in found]


def listed(lists: Tensor, sign: int) -> list[list[tuple[float, int]]]:
    strength, names = (part[(1 - sign) // 2].tolist() for part in unpack(lists))
    return [[(v, i) for v, i in zip(a, b, strict=True) if v > 0] for a, b in zip(strength, names, strict=True)]


@pytest.mark.parametrize("shape", [(64, 96), (40, 14), (512, 33), (7, 1)])
@pytest.mark.parametrize("axis", ["rows", "columns"])
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("stale", [False, True])
def test_lists_equal_sorting(shape: tuple[int, int], axis, ties: bool, stale: bool) -> None:  # type: ignore[no-untyped-def]
    tile = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    tile = (2 * tile).round() if ties else tile
    lines = tile if axis == "rows" else tile.T
    lists = empty_lists(len(lines), TOP, tile.device)
    step, floor = max(lines.shape[1] // 3, 1), floors(lists)
    for start in range(0, lines.shape[1], step):
        part = lines[:, start : start + step]
        piece = (part if axis == "rows" else part.T).contiguous()
        found = strongest(piece, floor, axis=axis, first_id=start, top=TOP)
        floor = floors(lists) if stale else floor  # as of before this piece
        merge(lists, found)
        floor = floor if stale else floors(lists)
    for sign in (1, -1):
        assert listed(lists, sign) == brute(lines, sign)


def test_more_equal_numbers_than_are_merged_at_once() -> None:
    lists = empty_lists(2, TOP, torch.device("cpu"))
    merge(lists, strongest(torch.ones(2, 200), floors(lists), axis="rows", first_id=7, top=TOP))
    assert listed(lists, 1) == [[(1.0, 7 + i) for i in range(TOP)]] * 2
    assert listed(lists, -1) == [[], []]


def test_large_ids_keep_their_order() -> None:
    lists, first = empty_lists(1, TOP, torch.device("cpu")), (1 << 32) - 11
    merge(lists, strongest(torch.full((1, 10), 0.5), floors(lists), axis="rows", first_id=first, top=TOP))
    assert listed(lists, 1) == [[(0.5, first + i) for i in range(TOP)]]
