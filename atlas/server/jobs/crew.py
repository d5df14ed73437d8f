"""Queued jobs -> worker processes that do them: one thread that assigns, listens, and ends what does not stop.

Whatever happens to a worker happens in this thread, so that nothing here needs a lock but the book.
"""

from __future__ import annotations

import logging
import selectors
import signal
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from threading import Thread

from atlas.server.jobs.book import Book, End
from atlas.server.jobs.channel import Gone, Message
from atlas.server.jobs.job import Job, now
from atlas.server.jobs.process import GRACE, WorkerProcess
from atlas.server.jobs.work import Kind

_LOG = logging.getLogger("atlas.server.jobs")
STOPPED = "the server stopped"
_TELL = 0.25  # seconds between two changes of progress that are written and told


class Crew:
    """At most `workers` processes, made when they are needed and given back after `idle` seconds without a job."""

    def __init__(self, book: Book, kinds: Mapping[str, Kind], locks: Path, *, workers: int, idle: float) -> None:
        self._book, self._kinds, self._locks, self._most, self._idle = book, kinds, locks, workers, idle
        self._workers: list[WorkerProcess] = []
        self._stops: set[str] = set()
        self._closing = False
        self._selector = selectors.DefaultSelector()
        self._ear, self._mouth = socket.socketpair()
        self._ear.setblocking(False)
        self._mouth.setblocking(False)
        self._selector.register(self._ear, selectors.EVENT_READ)
        self._thread = Thread(target=self._run, name="jobs", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """There is a new job, or a wish; from any thread."""
        with suppress(BlockingIOError):  # it has been woken often enough
            self._mouth.send(b"!")

    def stop(self, job_id: str) -> None:
        """Ask a running job to stop; it is killed where it does not."""
        self._stops.add(job_id)
        self.wake()

    def close(self) -> None:
        """Stop every job, end every worker; within GRACE and what a kill takes."""
        self._closing = True
        self.wake()
        self._thread.join()
        self._selector.close()
        self._ear.close()
        self._mouth.close()

    def _run(self) -> None:
        while not self._closing or self._busy():
            self._ask_to_stop()
            if not self._closing:
                self._assign()
            for key, _ in self._selector.select(self._pause()):
                if key.data is None:
                    self._ear.recv(4096)
                elif key.data in self._workers:
                    self._hear(key.data)
            self._keep_time()
        for worker in list(self._workers):
            self._dismiss(worker)

    def _busy(self) -> list[WorkerProcess]:
        return [worker for worker in self._workers if worker.job]

    def _ask_to_stop(self) -> None:
        wanted = set(self._stops)  # another thread may add to it meanwhile
        self._stops -= wanted
        for worker in self._busy():
            if worker.stop_for is None and (self._closing or worker.job in wanted):
                worker.stop_for = "cancelled" if worker.job in wanted else "interrupted"
                worker.kill_at = time.monotonic() + GRACE
                self._send(worker, {"stop": worker.job})

    def _assign(self) -> None:
        while len(self._busy()) < self._most and (job := self._next()) is not None:
            self._begin(job)

    def _next(self) -> Job | None:
        """The first queued job that may run beside those that do."""
        kinds = [self._kinds[self._book.live[worker.job].kind] for worker in self._busy() if worker.job]
        taken = any(kind.exclusive for kind in kinds)
        waiting = self._book.waiting()
        return next((job for job in waiting if not (taken and self._kinds[job.kind].exclusive)), None)

    def _begin(self, job: Job) -> None:
        """Give a job to a worker."""
        with self._book.lock:
            if job.id not in self._book.live:
                return  # cancelled meanwhile
            what = {"status": "running", "stage": "starting", "started": now(), "attempts": job.attempts + 1}
            self._book.change(job.id, **what)
        try:
            worker = self._ready()
            worker.begin(job.id, self._order(job))
        except Gone:
            self._lost(worker, gone=True)
        except OSError as error:
            self._end(job.id, End("failed", f"the job cannot begin: {error}; free memory or disk and ask again"))

    def _ready(self) -> WorkerProcess:
        """The idle worker that worked last, its memory is the warmest; a new one where there is none."""
        for worker in [one for one in self._workers if not one.job and one.dead]:
            self._dismiss(worker, gone=True)
        idle = [worker for worker in self._workers if not worker.job]
        return max(idle, key=lambda one: one.idle_since) if idle else self._hire()

    def _hire(self) -> WorkerProcess:
        slots = {worker.lock.stem for worker in self._workers}
        free = next(str(i) for i in range(self._most) if str(i) not in slots)
        worker = WorkerProcess(self._locks / f"{free}.lock")
        self._workers.append(worker)
        self._selector.register(worker.channel, selectors.EVENT_READ, worker)
        return worker

    def _order(self, job: Job) -> Message:
        kind, environment = self._kinds[job.kind], self._book.store.environment(job.id)
        return {
            "id": job.id,
            "function": kind.function,
            "stages": dict(kind.stages),
            "folder": str(self._book.folders.prepare(job.id, job.request)),
            "atlas": str(environment.atlas),
            "model": environment.model,
            "data": str(environment.data),
        }

    def _send(self, worker: WorkerProcess, message: Message) -> None:
        try:
            worker.channel.send(message)
        except Gone:
            self._lost(worker, gone=True)

    def _hear(self, worker: WorkerProcess) -> None:
        try:
            messages = worker.channel.receive()
        except Gone:
            self._lost(worker, gone=True)
            return
        for message in messages:
            if worker.job is None or message["id"] != worker.job:
                continue
            if "begun" in message:
                worker.begun = True
            elif "progress" in message:
                worker.report = message["progress"]
            else:
                self._ended(worker, message)

    def _keep_time(self) -> None:
        at = time.monotonic()
        for worker in list(self._workers):
            if worker.job and worker.report and at >= worker.told + _TELL:
                self._book.change(worker.job, **worker.report)
                worker.report, worker.told = None, at
            if worker.kill_at is not None and at >= worker.kill_at:
                self._lost(worker)
            elif not worker.job and at >= worker.idle_since + self._idle:
                self._dismiss(worker)

    def _pause(self) -> float | None:
        """Seconds until something is due."""
        due = [worker.told + _TELL for worker in self._busy() if worker.report]
        due += [worker.kill_at for worker in self._workers if worker.kill_at is not None]
        due += [worker.idle_since + self._idle for worker in self._workers if not worker.job]
        return max(min(due) - time.monotonic(), 0.0) if due else None

    def _ended(self, worker: WorkerProcess, message: Message) -> None:
        """An attempt came to its end by itself."""
        job, stop_for = worker.job or "", worker.stop_for
        self._tell_last(worker)
        worker.rest()
        if "trace" in message:
            _LOG.error("job %s: fault %s\n%s", job, message["fault"], message["trace"])
        if "done" in message:
            self._end(job, End("completed"))
        elif stop_for == "cancelled":
            self._end(job, End("cancelled"))
        elif stop_for:
            self._end(job, End("interrupted", STOPPED, resumable=self._resumable(job)))
        else:
            self._end(job, End("failed", message["error"], message["details"], resumable=self._resumable(job)))

    def _lost(self, worker: WorkerProcess, *, gone: bool = False) -> None:
        """A worker is dead, or has to be."""
        self._tell_last(worker)
        job, status = worker.job, self._dismiss(worker, gone=gone)
        if job is None:
            return
        if worker.warm and not worker.begun and not worker.stop_for:  # it was dead before: nothing was done
            attempts = self._book.live[job].attempts - 1
            self._book.change(job, status="queued", stage="queued", started=None, attempts=attempts)
        else:
            self._end(job, self._end_of_lost(job, worker.stop_for, status))

    def _end_of_lost(self, job: str, stop_for: str | None, status: int) -> End:
        again = self._resumable(job)
        if self._book.folders.has_result(job):
            return End("completed", killed=True)
        if stop_for == "cancelled":
            return End("cancelled", killed=True)
        if stop_for:
            return End("interrupted", STOPPED, killed=True, resumable=again)
        return End("interrupted" if again else "failed", _cause(status), killed=True, resumable=again)

    def _tell_last(self, worker: WorkerProcess) -> None:
        if worker.job and worker.report:
            self._book.change(worker.job, **worker.report)
            worker.report = None

    def _dismiss(self, worker: WorkerProcess, *, gone: bool = False) -> int:
        self._selector.unregister(worker.channel)
        self._workers.remove(worker)
        return worker.end(gone=gone)

    def _end(self, job: str, end: End) -> None:
        self._book.end(job, end)
        self._book.prune()

    def _resumable(self, job: str) -> bool:
        return self._kinds[self._book.live[job].kind].resumable


def _cause(status: int) -> str:
    if status >= 0:
        return f"the worker process ended with exit status {status} in the middle of the job; the server's log says why"
    name = signal.Signals(-status).name
    why = ", as the system does when memory runs out" if -status == signal.SIGKILL else ""
    return f"the worker process was killed by signal {-status} ({name}){why}"
