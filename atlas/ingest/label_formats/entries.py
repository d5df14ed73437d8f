"""A label file of any size -> its entries one by one: lines, members, elements or table rows, good and bad.

A part that cannot be read is an entry with a fault, and reading goes on behind it. Memory is a window, not the file.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import orjson

from atlas.errors import InputError

CUT = "cut off by the end of the file"
NOT_JSON = "not JSON"
NOT_TEXT = "not UTF-8 text"
LONGEST = 1 << 26  # bytes of one line, member or document
_CHUNK = 1 << 22
_BOM = b"\xef\xbb\xbf"
_ROWS = 4096  # of a Parquet file at a time
_LONG, _CUT_GZIP = b"\x00", b"\x01"  # stand for a line that is too long to be kept, and for one that gzip cut off


class Entry(NamedTuple):
    """One part of a file: what it says, or why it cannot be read."""

    line: int  # from 1; of a Parquet file the row
    value: Any  # decoded JSON, (key, value) of a member, or a dict of a table row
    raw: bytes = b""  # how it stands in the file, for quoting; only its first part where it is long
    fault: str | None = None


def head_of(path: Path, size: int = 1 << 16) -> bytes:
    """Read the first bytes of the content, without a byte order mark; InputError for UTF-16 and UTF-32."""
    with path.open("rb") as plain, _unpacked(plain) as stream:
        try:
            found = stream.read(size)
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(f"{path.name} cannot be read ({error}); copy the file again") from error
    if found[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise InputError(f"{path.name} is UTF-16 text; save it as UTF-8 and import it again")
    return found.removeprefix(_BOM)


def json_lines(path: Path, said: Callable[[int], None]) -> Iterator[Entry]:
    """Lines of JSON, blank ones left out; `said` is told the bytes of the content read since it was last told."""
    number = 0
    for lines in _line_blocks(path, said):
        for raw in lines:
            number += 1
            try:
                yield Entry(number, orjson.loads(raw), raw)
            except orjson.JSONDecodeError:
                if raw.strip():
                    yield _second_reading(number, raw)


def _line_blocks(path: Path, said: Callable[[int], None]) -> Iterator[list[bytes]]:
    rest, first = b"", True
    for chunk in chunks(path, said):
        if chunk is None:
            yield [_CUT_GZIP]
            return
        lines = (rest + chunk).split(b"\n")
        if first:
            lines[0], first = lines[0].removeprefix(_BOM), False
        rest = lines.pop()
        if len(rest) > LONGEST:
            rest = _LONG * (LONGEST + 1)  # it goes on to be too long whatever follows
        yield [line if len(line) <= LONGEST else _LONG for line in lines]
    if rest:
        yield [rest if len(rest) <= LONGEST else _LONG]


def chunks(path: Path, said: Callable[[int], None]) -> Iterator[bytes | None]:
    """Blocks of the content; None at the end of a gzip file that is cut off."""
    with path.open("rb") as plain, _unpacked(plain) as stream:
        told = 0
        while True:
            try:
                chunk = stream.read(_CHUNK)
            except (EOFError, OSError, zlib.error):
                yield None
                return
            if not chunk:
                return
            said(plain.tell() - told)
            told = plain.tell()
            yield chunk


def _unpacked(plain: BinaryIO) -> BinaryIO:
    """The stream itself, or what is packed in it; gzip is recognised by its content, not by its name."""
    packed = plain.read(2) == b"\x1f\x8b"
    plain.seek(0)
    return cast(BinaryIO, gzip.GzipFile(fileobj=plain)) if packed else plain


def _second_reading(number: int, raw: bytes) -> Entry:
    if raw in (_LONG, _CUT_GZIP):
        fault = CUT if raw == _CUT_GZIP else f"longer than {LONGEST >> 20} MiB"
        return Entry(number, None, b"", fault)
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return Entry(number, None, raw, NOT_TEXT)
    if "NaN" in text or "Infinity" in text:  # json.dumps writes them, the standard does not know them
        try:
            return Entry(number, json.loads(text), raw)
        except (ValueError, RecursionError):
            pass
    return Entry(number, None, raw, NOT_JSON)


def document(path: Path, said: Callable[[int], None]) -> Iterator[Entry]:
    """The whole file as one JSON value (or, of a .txt file that is none, as its text)."""
    parts = [chunk for chunk in chunks(path, said) if chunk is not None]
    raw = b"".join(parts).removeprefix(_BOM)
    if len(raw) > LONGEST:
        yield Entry(1, None, raw[:1000], f"longer than {LONGEST >> 20} MiB")
        return
    try:
        yield Entry(1, orjson.loads(raw), raw)
    except orjson.JSONDecodeError:
        found = _second_reading(1, raw)
        plain = path.suffix == ".txt" and found.fault == NOT_JSON
        yield Entry(1, raw.decode().strip(), raw) if plain else found


def csv_rows(path: Path, said: Callable[[int], None]) -> Iterator[Entry]:
    """Rows of a CSV file with a header (separated by comma, tab or semicolon) as dicts; empty cells are left out."""
    with (
        path.open("rb") as plain,
        io.TextIOWrapper(_unpacked(plain), "utf-8-sig", "surrogateescape", newline="") as text,
    ):
        header_line = text.readline()
        separator = max(",\t;", key=header_line.count)
        names = [name.strip() for name in next(csv.reader([header_line], delimiter=separator), [])]
        reader, told = csv.reader(_counted(text, said), delimiter=separator), 1
        while True:
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield Entry(told + 1, None, b"", f"not CSV ({error})")
                told = 1 + reader.line_num
                continue
            line, told = told + 1, 1 + reader.line_num
            if cells:
                yield _csv_entry(line, names, cells, separator)


def _counted(text: io.TextIOWrapper, said: Callable[[int], None]) -> Iterator[str]:
    for line in text:
        said(len(line))
        yield line


def _csv_entry(line: int, names: list[str], cells: list[str], separator: str) -> Entry:
    raw = separator.join(cells)[:1000].encode(errors="replace")
    if len(cells) != len(names):
        return Entry(line, None, raw, "of another number of columns than the header")
    return Entry(line, {name: cell for name, cell in zip(names, cells, strict=True) if cell != ""}, raw)


def parquet_rows(path: Path, said: Callable[[int], None]) -> Iterator[Entry]:
    """Rows of a Parquet file as dicts; NULLs are left out."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            number, size = 0, path.stat().st_size / max(file.metadata.num_rows, 1)
            for batch in file.iter_batches(batch_size=_ROWS):
                said(int(size * batch.num_rows))
                for row in batch.to_pylist():
                    number += 1
                    kept = {key: cell for key, cell in row.items() if cell is not None}
                    yield Entry(number, kept, str(kept)[:1000].encode(errors="replace"))
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path.name} is no sound Parquet file: {reason}; copy or make the file again") from error
