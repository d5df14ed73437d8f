"""Torch on one core for a while, so that sums do not depend on how many cores a machine has."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


@contextmanager
def one_core() -> Iterator[int]:
    """Compute every torch operation on one core inside the block; yields the number of cores it had before."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield before
    finally:
        torch.set_num_threads(before)


@contextmanager
def in_order(function: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[Iterator[Result]]:
    """Map a function over items in `workers` threads of one core each, results in order.

    Leaving the block early (an error, Ctrl-C) drops what has not begun.
    """
    pool = ThreadPoolExecutor(max(1, workers), initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield pool.map(function, items)
    finally:
        pool.shutdown(cancel_futures=True)
