"""One check of a package: what every layout's rules work with, and how they read rows."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import numpy as np

from atlas.export.package_check.finding import At, Findings
from atlas.export.package_check.json_text import parse_object
from atlas.export.package_check.package import Package, read_document
from atlas.progress import Task


@dataclass(frozen=True)
class Job:
    """The package, what is found in it, and what was counted; `advance` the task by one for each file read."""

    package: Package
    findings: Findings
    task: Task
    counts: Counter[str] = field(default_factory=Counter)

    def at(self, name: str, line: int | None = None) -> At:
        """A file, or a line of it."""
        return At(self.findings, name, line)

    def located(self, name: str, rule: str) -> At:
        """A document that was read before; its text is read again while findings of the rule are kept."""
        text = read_document(self.package, name, self.findings) if self.findings.room(rule) else None
        return At(self.findings, name, text=text or b"")

    def document(self, name: str) -> tuple[dict[str, Any], At] | None:
        """A file that is one JSON object, and a place to report from; None after a finding."""
        self.task.advance()
        content = read_document(self.package, name, self.findings)
        if content is None:
            return None
        at = At(self.findings, name, text=content)
        value = parse_object(content, at)
        return None if value is None else (value, at)


class Names:
    """Texts by where they stand, 12 bytes each: which stand there twice is told at the end.

    Texts are compared by 64 bits of BLAKE2: two that differ are taken for one with a chance of 3e-6 in ten million.
    """

    def __init__(self) -> None:
        self._hashes, self._lines = array("Q"), array("L")
        self._files: list[str] = []
        self._starts: list[int] = []

    def add(self, text: str, file: str, line: int) -> None:
        """One more text, at a line of a file; files one after the other."""
        if not self._files or self._files[-1] != file:
            self._files.append(file)
            self._starts.append(len(self._lines))
        digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        self._hashes.append(int.from_bytes(digest, "little"))
        self._lines.append(line)

    def repeated(self) -> Iterator[tuple[tuple[str, int], tuple[str, int]]]:
        """(file, line) of every text that was there before, and of where it stood first.

        Takes 8 bytes a text where none is repeated, else 40.
        """
        hashes = np.frombuffer(self._hashes, dtype=np.uint64) if self._hashes else np.zeros(0, np.uint64)
        ordered = np.sort(hashes)
        if not (ordered[1:] == ordered[:-1]).any():
            return
        order = np.argsort(hashes, kind="stable")
        again = np.flatnonzero(ordered[1:] == ordered[:-1]) + 1
        first = order[np.searchsorted(ordered, ordered[again])]
        for place in np.argsort(order[again]):
            yield self._place(int(order[again[place]])), self._place(int(first[place]))

    def _place(self, row: int) -> tuple[str, int]:
        return self._files[bisect_right(self._starts, row) - 1], self._lines[row]
