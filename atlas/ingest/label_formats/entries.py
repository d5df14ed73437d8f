"""A label file of any size -> its entries one by one: lines, members, elements or table rows, good and bad.

A part that cannot be read is an entry with a fault, and reading goes on behind it. Memory is a window, not the file.
"""

from __future__ import annotations

import codecs
import csv
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from atlas.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

CUT = "cut off by the end of the file"
NOT_JSON = "not JSON"
NOT_TEXT = "not UTF-8 text"
LONGEST = 1 << 26  # bytes of one line, member or document
_CHUNK = 1 << 18  # fits the second-level cache: 2.7 microseconds a line of 2.2 KB, with 4 MiB 6.6
_PACKED = 1 << 16  # bytes of a packed file at a time: about four times as much text
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
    found = b""
    for chunk in chunks(path, lambda _: None):
        found += chunk or b""
        if len(found) >= size:
            break
    if found[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise InputError(f"{path.name} is UTF-16 text; save it as UTF-8 and import it again")
    return found[:size].removeprefix(_BOM)


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
    """Blocks of the content, unpacked where it is gzip (by content, not by name); None where gzip data is cut off."""
    with path.open("rb") as stream:
        unpacked = zlib.decompressobj(31) if stream.read(2) == b"\x1f\x8b" else None
        stream.seek(0)
        while chunk := stream.read(_CHUNK if unpacked is None else _PACKED):
            said(len(chunk))
            if unpacked is None:
                yield chunk
                continue
            try:
                unpacked, text = _unpack(unpacked, chunk)
            except zlib.error:
                yield None
                return
            yield text
        if unpacked is not None and not unpacked.eof:
            yield None


def _unpack(unpacked: zlib._Decompress, chunk: bytes) -> tuple[zlib._Decompress, bytes]:
    """Content of packed bytes, which may go on in further gzip members."""
    parts = [unpacked.decompress(chunk)]
    while unpacked.eof and (rest := unpacked.unused_data.lstrip(b"\0")):
        unpacked = zlib.decompressobj(31)
        parts.append(unpacked.decompress(rest))
    return unpacked, b"".join(parts)


def _second_reading(number: int, raw: bytes) -> Entry:
    if raw in (_LONG, _CUT_GZIP):
        fault = CUT if raw == _CUT_GZIP else f"longer than {LONGEST >> 20} MiB"
        return Entry(number, None, b"", fault)
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return Entry(number, None, raw, NOT_TEXT)
    unusual = "NaN" in text or "Infinity" in text or "\\ud" in text.lower()  # what json reads and orjson refuses
    if unusual:
        try:
            value = json.loads(text)
            json.dumps(value, ensure_ascii=False).encode()
            return Entry(number, value, raw)
        except UnicodeEncodeError:  # half of a surrogate pair
            return Entry(number, None, raw, NOT_TEXT)
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
    csv.field_size_limit(LONGEST)  # 128 KiB unless told
    lines = _text_lines(path, said)
    header = next(lines, "")
    separator = max(",\t;", key=header.count)
    names = [name.strip() for name in next(csv.reader([header], delimiter=separator), [])]
    reader, told = csv.reader(lines, delimiter=separator), 1
    while True:
        line = told + 1
        try:
            cells = next(reader, None)
            entry = _csv_entry(line, names, cells, separator) if cells else None
        except csv.Error as error:
            cells, entry = [], Entry(line, None, b"", f"not CSV ({error})")
        told = 1 + reader.line_num
        if cells is None:
            return
        if cells == [_CUT_GZIP.decode()]:
            entry = Entry(line, None, b"", CUT)
        if entry:
            yield entry


def _text_lines(path: Path, said: Callable[[int], None]) -> Iterator[str]:
    decode, rest = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape").decode, ""
    for chunk in chunks(path, said):
        if chunk is None:
            yield _CUT_GZIP.decode()
            return
        *lines, rest = (rest + decode(chunk)).split("\n")
        yield from (f"{line}\n" for line in lines)
    if rest:
        yield rest


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
                for row in _dicts(batch):
                    number += 1
                    kept = {key: cell for key, cell in row.items() if cell is not None}
                    yield Entry(number, kept, str(kept)[:1000].encode(errors="replace"))
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path.name} is no sound Parquet file: {reason}; copy or make the file again") from error


def _dicts(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    """Rows of a batch; bytes that are no text stand there as in CSV files, and spoil their own cell only."""
    import pyarrow as pa

    try:
        rows: list[dict[str, Any]] = batch.to_pylist()
        return rows
    except UnicodeDecodeError:
        columns = [column.cast(pa.binary()) if pa.types.is_string(column.type) else column for column in batch.columns]
        rows = pa.RecordBatch.from_arrays(columns, names=batch.schema.names).to_pylist()
    return [
        {name: cell.decode(errors="surrogateescape") if isinstance(cell, bytes) else cell for name, cell in row.items()}
        for row in rows
    ]
