"""Bisection over prefixes against the whole table of verdicts."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from atlas.measure.batch_size import NEIGHBOURS, longest_safe


class Prefixes:
    """A table of verdicts by size, 1 first, that counts what is asked."""

    def __init__(self, verdicts: Sequence[bool]) -> None:
        self.verdicts, self.asked = verdicts, 0

    def __call__(self, sizes: Sequence[int]) -> list[bool]:
        self.asked += len(sizes)
        return [self.verdicts[size - 1] for size in sizes]


@settings(deadline=None)
@given(safe=st.integers(0, 300), more=st.integers(0, 300))
def test_growing_damage_is_found_exactly(safe: int, more: int) -> None:
    table = Prefixes([True] * safe + [False] * more)
    found = longest_safe(table, safe + more)
    assert found.size == safe
    assert found.monotone
    assert table.asked <= (safe + more).bit_length() + 2 * NEIGHBOURS + 4


@settings(deadline=None)
@given(st.lists(st.booleans(), max_size=60))
def test_any_table_gives_a_safe_prefix_whose_neighbours_were_measured(verdicts: list[bool]) -> None:
    found = longest_safe(Prefixes(verdicts), len(verdicts))
    assert found.size == 0 or verdicts[found.size - 1]
    assert all(verdicts[size - 1] == safe for size, safe in found.verdicts.items())
    around = range(max(found.size - NEIGHBOURS, 1), min(found.size + NEIGHBOURS, len(verdicts)) + 1)
    assert set(around) <= set(found.verdicts)
    assert found.monotone == all(verdicts[size - 1] for size in found.verdicts if size <= found.size)


def test_a_hole_beside_the_found_size_is_reported() -> None:
    verdicts = [True] * 4 + [False, True] + [False] * 10
    found = longest_safe(Prefixes(verdicts), len(verdicts))
    assert found.size == 6
    assert not found.monotone


def test_no_candidate_gives_nothing() -> None:
    assert longest_safe(Prefixes([]), 0).size == 0
