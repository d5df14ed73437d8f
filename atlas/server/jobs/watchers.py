"""A change in the thread of the workers -> waiting coroutines wake; no thread waits for them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Lock

_Watch = tuple[asyncio.AbstractEventLoop, asyncio.Event]


class Watchers:
    """Who waits for which job, in any event loop."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._watches: dict[str, list[_Watch]] = {}

    @contextmanager
    def watching(self, job_id: str) -> Iterator[asyncio.Event]:
        """An event that is set whenever the job changes; to be used inside a running loop."""
        watch = (asyncio.get_running_loop(), asyncio.Event())
        with self._lock:
            self._watches.setdefault(job_id, []).append(watch)
        try:
            yield watch[1]
        finally:
            with self._lock:
                self._watches[job_id].remove(watch)
                if not self._watches[job_id]:
                    del self._watches[job_id]

    def wake(self, job_id: str) -> None:
        """The job has changed."""
        with self._lock:
            watches = list(self._watches.get(job_id, ()))
        for loop, event in watches:
            with suppress(RuntimeError):  # that loop is closed: nobody waits there any more
                loop.call_soon_threadsafe(event.set)

    def wake_all(self) -> None:
        """Nothing will change any more."""
        with self._lock:
            waiting = list(self._watches)
        for job_id in waiting:
            self.wake(job_id)
