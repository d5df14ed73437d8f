"""Documents -> fixed blocks -> padded batches of contexts, the same whatever the number of shards or workers.

A block is `block_documents` consecutive documents of the whole corpus. Batches are formed inside a block from contexts
of similar length, so the numbers that a batch yields depend on nothing outside its block.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from atlas.errors import InputError
from atlas.measure.corpus import Context, Corpus, contexts
from atlas.shards import Shard

Ints = npt.NDArray[np.int64]
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Reading:
    """How a corpus is read: what decides the batches and which positions count."""

    length: int  # context length in tokens, BOS included
    batch_tokens: int  # padded tokens of a batch at most (a single context may be longer)
    block_documents: int
    skip_bos: bool  # leave out position 0 of every context and every BOS token

    def __post_init__(self) -> None:
        if min(self.batch_tokens, self.block_documents) < 1:
            raise InputError(
                f"batch_tokens is {self.batch_tokens} and block_documents {self.block_documents}; both start at 1"
            )


@dataclass(frozen=True)
class Batch:
    """Contexts padded on the right to one length; `rows` are the counted positions of the flattened batch.

    `token`, `context_id`, `position`, `start` and `length` have one entry per counted position: its token id, its
    context, its index in the context, the flat index of the context's first position and the context's length. `order`
    lists the flat positions without padding, counted ones first; `place` is its inverse, 0 for padding.
    """

    contexts: tuple[Context, ...]
    input_ids: Ints  # [contexts, longest]
    rows: Ints
    token: Ints
    context_id: Ints
    position: Ints
    start: Ints
    length: Ints
    order: Ints
    place: Ints

    @property
    def real_tokens(self) -> int:
        """Tokens without padding."""
        return sum(len(context.token_ids) for context in self.contexts)


@dataclass
class Counts:
    """What was read: the facts of a shard's marker."""

    documents: int = 0
    documents_empty: int = 0
    contexts: int = 0
    tokens: int = 0
    excluded_positions: int = 0

    def add(self, batch: Batch) -> None:
        """Count one batch (documents are counted where they are tokenised)."""
        self.contexts += len(batch.contexts)
        self.tokens += batch.real_tokens
        self.excluded_positions += batch.real_tokens - len(batch.rows)


def shard_documents(corpus: Corpus, shard: Shard, reading: Reading) -> range:
    """Documents of a shard: a contiguous range of whole blocks."""
    size, total = reading.block_documents, len(corpus.documents)
    blocks = shard.span(-(-total // size))
    return range(min(blocks.start * size, total), min(blocks.stop * size, total))


def read_batches(
    corpus: Corpus, documents: range, *, tokenizer: Any, reading: Reading, counts: Counts
) -> Iterator[Batch]:
    """Batches of a range of documents, block after block; `counts` gains what each block held."""
    for first in range(documents.start, documents.stop, reading.block_documents):
        last = min(first + reading.block_documents, documents.stop)
        found = list(contexts(corpus.documents[first:last], tokenizer, first=first, length=reading.length))
        counts.documents += last - first
        counts.documents_empty += last - first - len({context.document for context in found})
        for batch in batches_of(found, tokenizer.bos_token_id, reading):
            counts.add(batch)
            yield batch


def contexts_of(corpus: Corpus, documents: range, *, tokenizer: Any, reading: Reading) -> Iterator[Context]:
    """Contexts of a range of documents in order, a block of documents in memory at a time."""
    for first in range(documents.start, documents.stop, reading.block_documents):
        last = min(first + reading.block_documents, documents.stop)
        yield from contexts(corpus.documents[first:last], tokenizer, first=first, length=reading.length)


def batches_of(found: list[Context], bos_token_id: int | None, reading: Reading) -> Iterator[Batch]:
    """Group contexts, longest first, into batches of at most `reading.batch_tokens` padded tokens."""
    ordered = sorted(found, key=lambda context: (-len(context.token_ids), context.context_id))
    group: list[Context] = []
    for context in ordered:
        if group and (len(group) + 1) * len(group[0].token_ids) > reading.batch_tokens:
            yield _batch(group, bos_token_id, reading.skip_bos)
            group = []
        group.append(context)
    if group:
        yield _batch(group, bos_token_id, reading.skip_bos)


def _batch(group: list[Context], bos_token_id: int | None, skip_bos: bool) -> Batch:
    lengths = np.array([len(context.token_ids) for context in group])
    width = int(lengths.max())
    ids = np.empty((len(group), width), dtype=np.int64)
    for row, context in enumerate(group):
        ids[row, : lengths[row]] = context.token_ids
        ids[row, lengths[row] :] = context.token_ids[-1]  # no token that the document does not hold
    position = np.arange(width)
    real = position[None, :] < lengths[:, None]
    counted = real.copy()
    if skip_bos:
        counted[:, 0] = False
        if bos_token_id is not None:
            counted &= ids != bos_token_id
    context_row, inside = np.nonzero(counted)
    rows = context_row * width + inside
    order = np.concatenate([rows, np.flatnonzero(real & ~counted)])
    place = np.zeros(ids.size, dtype=np.int64)
    place[order] = np.arange(len(order))
    return Batch(
        contexts=tuple(group),
        input_ids=ids,
        rows=rows,
        token=ids[context_row, inside],
        context_id=np.array([context.context_id for context in group])[context_row],
        position=inside,
        start=context_row * width,
        length=lengths[context_row],
        order=order,
        place=place,
    )


def work_in_order(
    items: Iterator[Item], work: Callable[[Item], Result], *, workers: int, alone: int = 0
) -> Iterator[tuple[Item, Result]]:
    """Run `work` on items in `workers` threads; yield results in the order of the items.

    The first `alone` items are finished, and used by the caller, before others begin: what they teach makes the others
    cheaper. At most workers + 2 items are in flight. An error in an item is raised here and the rest is given up.
    """
    if workers < 1:
        raise InputError(f"workers is {workers}; use at least 1")
    if workers == 1:
        yield from ((item, work(item)) for item in items)
        return
    yield from ((item, work(item)) for item in islice(items, alone))
    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        waiting: deque[tuple[Item, Future[Result]]] = deque()
        try:
            for item in items:
                waiting.append((item, pool.submit(work, item)))
                if len(waiting) >= workers + 2:
                    done, future = waiting.popleft()
                    yield done, future.result()
            for done, future in waiting:
                yield done, future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def documents_in(batch: Batch) -> int:
    """Contexts that begin a document: what progress counts."""
    return sum(context.offset == 0 for context in batch.contexts)
