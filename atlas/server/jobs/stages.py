"""Tasks that a job opens, one after another or one in another -> one fraction that never goes back.

How many tasks will come is not known beforehand. A task that its kind lists has the share that is listed; any other
takes 90% of what is promised to none, so that a job of one task stands at 0.9 when the task is done.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from threading import Lock
from typing import Any

_TAKEN = 0.9
_NOTE = 2000  # characters


class Stages:
    """Progress of a job (see atlas.progress); `check` is called by every report and raises where the job is to stop."""

    def __init__(self, shares: Mapping[str, float], check: Callable[[], None]) -> None:
        self._shares, self._check, self._lock = dict(shares), check, Lock()
        self._open: list[_Stage] = []
        self._progress, self._note = 0.0, ""
        self._last: _Stage | None = None  # that moved
        self._changed = False

    @contextmanager
    def task(self, title: str, total: int, unit: str) -> Iterator[_Stage]:
        """Open a stage."""
        self._check()
        with self._lock:
            stage = _Stage(self, title, total, unit)
            stage.start, stage.span = self._place(title)
            self._open.append(stage)
        self.moved(stage)
        try:
            yield stage
            self._reach(stage.start + stage.span)
        finally:
            with self._lock:
                self._open.remove(stage)

    def note(self, text: str) -> None:
        """Keep the last thing said."""
        self._check()
        with self._lock:
            self._note = text[:_NOTE]
            self._changed = True

    def moved(self, stage: _Stage, amount: int = 0, *, told: str = "", free: bool = False) -> None:
        """A stage has advanced."""
        self._check()
        with self._lock:
            stage.done += amount
            stage.free += amount if free else 0
            self._note = told[:_NOTE] or self._note
            self._progress = min(max(self._progress, stage.at), 1.0)
            self._last, self._changed = stage, True

    def news(self) -> dict[str, Any] | None:
        """Where the job stands (fields of Job), if that has changed since this was last asked."""
        with self._lock:
            changed, self._changed = self._changed, False
            return self._report() if changed else None

    def _place(self, title: str) -> tuple[float, float]:
        """Where a stage begins and how much of the whole it is: inside an open one, one unit of that."""
        share = self._shares.pop(title, None)
        if self._open:
            outer = self._open[-1]
            return outer.at, outer.span / max(outer.total, 1)
        free = max(1.0 - self._progress - sum(self._shares.values()), 0.0)
        return self._progress, min(_TAKEN * free if share is None else share, 1.0 - self._progress)

    def _reach(self, at: float) -> None:
        with self._lock:
            self._progress = min(max(self._progress, at), 1.0)

    def _report(self) -> dict[str, Any]:
        stage, said = self._last, {"details": self._note or None}
        if stage is None:
            return said
        return said | {
            "stage": stage.title,
            "progress": round(self._progress, 6),
            "done": stage.done,
            "total": stage.total,
            "unit": stage.unit,
            "seconds_left": stage.seconds_left(),
        }


class _Stage:
    """A task that is under way."""

    def __init__(self, whole: Stages, title: str, total: int, unit: str) -> None:
        self._whole, self.title, self.total, self.unit = whole, title, total, unit
        self.start, self.span = 0.0, 0.0
        self.done, self.free, self._began = 0, 0, time.monotonic()

    @property
    def at(self) -> float:
        """Its place in the whole."""
        return self.start + self.span * min(self.done / self.total, 1.0) if self.total else self.start

    def advance(self, amount: int = 1, *, told: str = "", free: bool = False) -> None:
        """Count; raises Cancelled when the job is to stop."""
        self._whole.moved(self, amount, told=told, free=free)

    def seconds_left(self) -> float | None:
        """Of this stage, at its rate so far; None without a rate."""
        counted = self.done - self.free
        if counted <= 0:
            return None
        spent = time.monotonic() - self._began
        return round(max(self.total - self.done, 0) * spent / counted, 1)
