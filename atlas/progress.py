"""Long work -> one line on stderr: done/total, rate, time left.

The measuring code only calls `advance`; whether a bar, plain lines or nothing is shown is decided at the face.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Task(Protocol):
    """A running piece of work of known size."""

    def advance(self, amount: int = 1, *, told: str = "", free: bool = False) -> None:
        """Say that `amount` more units are done, and what else is to be told; free: they took no time that counts."""


class Progress(Protocol):
    """Where long work reports to."""

    def task(self, title: str, total: int, unit: str) -> AbstractContextManager[Task]:
        """Open a task; use it as a context manager."""

    def note(self, text: str) -> None:
        """Say one thing (a step skipped, a file rejected)."""


class _Silent:
    def advance(self, amount: int = 1, *, told: str = "", free: bool = False) -> None:
        """Nothing is shown."""


class Quiet:
    """Progress that shows nothing (library use, tests)."""

    @contextmanager
    def task(self, title: str, total: int, unit: str) -> Iterator[Task]:
        """Open a silent task."""
        yield _Silent()

    def note(self, text: str) -> None:
        """Drop the note."""


class _Line:
    def __init__(self, title: str, total: int, unit: str, *, live: bool) -> None:
        self._title, self._total, self._unit, self._live = title, total, unit, live
        self._done, self._start, self._shown = 0, time.monotonic(), time.monotonic()
        self._told, self._free, self._width = "", 0, 90

    def advance(self, amount: int = 1, *, told: str = "", free: bool = False) -> None:
        """Count and, at most four times a second (every 10 s into a file), redraw."""
        self._done += amount
        self._free += amount if free else 0
        self._told = told or self._told
        now = time.monotonic()
        if now - self._shown >= (0.25 if self._live else 10.0):
            self._shown = now
            self._write("\r" if self._live else "", "" if self._live else "\n")

    def finish(self) -> None:
        """Write the final line."""
        self._write("\r" if self._live else "", "\n")

    def _write(self, head: str, tail: str) -> None:
        spent = max(time.monotonic() - self._start, 1e-9)
        rate = (self._done - self._free) / spent
        left = (self._total - self._done) / rate if rate else 0.0
        when = f"{left:.0f} s left" if 0 < left < 7200 else f"{left / 3600:.1f} h left" if left else f"{spent:.1f} s"
        speed = f"{rate:,.0f}/s" if rate >= 10 or not rate else f"{rate:.2g}/s"  # a shard may take minutes
        text = f"  {self._title:<28} {self._done:,}/{self._total:,} {self._unit}  {speed}  {when}"
        text += f"  {self._told}" if self._told else ""
        self._width = max(self._width, len(text))  # a line that gets shorter is written over
        sys.stderr.write(f"{head}{text:<{self._width}}{tail}")
        sys.stderr.flush()


class Lines:
    """Progress for people: one redrawn line on a terminal, a line every 10 s into a log file."""

    @contextmanager
    def task(self, title: str, total: int, unit: str) -> Iterator[Task]:
        """Open a task shown on stderr."""
        line = _Line(title, total, unit, live=sys.stderr.isatty())
        try:
            yield line
        finally:
            line.finish()

    def note(self, text: str) -> None:
        """Write one indented line."""
        sys.stderr.write(f"  {text}\n")
        sys.stderr.flush()
