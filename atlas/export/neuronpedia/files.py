"""Lines and documents -> files of a package with the sha256 of each, or only their sizes.

Both take the same calls, so that an estimate measures what an export would write.
"""

from __future__ import annotations

import gzip
import hashlib
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol

import orjson

LEVEL = 6  # of gzip and zip: 9 takes three times as long for 2% less
_DUMP = orjson.OPT_SERIALIZE_NUMPY


@dataclass(frozen=True)
class File:
    """A file of a package."""

    sha256: str
    size: int


class Files(Protocol):
    """Where a layout writes to."""

    def write(self, name: str, content: bytes) -> None:
        """Write a whole file."""

    def lines(self, name: str) -> Lines:
        """Begin a gzip file of lines; its `close` ends it."""

    def part(self, name: str, content: bytes) -> None:
        """Keep a part of a file that all units share; parts are ordered by their names."""

    def joined(self, name: str, around: tuple[bytes, bytes, bytes]) -> None:
        """Write all parts as one file, with bytes before, between and after them."""


class Lines(Protocol):
    """A file of lines being written; `size` counts its bytes before packing."""

    size: int

    def add(self, line: bytes) -> None:
        """Write one line."""

    def close(self) -> None:
        """End the file."""


def line(record: dict[str, Any]) -> bytes:
    """A record as one line of JSON; float32 arrays get the fewest digits that are the same float32."""
    return orjson.dumps(record, option=_DUMP | orjson.OPT_APPEND_NEWLINE)


def document(record: object) -> bytes:
    """A document as indented JSON."""
    return orjson.dumps(record, option=_DUMP | orjson.OPT_APPEND_NEWLINE | orjson.OPT_INDENT_2)


class Folder:
    """Files under a root; `made` collects those of the current unit."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.made: dict[str, File] = {}
        self._open: list[_Gzip] = []

    def write(self, name: str, content: bytes) -> None:
        """Write a whole file."""
        path = self._path(name)
        path.write_bytes(content)
        self.made[name] = File(hashlib.sha256(content).hexdigest(), len(content))

    def lines(self, name: str) -> Lines:
        """Begin a gzip file of lines."""
        self._open = [one for one in self._open if not one.closed] + [_Gzip(self, name, self._path(name))]
        return self._open[-1]

    def abandon(self) -> None:
        """Close files that were not ended, without what they still hold."""
        for one in self._open:
            one.abandon()

    def part(self, name: str, content: bytes) -> None:
        """Keep a part of a file beside the root."""
        path = self.root.parent / "parts" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)

    def joined(self, name: str, around: tuple[bytes, bytes, bytes]) -> None:
        """Write all parts as one file; one of them is in memory at a time."""
        out = _Hashed(self._path(name).open("wb", buffering=0))
        out.write(around[0])
        for i, path in enumerate(sorted((self.root.parent / "parts").glob("*.json"))):
            out.write((around[1] if i else b"") + path.read_bytes())
        out.write(around[2])
        out.close()
        self.made[name] = File(out.hash.hexdigest(), out.size)

    def adopt(self, name: str) -> None:
        """Take a file that something else wrote under the root."""
        self.made[name] = hashed(self.root / name)

    def _path(self, name: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)  # a file that an abandoned run still holds is another one
        return path


class _Gzip:
    """One gzip file; the same lines give the same bytes: no name and no time in its head."""

    def __init__(self, folder: Folder, name: str, path: Path) -> None:
        self._folder, self._name, self.size = folder, name, 0
        self._out = _Hashed(path.open("wb", buffering=0))
        self._gzip = gzip.GzipFile(filename="", mode="wb", compresslevel=LEVEL, fileobj=self._out, mtime=0)

    def add(self, line: bytes) -> None:
        """Write one line."""
        self._gzip.write(line)
        self.size += len(line)

    @property
    def closed(self) -> bool:
        """Whether it was ended."""
        return self._gzip.closed

    def close(self) -> None:
        """End the file and give its hash to the folder."""
        self._gzip.close()
        self._out.close()
        self._folder.made[self._name] = File(self._out.hash.hexdigest(), self._out.size)

    def abandon(self) -> None:
        """Close the file as it is."""
        self._out.close()


class _Hashed:
    """A binary file that hashes what it writes."""

    def __init__(self, out: IO[bytes]) -> None:
        self._out, self.hash, self.size = out, hashlib.sha256(), 0

    def write(self, content: bytes) -> int:
        """Write and hash."""
        if self._out.closed:  # abandoned
            return len(content)
        self.hash.update(content)
        self.size += len(content)
        return _all(self._out, content)

    def flush(self) -> None:
        """Nothing waits here."""

    def close(self) -> None:
        """Close the file below; what is written from now on goes nowhere."""
        self._out.close()


def _all(out: IO[bytes], content: bytes) -> int:
    """Write all of it: an unbuffered file may take a part, as it does before it says that the disk is full."""
    rest = memoryview(content)
    while rest:
        rest = rest[out.write(rest) :]
    return len(content)


@dataclass
class Scale:
    """Weighs files instead of writing them; `packed`: as members of a zip file."""

    packed: bool = False
    size: int = 0
    plain: int = 0  # before they become members
    names: list[str] = field(default_factory=list)

    def write(self, name: str, content: bytes) -> None:
        """Weigh a whole file."""
        self.names.append(name)
        self.plain += len(content)
        extra = 2 * len(name.encode()) + 98  # the two headers of a member
        self.size += len(zlib.compress(content, LEVEL)) + extra if self.packed else len(content)

    def lines(self, name: str) -> Lines:
        """Begin a gzip file of lines."""
        self.names.append(name)
        return _Weighed(self)

    def part(self, name: str, content: bytes) -> None:
        """Weigh a part as a member of its own; it is on the disk once more until all are joined."""
        self.plain += 2 * len(content)
        self.size += len(zlib.compress(content, LEVEL)) if self.packed else len(content)

    def joined(self, name: str, around: tuple[bytes, bytes, bytes]) -> None:
        """Count the file; its parts are weighed already."""
        self.names.append(name)


class _Weighed:
    def __init__(self, scale: Scale) -> None:
        self._scale, self.size, self._packer = scale, 0, zlib.compressobj(LEVEL)

    def add(self, line: bytes) -> None:
        """Weigh one line."""
        self._scale.size += len(self._packer.compress(line))
        self.size += len(line)

    def close(self) -> None:
        """Weigh the rest."""
        self._scale.size += len(self._packer.flush()) + 18


def hashed(path: Path) -> File:
    """Sha256 and size of a file."""
    with path.open("rb") as file:
        return File(hashlib.file_digest(file, "sha256").hexdigest(), path.stat().st_size)
