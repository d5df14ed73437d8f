"""Tensors in safetensors files -> exact statistics of each, at the speed of reading.

Files are read once, in blocks that stay in a core's cache until they are summed, by as many threads as there are cores;
neither their number nor the size of what is read changes a bit of the result. Memory is a block per thread, whatever
the model's size. Neither torch nor pyarrow is imported, which would take longer than a small model does.
"""

from __future__ import annotations

import math
import os
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import FileIO
from typing import Any

from atlas.errors import ModelError
from atlas.measure.weight_sums import BLOCK, BlockSums, Scratch, block_sums, joined, new_scratch
from atlas.models.stored import FLOATS, Stored
from atlas.progress import Progress, Quiet, Task

_PIECE = 64 * BLOCK  # numbers that a thread reads before it takes other work: 16 MB in float32
_THREADS = 8  # beyond that the memory is busy, not the cores

Row = dict[str, Any]
_Piece = tuple[Stored, int]  # a tensor, and its first number that is summed


def weight_statistics(
    tensors: Sequence[Stored], *, threads: int | None = None, progress: Progress | None = None
) -> list[Row]:
    """Rows of weight_stats of stored tensors, by layer and name: names end before ".weight".

    Magnitudes are |w|, std is over the whole tensor (population), l2 is Frobenius. `threads` None: one per usable core,
    at most 8. Raises ModelError for a file that is cut while it is read, and for numbers that are not finite.
    """
    pieces = [(tensor, first) for tensor in tensors for first in range(0, tensor.size, _PIECE)]
    blocks: dict[str, list[BlockSums]] = defaultdict(list)
    total = sum(tensor.nbytes for tensor in tensors)
    with (progress or Quiet()).task("weights", total, "bytes") as task, _workers(threads or _cores()) as pool:
        for (tensor, _), found in zip(pieces, pool.map(_Reader(), pieces), strict=True):
            blocks[tensor.name] += found
            _advance(task, tensor, found)
    rows = [_row(tensor, blocks[tensor.name]) for tensor in tensors]
    return sorted(rows, key=lambda row: (row["layer"], row["name"]))


class _Reader:
    """Called with a piece: its blocks' sums; every thread keeps its own memory."""

    def __init__(self) -> None:
        self._held = threading.local()

    def __call__(self, piece: _Piece) -> list[BlockSums]:
        if not hasattr(self._held, "scratch"):
            self._held.scratch = new_scratch()
        scratch, (tensor, first) = self._held.scratch, piece
        last = min(first + _PIECE, tensor.size)
        with tensor.path.open("rb", buffering=0) as file:
            file.seek(tensor.start + first * FLOATS[tensor.dtype])
            return [_block(file, tensor, min(BLOCK, last - at), scratch) for at in range(first, last, BLOCK)]


def _block(file: FileIO, tensor: Stored, count: int, scratch: Scratch) -> BlockSums:
    wanted, done = scratch.raw.data[: count * FLOATS[tensor.dtype]], 0
    while done < len(wanted):
        read = file.readinto(wanted[done:])
        if not read:
            raise ModelError(
                f"{tensor.path} ends within {tensor.name}: it was cut while it was read; download it again"
            )
        done += read
    return block_sums(scratch, count, tensor.dtype)


@contextmanager
def _workers(threads: int) -> Iterator[ThreadPoolExecutor]:
    """Threads; leaving early (an error, Ctrl-C) drops what has not begun."""
    pool = ThreadPoolExecutor(threads)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _cores() -> int:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(usable, _THREADS)


def _advance(task: Task, tensor: Stored, blocks: Sequence[BlockSums]) -> None:
    task.advance(sum(block.size for block in blocks) * FLOATS[tensor.dtype])


def _row(tensor: Stored, blocks: Sequence[BlockSums]) -> Row:
    found = joined(blocks)
    if not math.isfinite(found.max_magnitude):
        where = f" of layer {tensor.layer}" if tensor.layer >= 0 else ""
        raise ModelError(f"the weights {tensor.name}{where} are not finite; download the model again")
    return {"name": tensor.name.removesuffix(".weight"), "layer": tensor.layer, **found._asdict()}
