r"""Rows -> a Parquet, CSV or JSON Lines file, whole or as it was before, with the same bytes on every run.

CSV has a head line, "\\n" ends of lines, quotes around every text, nothing at all for NULL ("" is an empty text).
JSON Lines has null for NULL and for numbers that are not finite. No column of these tables is a list. Parquet keeps
types and NULLs as they are; what a column means stands in its field's metadata, the model's name in the file's.
"""

from __future__ import annotations

import errno
import gzip
import os
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import duckdb
import pyarrow as pa

from atlas.errors import InputError, ResourceError

if TYPE_CHECKING:
    from atlas.export.plain.rows import Rows

FORMATS = ("parquet", "csv", "jsonl")
COMPRESSIONS = {
    "parquet": ("zstd", "snappy", "gzip", "lz4", "none"),
    "csv": ("none", "gzip"),
    "jsonl": ("none", "gzip"),
}
_ROW_GROUP = 1 << 17


@dataclass(frozen=True)
class Written:
    """Rows and bytes of a file; bytes of standard output are not known."""

    rows: int
    size: int | None


def write_rows(
    rows: Rows, target: Path | None, form: str, *, compression: str | None = None, force: bool = False
) -> Written:
    """Write all rows; `target` None is standard output (CSV and JSON Lines only).

    compression: one of COMPRESSIONS[form], the first by default. A file that is there is refused, unless `force`.
    Raises InputError for these and ResourceError when the disk is full; the old file is then as it was.
    """
    if form not in FORMATS:
        raise InputError(f"no writer for rows as {form!r}; there are {', '.join(FORMATS)}")
    how = compression or COMPRESSIONS[form][0]
    if how not in COMPRESSIONS[form]:
        raise InputError(f"{form} is not packed with {how}; use {' or '.join(COMPRESSIONS[form])}")
    if target is None:
        if form == "parquet" or how != "none":
            raise InputError("parquet and packed files are not text: give -o FILE")
        _WRITERS[form](sys.stdout.buffer, rows, how)
        return Written(rows.written, None)
    with new_file(target, force=force) as draft:
        with draft.open("wb") as out:
            _WRITERS[form](out, rows, how)
        size = draft.stat().st_size
    return Written(rows.written, size)


@contextmanager
def new_file(target: Path, *, force: bool = False) -> Iterator[Path]:
    """Yield a hidden name beside the target; when the block ends without an error the file there becomes `target`.

    Raises InputError for a target that is there (unless `force`), that is a folder or where nobody may write, and
    ResourceError for a full disk.
    """
    if target.is_dir():
        raise InputError(f"{target} is a folder, expected a file; give another -o FILE")
    if target.exists() and not target.is_file():  # a device would be replaced, also by root's own hand
        raise InputError(f"{target} is no regular file; give another -o FILE, or -o - for standard output")
    if target.exists() and not force:
        raise InputError(f"{target} exists; give another -o FILE, or --force to replace it")
    draft = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield draft
        draft.replace(target)
    except OSError as error:
        why = error.strerror or str(error)
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            left = _free(target)
            raise ResourceError(
                f"cannot write {target}: {why}{left}; free some space, or give another -o FILE"
            ) from error
        raise InputError(f"cannot write {target}: {why}; give another -o FILE") from error
    except duckdb.Error as error:
        from atlas.store.connection import explain_failure

        raise explain_failure(error, str(target)) from error
    finally:
        if draft.is_file():
            draft.unlink()


def _free(target: Path) -> str:
    found = os.statvfs(target.parent)
    return f" ({found.f_bavail * found.f_frsize / 1e6:,.0f} MB left)"


def _parquet(out: IO[bytes], rows: Rows, how: str) -> None:
    import pyarrow.parquet as pq

    schema = rows.schema.with_metadata(rows.about)
    with pq.ParquetWriter(out, schema, compression=how) as writer:
        for table in _regrouped(rows, schema):
            writer.write_table(table, row_group_size=_ROW_GROUP)


def _regrouped(rows: Rows, schema: pa.Schema) -> Iterator[pa.Table]:
    """Tables of _ROW_GROUP rows, the last one shorter: row groups do not depend on how DuckDB cut its batches."""
    waiting: list[pa.Table] = []
    for table in rows:
        waiting.append(table.replace_schema_metadata(schema.metadata))
        if sum(one.num_rows for one in waiting) >= _ROW_GROUP:
            whole = pa.concat_tables(waiting)
            yield whole.slice(0, _ROW_GROUP)
            waiting = [whole.slice(_ROW_GROUP)]
    if waiting and sum(one.num_rows for one in waiting):
        yield pa.concat_tables(waiting).combine_chunks()


def _csv(out: IO[bytes], rows: Rows, how: str) -> None:
    from pyarrow import csv

    with _packed(out, how) as packed:
        _csv_part(packed, csv.WriteOptions(include_header=True), rows.schema.empty_table())
        for table in rows:
            _csv_part(packed, csv.WriteOptions(include_header=False), table)


def _csv_part(out: IO[bytes], options: Any, table: pa.Table) -> None:
    """Through memory: a pipe that breaks inside Arrow's own writer breaks a second time when that is closed."""
    from pyarrow import csv

    part = pa.BufferOutputStream()
    csv.write_csv(table, part, options)
    out.write(part.getvalue())


def _jsonl(out: IO[bytes], rows: Rows, how: str) -> None:
    with _packed(out, how) as packed:
        for lines in rows.json_lines():
            packed.write(lines)


@contextmanager
def _packed(out: IO[bytes], how: str) -> Iterator[Any]:
    if how == "none":
        yield out
        return
    with gzip.GzipFile("", "wb", 6, out, mtime=0) as packed:  # no name and no date: equal rows, equal bytes
        yield packed


_WRITERS: dict[str, Callable[[IO[bytes], Rows, str], None]] = {"parquet": _parquet, "csv": _csv, "jsonl": _jsonl}
