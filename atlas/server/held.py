"""An atlas file -> the open atlas that requests share; a file that was replaced is opened anew, unnoticed by readers.

Builds and jobs put a new file in place by a rename: the open one stays readable to those who still read it, and is
closed when the last of them is done. While a file that cannot be read stands there, requests are refused: answers from
a file that is no longer there would be wrong without a word.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb

import atlas as package
from atlas.errors import AtlasError, ResourceError
from atlas.query.atlas import Atlas
from atlas.store.connection import Limits, existing

_LOG = logging.getLogger("atlas.server")
_Identity = tuple[int, int, int]


@dataclass
class _Open:
    atlas: Atlas
    identity: _Identity
    readers: int = 0
    stale: bool = False


class HeldAtlas:
    """One atlas, read-only, for many threads; each question takes its own cursor."""

    def __init__(self, path: Path, *, limits: Limits | None = None) -> None:
        self.path = existing(path).resolve()
        self._limits = limits
        self._lock = threading.Lock()
        self._bad: tuple[_Identity, AtlasError] | None = None
        self._current = self._open(self._identity())

    @contextmanager
    def use(self) -> Iterator[Atlas]:
        """The atlas as it is now; it stays open until this reader is done."""
        with self._lock:
            held = self._newest()
            held.readers += 1
        try:
            yield held.atlas
        finally:
            with self._lock:
                held.readers -= 1
                self._close_unread(held)

    def fingerprint(self) -> str:
        """Sixteen hex digits that change when the file or the version of atlas does; costs one look at the folder."""
        try:
            identity = self._identity()
        except OSError:  # gone, or no longer ours to see
            identity = self._current.identity
        return hashlib.sha256(repr((identity, package.__version__)).encode()).hexdigest()[:16]

    @property
    def gone(self) -> bool:
        """Whether the file was taken away; what is open still answers."""
        return not self.path.is_file()

    def close(self) -> None:
        """Close the file; readers that are not done fail."""
        with self._lock:
            self._current.atlas.close()

    def _newest(self) -> _Open:
        try:
            identity = self._identity()
        except OSError:
            return self._current
        if identity == self._current.identity:
            return self._current
        if self._bad is None or self._bad[0] != identity:
            self._bad = None
            self._replace(identity)
        if self._bad is not None:
            raise self._bad[1]
        return self._current

    def _replace(self, identity: _Identity) -> None:
        """Open the new file; one that cannot be read is remembered, so that not every request tries it."""
        try:
            newer = self._open(identity)
        except (AtlasError, duckdb.Error) as error:
            _LOG.warning("%s was replaced by a file that cannot be read: %s", self.path, error)
            told = f"{self.path.name} was replaced by a file that cannot be read; put a good one in its place"
            self._bad = identity, ResourceError(told)
            return
        self._current.stale = True
        self._close_unread(self._current)
        self._current = newer

    def _open(self, identity: _Identity) -> _Open:
        return _Open(Atlas(self.path, limits=self._limits), identity)

    def _identity(self) -> _Identity:
        found = self.path.stat()
        return found.st_ino, found.st_mtime_ns, found.st_size

    @staticmethod
    def _close_unread(held: _Open) -> None:
        if held.stale and not held.readers:
            held.atlas.close()
