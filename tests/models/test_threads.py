"""One core per worker, results in order, nothing left running."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import torch

from atlas.models.threads import in_order, one_core


@pytest.fixture(autouse=True)
def two_cores() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_one_core_and_back() -> None:
    with one_core() as before:
        assert (torch.get_num_threads(), before) == (1, 2)
    assert torch.get_num_threads() == 2
    with pytest.raises(RuntimeError), one_core():
        raise RuntimeError
    assert torch.get_num_threads() == 2


def test_workers_compute_on_one_core_in_order() -> None:
    def work(item: int) -> tuple[int, int]:
        time.sleep(0.01 * (3 - item))  # later items end first
        return item, torch.get_num_threads()

    with in_order(work, range(4), 4) as results:
        assert list(results) == [(0, 1), (1, 1), (2, 1), (3, 1)]


def test_leaving_early_drops_what_has_not_begun() -> None:
    begun: list[int] = []

    def work(item: int) -> None:
        begun.append(item)
        time.sleep(0.02)

    with pytest.raises(RuntimeError), in_order(work, range(50), 1) as results:
        next(results)
        raise RuntimeError
    assert len(begun) < 10
