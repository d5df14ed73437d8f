"""A folder, a zip or one file -> names with sizes, and streams of their bytes; nothing is ever unpacked to disk.

Bytes that cannot be read (a broken archive or gzip) are findings with the line reached, not errors.
"""

from __future__ import annotations

import gzip
import hashlib
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from atlas.errors import InputError
from atlas.export.package_check.finding import At, Findings

LINE = 16 << 20  # bytes of one line
DOCUMENT = 256 << 20  # bytes of one JSON document
_BLOCK = 1 << 20
_PLAIN = (".json", ".jsonl", ".gz", ".safetensors")
DAMAGE = (gzip.BadGzipFile, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError)


@dataclass(frozen=True)
class Package:
    """What is checked: `members` are bytes by relative name, sorted; of one file only that one."""

    path: Path
    root: Path | None  # what names are relative to; None for an archive
    members: Mapping[str, int]
    archive: zipfile.ZipFile | None = None
    single: bool = False  # one file: what lies beside it is not asked for

    @contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        """The stored bytes of a member."""
        if self.archive is None:
            assert self.root is not None
            with (self.root / name).open("rb") as file:
                yield file
        else:
            with self.archive.open(name) as member:
                yield member

    def parts(self, folder: str) -> tuple[str, ...]:
        """Names from the top to a folder of the package; of an archive only those inside it."""
        inside = PurePosixPath(folder).parts
        return inside if self.root is None else (*self.root.resolve().parts, *inside)


@contextmanager
def open_package(path: Path, findings: Findings) -> Iterator[Package]:
    """Open what is checked; hostile or repeated names of an archive are findings, and left out.

    Raises InputError for what does not exist, cannot be read, or is no archive though it is called .zip.
    """
    try:
        if path.is_dir():
            files = sorted(one for one in path.rglob("*") if one.is_file())
            yield Package(path, path, {one.relative_to(path).as_posix(): one.stat().st_size for one in files})
        elif path.suffix.lower() == ".zip" or (path.suffix not in _PLAIN and zipfile.is_zipfile(path)):
            with _archive(path) as archive:
                yield Package(path, None, _members(archive, findings), archive)
        else:
            yield _one_file(path)
    except FileNotFoundError as error:
        raise InputError(f"no {error.filename}: expected a package as a folder, a zip or a file") from error
    except OSError as error:
        raise InputError(f"cannot read {error.filename or path}: {error.strerror or error}") from error


def _archive(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:  # ValueError: names that cannot be decoded
        raise InputError(f"{path} is no zip archive ({error}); export the package again") from error


def _one_file(path: Path) -> Package:
    """A file; row files of the bulk layout keep the three folders above that say what they are."""
    resolved = path.resolve(strict=True)
    above = 3 if resolved.parent.name in ("features", "activations", "explanations") else 1
    root = resolved.parents[min(above, len(resolved.parents) - 1)] if above > 1 else resolved.parent
    return Package(path, root, {resolved.relative_to(root).as_posix(): resolved.stat().st_size}, single=True)


def _members(archive: zipfile.ZipFile, findings: Findings) -> dict[str, int]:
    found: dict[str, int] = {}
    for info in archive.infolist():
        at = At(findings, info.filename or "(no name)")
        parts = info.filename.split("/")
        if not info.filename or ".." in parts or "\\" in info.orig_filename or re.match(r"/|[A-Za-z]:", info.filename):
            at.say("package-path", "a relative name inside the archive", info.orig_filename)
        elif info.is_dir():
            continue
        elif info.filename in found:
            at.say("package-twice", "one entry of this name", "a second one")
        else:
            found[info.filename] = info.file_size
    return dict(sorted(found.items()))


def read_lines(package: Package, name: str, findings: Findings) -> Iterator[tuple[int, bytes]]:
    """(number from 1, bytes without the line's end) of a text file, decompressed when it is called .gz.

    Ends after a finding where the rest cannot be read. Memory: one line, which is at most 16 MB.
    """
    number = 0
    try:
        with package.open(name) as stored:
            text: IO[bytes] = gzip.GzipFile(fileobj=stored) if name.endswith(".gz") else stored  # type: ignore[assignment]
            while raw := text.readline(LINE + 1):
                number += 1
                if len(raw) > LINE:
                    at = At(findings, name, number)
                    at.say("json-size", f"at most {LINE >> 20} MB in a line", "a longer line: the rest was not read")
                    return
                yield number, raw[:-1] if raw.endswith(b"\n") else raw
    except DAMAGE as error:
        broken(At(findings, name, number + 1), error)


def read_document(package: Package, name: str, findings: Findings) -> bytes | None:
    """All bytes of a small file, decompressed when it is called .gz; None after a finding."""
    at = At(findings, name)
    try:
        with package.open(name) as stored:
            text: IO[bytes] = gzip.GzipFile(fileobj=stored) if name.endswith(".gz") else stored  # type: ignore[assignment]
            content = text.read(DOCUMENT + 1)
    except DAMAGE as error:
        broken(at, error)
        return None
    if len(content) > DOCUMENT:
        at.say("json-size", f"at most {DOCUMENT >> 20} MB in a document", "more: it was not read")
        return None
    if not content.strip():
        at.say("file-empty", "content", f"{len(content)} bytes")
        return None
    return content


def sha256(package: Package, name: str) -> str | None:
    """Hash of a member's stored bytes; None where they cannot be read."""
    digest = hashlib.sha256()
    try:
        with package.open(name) as stored:
            while block := stored.read(_BLOCK):
                digest.update(block)
    except DAMAGE:
        return None  # said where the file is read
    return digest.hexdigest()


def stored_whole(package: Package, name: str, findings: Findings) -> bool:
    """Whether a member that no rule reads (README.md) can be read to its end."""
    try:
        with package.open(name) as stored:
            while stored.read(_BLOCK):
                pass
    except DAMAGE as error:
        broken(At(findings, name), error)
        return False
    return True


def broken(at: At, error: Exception) -> None:
    """Say that bytes cannot be read from here on."""
    archive = isinstance(error, zipfile.BadZipFile | RuntimeError | NotImplementedError)
    if archive:
        at.say("package-broken", "a readable entry of the archive", str(error))
    else:
        at.say("gzip-broken", "complete gzip", f"{error}; what follows was not read")
