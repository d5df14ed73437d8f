"""Jobs that are not ended in memory, all of them in the file -> one truth that every thread may read and change."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from threading import RLock
from typing import Any

import orjson

from atlas.errors import StoreError
from atlas.server.jobs.folders import Folders
from atlas.server.jobs.job import Job, NotFound, Status, now
from atlas.server.jobs.store import Store
from atlas.server.jobs.watchers import Watchers
from atlas.server.jobs.work import Environment

_LOG = logging.getLogger("atlas.server.jobs")
_DAY = 86400.0


@dataclass(frozen=True)
class Keep:
    """How long things stay."""

    days: float = 30.0  # jobs that have ended, with their folders
    jobs: int = 1000  # the last so many of them
    idle: float = 600.0  # seconds that a worker without a job keeps its model


@dataclass(frozen=True)
class End:
    """How an attempt came out."""

    status: Status
    error: str | None = None
    details: str | None = None
    killed: bool = False  # the worker had no time to clean up
    resumable: bool = False


class Book:
    """Every job. What is read stays consistent while `lock` is held."""

    def __init__(self, store: Store, folders: Folders, keep: Keep) -> None:
        self.lock, self.watchers = RLock(), Watchers()
        self.store, self.folders, self._keep = store, folders, keep
        self.live: dict[str, Job] = {}  # queued and running, in turn
        self.closing = False  # no new jobs
        self.closed = False  # nothing changes any more

    def get(self, job_id: str) -> Job:
        """One job; NotFound."""
        with self.lock:
            found = self.live.get(job_id) or self.store.get(job_id)
        if found is None:
            raise NotFound(f"no job {job_id!r}; it never was, or it ended so long ago that it is forgotten")
        if found.status == "completed" and found.result is None:  # a large one
            return replace(found, result=self.folders.read_result(job_id))
        return found

    def is_live(self, job_id: str) -> bool:
        """Whether something may still happen to it by itself."""
        with self.lock:
            return job_id in self.live and not self.live[job_id].ended

    def waiting(self) -> list[Job]:
        """Queued jobs, in turn."""
        with self.lock:
            return [job for job in self.live.values() if job.status == "queued"]

    def add(self, job: Job, environment: Environment) -> None:
        """A new job, last in turn."""
        with self.lock:
            self.store.add(job, environment)
            self.live[job.id] = job

    def requeue(self, job: Job) -> None:
        """A job that had ended, last in turn."""
        with self.lock:
            self.store.requeue(job)
            self.live[job.id] = job
        self.watchers.wake(job.id)

    def change(self, job_id: str, **what: Any) -> Job:
        """A live job stands elsewhere; a full disk is logged and does not stop it."""
        with self.lock:
            job = self.live[job_id] = replace(self.live[job_id], **what)
            try:
                self.store.save(job)
            except StoreError:
                _LOG.exception("job %s is not saved", job_id)
        self.watchers.wake(job_id)
        return job

    def end(self, job_id: str, end: End) -> None:
        """A live job has ended; its files are kept, or removed unless a resumed job goes on from them."""
        result = self.folders.small_result(job_id) if end.status == "completed" else None
        kept = end.status == "completed" or end.resumable
        what: dict[str, Any] = {
            "status": end.status, "error": end.error, "details": end.details, "resumable": end.resumable,
            "finished": now(), "seconds_left": None,
        }  # fmt: skip
        if end.status == "completed":
            what |= {"stage": "completed", "progress": 1.0}
        self.folders.tidy(job_id, killed=end.killed, keep=kept)
        with self.lock:
            job = replace(self.live[job_id], **what)
            self.live[job_id] = job if result is None else replace(job, result=orjson.loads(result))
            if self._saved(job, result) and not self.closing:  # else who waits for it may still ask
                del self.live[job_id]
        self.watchers.wake(job_id)

    def _saved(self, job: Job, result: bytes | None) -> bool:
        try:
            self.store.finish(job, result)
        except StoreError:
            _LOG.exception("the end of job %s is not saved", job.id)
            return False
        if result is not None:
            self.folders.drop_result(job.id)
        return True

    def prune(self) -> None:
        """Forget what ended long ago."""
        try:
            old = self.store.prune(before=time.time() - self._keep.days * _DAY, keep=self._keep.jobs)
        except StoreError:
            _LOG.exception("old jobs are not removed")
            return
        for job_id in old:
            self.folders.drop(job_id)

    def close(self) -> None:
        """Nothing changes any more; who waits is told."""
        self.closed = True
        self.watchers.wake_all()
