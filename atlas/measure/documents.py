"""A corpus file -> its documents by index, read when they are asked for.

Memory does not grow with the texts: an index of 16 bytes a document (lines, paragraphs) or nothing but the file's own
metadata (Parquet, one row group at a time). A file that changes after it was indexed is refused.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import overload

import numpy as np
import numpy.typing as npt

from atlas.errors import InputError

_STEP = 256  # documents that an iteration reads at once


class _Documents(Sequence[str]):
    """What both kinds share: any slice is a list, read by `_read`."""

    def __init__(self, path: Path, count: int, read: Callable[[range], list[str]]) -> None:
        self._path, self._count, self._read = path, count, read
        self._stamp = _stamp(path)

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        chosen = range(self._count)[index]
        if isinstance(chosen, int):
            return self._texts(range(chosen, chosen + 1))[0]
        if chosen.step == 1:
            return self._texts(chosen)
        return [self[one] for one in chosen]

    def __iter__(self) -> Iterator[str]:
        for first in range(0, self._count, _STEP):
            yield from self[first : first + _STEP]

    def _texts(self, chosen: range) -> list[str]:
        if _stamp(self._path) != self._stamp:
            raise InputError(f"{self._path} has changed since it was opened; run the command again")
        return self._read(chosen) if chosen else []


def pieces_of_file(
    path: Path, spans: Iterable[tuple[int, int]], decode: Callable[[bytes], str], limit: int | None
) -> Sequence[str]:
    """Documents that are the byte ranges `spans` (start, end) of a file, `decode`d; the first `limit` of them.

    All spans are taken, so that what makes them can refuse a damaged file as a whole.
    """
    flat = np.fromiter((edge for span in spans for edge in span), dtype=np.int64)
    index: npt.NDArray[np.int64] = flat.reshape(-1, 2)[:limit]

    def read(chosen: range) -> list[str]:
        some = index[chosen.start : chosen.stop]
        with path.open("rb") as file:
            file.seek(int(some[0, 0]))
            raw = file.read(int(some[-1, 1] - some[0, 0]))
        return [decode(raw[start:end]) for start, end in (some - some[0, 0]).tolist()]

    return _Documents(path, len(index), read)


def column_of_parquet(path: Path, column: str, limit: int | None) -> Sequence[str]:
    """Documents that are the rows of a Parquet column, NULL as an empty one; the first `limit` of them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    metadata = pq.read_metadata(path)
    ends = list(accumulate(metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)))

    def read(chosen: range) -> list[str]:
        try:
            return rows_of(chosen)
        except (pa.ArrowInvalid, OSError) as error:
            raise InputError(f"{path} is not a readable Parquet file ({error}); copy it again") from error

    def rows_of(chosen: range) -> list[str]:
        groups = range(bisect_right(ends, chosen.start), bisect_right(ends, chosen.stop - 1) + 1)
        before = ends[groups.start - 1] if groups.start else 0
        found: list[str] = []
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(_STEP, row_groups=groups, columns=[column]):
                rows = range(before, before := before + len(batch))
                wanted = range(max(rows.start, chosen.start), min(rows.stop, chosen.stop))
                if wanted:
                    part = batch.column(0).slice(wanted.start - rows.start, len(wanted))
                    found.extend(text or "" for text in part.to_pylist())
                if rows.stop >= chosen.stop:
                    break
        return found

    count = metadata.num_rows if limit is None else min(limit, metadata.num_rows)
    return _Documents(path, count, read)


def _stamp(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns
