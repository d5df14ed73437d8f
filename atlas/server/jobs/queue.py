"""Requests -> jobs: submitted, listed, watched, cancelled, resumed; the one door to this package.

>>> from atlas.server.jobs.queue import Jobs
>>> from atlas.server.jobs.work import Environment
>>> jobs = Jobs(folder, Environment(atlas, model=None, data=folder))     # doctest: +SKIP
>>> jobs.submit("impact", {"neurons": ["L0/N5"]}).status                 # doctest: +SKIP
'queued'
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from atlas.errors import InputError, ResourceError, StoreError
from atlas.server.jobs.book import Book, End, Keep
from atlas.server.jobs.crew import Crew
from atlas.server.jobs.folders import Folders
from atlas.server.jobs.job import STATUSES, Job, now
from atlas.server.jobs.process import end_orphans
from atlas.server.jobs.store import Chosen, Store
from atlas.server.jobs.work import KINDS, Environment, Kind

WORKERS = "workers"  # folder of their locks


class Jobs:
    """All jobs of one server. Every method may be called from any thread, `wait` and `events` from any event loop.

    Raises StoreError when another server uses the folder, or its file of jobs is damaged or newer than this program.
    """

    def __init__(
        self,
        folder: Path,
        environment: Environment,
        *,
        workers: int = 1,
        queued: int = 100,
        kinds: Mapping[str, Kind] | None = None,
        keep: Keep | None = None,
    ) -> None:
        if workers < 1 or queued < 1:
            raise InputError(f"{workers} workers and {queued} queued jobs were asked for; give at least 1 of each")
        self.environment = environment  # of the jobs that are submitted from now on
        self._kinds, self._queued, keep = KINDS if kinds is None else kinds, queued, keep or Keep()
        try:
            self._lock = _only_server(folder)
            self._book = _open(folder, self._lock, keep)
        except OSError as error:
            told = f"{folder} cannot hold jobs: {(error.strerror or str(error)).lower()}"
            raise StoreError(f"{told}; give the server another folder (--data)") from error
        _take_up(self._book, self._kinds)
        self._crew = Crew(self._book, self._kinds, folder / WORKERS, workers=workers, idle=keep.idle)

    def submit(
        self, kind: str, request: dict[str, Any], *, owner: str | None = None, environment: Environment | None = None
    ) -> Job:
        """Queue a job, on another model where an environment of its own is given.

        InputError for an unknown kind, ResourceError when too many wait already.
        """
        if kind not in self._kinds:
            raise InputError(f"no jobs of kind {kind!r}; known: {', '.join(sorted(self._kinds))}")
        job = Job(
            id=str(uuid.uuid4()), kind=kind, status="queued", stage="queued", progress=0.0, done=0, total=0, unit="",
            seconds_left=None, request=request, result=None, error=None, details=None, owner=owner, created=now(),
            started=None, finished=None, resumable=False, attempts=0,
        )  # fmt: skip
        with self._book.lock:
            self._room()
            self._book.add(job, environment or self.environment)
        self._crew.wake()
        return job

    def get(self, job_id: str) -> Job:
        """One job, with its result; NotFound."""
        return self._book.get(job_id)

    def folder(self, job_id: str) -> Path:
        """Where the files are that a job made; NotFound."""
        return self._book.folders.of(self.get(job_id).id)

    def list(
        self,
        *,
        kind: str | None = None,
        status: str | None = None,
        owner: str | None = None,
        limit: int = 50,
        before: str | None = None,
    ) -> list[Job]:
        """Newest first, without results; `before`: an id, only jobs asked for before it. InputError for the filters."""
        if status is not None and status not in STATUSES:
            raise InputError(f"no status {status!r}; choose one of {', '.join(STATUSES)}")
        if limit < 1:
            raise InputError(f"a limit of {limit} jobs was asked for; give at least 1")
        if before is not None:
            self.get(before)
        found = self._book.store.newest(Chosen(kind, status, owner, before), limit)
        return [self._book.live.get(job.id, job) for job in found]

    def cancel(self, job_id: str) -> Job:
        """End a job: at once where it waits, within 2 s where it runs. One that has ended stays as it is.

        An interrupted one is given up: it can not be resumed any more, and what it had made is removed.
        """
        with self._book.lock:
            job = self.get(job_id)
            if job.status == "queued":
                self._book.end(job_id, End("cancelled"))
            elif job.status == "running":
                self._crew.stop(job_id)
            elif job.resumable:
                self._book.requeue(job)
                self._book.end(job_id, End("cancelled", job.error))
            return self.get(job_id)

    def resume(self, job_id: str) -> Job:
        """Queue an interrupted or failed job again; it goes on from what its folder holds.

        InputError where there is nothing to resume, ResourceError when too many jobs wait.
        """
        with self._book.lock:
            job = self.get(job_id)
            if not job.resumable or job.kind not in self._kinds:
                raise InputError(
                    f"job {job_id} ({job.kind}) is {job.status} and cannot be resumed: that can interrupted and failed "
                    "jobs of kinds that keep what they have done; ask for it anew"
                )
            self._room()
            fresh = replace(job, status="queued", stage="queued", progress=0.0, error=None, details=None)
            fresh = replace(fresh, done=0, total=0, finished=None, resumable=False)
            self._book.requeue(fresh)
        self._crew.wake()
        return fresh

    async def wait(self, job_id: str, seconds: float) -> Job:
        """The job as soon as it has ended, or as it stands after so many seconds."""
        with self._book.watchers.watching(job_id) as changed, suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._book.is_live(job_id) and not self._book.closed:
                    await changed.wait()
                    changed.clear()
        return await self._read(job_id)

    async def events(self, job_id: str) -> AsyncIterator[Job]:
        """The job now, then whenever it has changed (progress: 4 times a second at most); ends after its end."""
        told: Job | None = None
        with self._book.watchers.watching(job_id) as changed:
            while True:
                changed.clear()
                last = self._book.closed  # looked at before the job: what is read then is final
                job = await self._read(job_id)
                if job != told:
                    yield job
                if job.ended or last:
                    return
                told = job
                await changed.wait()

    def close(self) -> None:
        """Stop: running jobs become interrupted, queued ones run when the folder is opened again."""
        with self._book.lock:
            if self._book.closing:
                return
            self._book.closing = True
        self._crew.close()
        self._book.close()
        self._book.folders.close()
        self._book.store.close()
        self._lock.close()

    async def _read(self, job_id: str) -> Job:
        """As get; a large result is read in another thread."""
        return self.get(job_id) if self._book.is_live(job_id) else await asyncio.to_thread(self.get, job_id)

    def _room(self) -> None:
        if self._book.closing:
            raise ResourceError("the server is stopping and takes no jobs; ask again when it is back")
        waiting = len(self._book.waiting())
        if waiting >= self._queued:
            raise ResourceError(f"{waiting} jobs wait already, the limit is {self._queued}; ask again later")


def _only_server(folder: Path) -> IO[str]:
    """Exclude a second server on a folder (the lock goes with the process, also when it is killed)."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = (folder / "jobs.lock").open("a+")
    os.chmod(handle.fileno(), 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        handle.seek(0)
        owner = handle.read().strip() or "unknown"
        handle.close()
        raise StoreError(
            f"{folder} is used by another server (process {owner}); stop it, or give another folder"
        ) from error
    handle.truncate(0)
    handle.write(str(os.getpid()))
    handle.flush()
    return handle


def _open(folder: Path, lock: IO[str], keep: Keep) -> Book:
    """What a folder holds, without the workers of a server before; the lock is given back when that fails."""
    try:
        (folder / WORKERS).mkdir(mode=0o700, exist_ok=True)
        end_orphans(folder / WORKERS)
        folders = Folders(folder / "jobs")
        return Book(Store(folder / "jobs.sqlite"), folders, keep)
    except (StoreError, OSError):
        lock.close()
        raise


def _take_up(book: Book, kinds: Mapping[str, Kind]) -> None:
    """Jobs of a server before this one: those that ran are interrupted, those that waited wait again."""
    for job in book.store.unfinished():
        book.live[job.id] = job
        known = job.kind in kinds
        if job.status == "running":
            again = known and kinds[job.kind].resumable
            ended = End("interrupted", "the server was killed", killed=True, resumable=again)
            book.end(job.id, End("completed", killed=True) if book.folders.has_result(job.id) else ended)
        elif not known:
            book.end(job.id, End("failed", f"this server has no jobs of kind {job.kind!r}"))
    book.folders.drop_unknown(book.store.ids())
    book.prune()
