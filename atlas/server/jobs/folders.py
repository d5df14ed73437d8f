"""The folder of each job: its request, what it made, its result -> kept, or moved away at once and removed aside."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson

from atlas.errors import ResourceError
from atlas.server.jobs.leftovers import forget_temporaries, remove_temporaries

INLINE = 1 << 20  # bytes of a result that is kept in the database; a larger one stays a file
_REQUEST, _RESULT, _GONE = "request.json", "result.json", ".gone-"


class Folders:
    """Folders of jobs below one root."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._sweeping = ThreadPoolExecutor(1, thread_name_prefix="jobs-sweep")

    def of(self, job_id: str) -> Path:
        """Where a job keeps its files."""
        return self.root / job_id

    def prepare(self, job_id: str, request: dict[str, Any]) -> Path:
        """The folder of a job that begins (again): without an old result, with what an earlier attempt left."""
        folder = self.of(job_id)
        folder.mkdir(mode=0o700, exist_ok=True)
        (folder / _RESULT).unlink(missing_ok=True)
        (folder / _REQUEST).write_bytes(orjson.dumps(request))
        return folder

    def tidy(self, job_id: str, *, killed: bool, keep: bool) -> None:
        """After an attempt: what a killed worker was writing aside is removed, the folder too unless it is kept."""
        folder = self.of(job_id)
        if killed:
            remove_temporaries(folder)
        else:
            forget_temporaries(folder)
        (folder / _REQUEST).unlink(missing_ok=True)
        if not keep:
            self.drop(job_id)

    def small_result(self, job_id: str) -> bytes | None:
        """A result that goes into the database; None for a large one, or without any."""
        file = self.of(job_id) / _RESULT
        with suppress(FileNotFoundError):
            return file.read_bytes() if file.stat().st_size <= INLINE else None
        return None

    def drop_result(self, job_id: str) -> None:
        """It is in the database; the folder goes too where nothing else is in it."""
        (self.of(job_id) / _RESULT).unlink()
        with suppress(OSError):
            self.of(job_id).rmdir()

    def has_result(self, job_id: str) -> bool:
        """Whether the work was brought to its end."""
        return (self.of(job_id) / _RESULT).exists()

    def read_result(self, job_id: str) -> dict[str, Any] | None:
        """A large result."""
        with suppress(FileNotFoundError):
            found: dict[str, Any] = orjson.loads((self.of(job_id) / _RESULT).read_bytes())
            return found
        return None

    def drop(self, job_id: str) -> None:
        """Remove a folder: out of sight now, and bit by bit in another thread."""
        gone = self.root / f"{_GONE}{job_id}"
        with suppress(FileNotFoundError):
            os.rename(self.of(job_id), gone)
            self._sweeping.submit(shutil.rmtree, gone, ignore_errors=True)

    def drop_unknown(self, known: Iterable[str]) -> None:
        """Remove what no job owns."""
        kept = set(known)
        for path in self.root.iterdir():
            if path.name.startswith(_GONE):
                self._sweeping.submit(shutil.rmtree, path, ignore_errors=True)
            elif path.name not in kept:
                self.drop(path.name)

    def close(self) -> None:
        """Wait until everything is removed."""
        self._sweeping.shutdown(wait=True)


def write_result(folder: Path, result: bytes) -> None:
    """Called in the worker, at its end; ResourceError where it does not fit on the disk."""
    part = folder / f"{_RESULT}.part"
    try:
        part.write_bytes(result)
        part.replace(folder / _RESULT)
    except OSError as error:
        part.unlink(missing_ok=True)
        told = f"the result ({len(result):,} bytes) is not kept: {error.strerror}"
        raise ResourceError(f"{told}; free disk space and ask again") from error


def read_request(folder: Path) -> dict[str, Any]:
    """Called in the worker, at its beginning."""
    found: dict[str, Any] = orjson.loads((folder / _REQUEST).read_bytes())
    return found
