"""Jobs -> rows of one small SQLite file, so that they outlive the server; results over 1 MB stay files beside it.

Each change is one transaction in write-ahead mode: a killed process loses nothing that was written, a power cut may
lose the last changes but never the file.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Any

import orjson

from atlas.errors import ResourceError, StoreError
from atlas.server.jobs.job import Job
from atlas.server.jobs.work import Environment

VERSION = 1
_OURS = 0x61746C6A  # application_id: "atlj"
_TABLE = """
CREATE TABLE jobs (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,  -- order in which jobs were asked for
  turn INTEGER NOT NULL,                  -- order in which they are taken: a resumed job is the last again
  id TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, status TEXT NOT NULL, stage TEXT NOT NULL,
  progress REAL NOT NULL, done INTEGER NOT NULL, total INTEGER NOT NULL, unit TEXT NOT NULL, seconds_left REAL,
  request TEXT NOT NULL, result TEXT, error TEXT, details TEXT, owner TEXT,
  created REAL NOT NULL, started REAL, finished REAL,  -- seconds since 1970, UTC
  resumable INTEGER NOT NULL, attempts INTEGER NOT NULL,
  atlas TEXT NOT NULL, model TEXT, data TEXT NOT NULL  -- environment
) STRICT;
CREATE INDEX jobs_by_status ON jobs (status, finished);
"""
_TIMES = ("created", "started", "finished")
_LIVE = (
    "status", "stage", "progress", "done", "total", "unit", "seconds_left", "error", "details",
    "started", "finished", "resumable", "attempts",
)  # fmt: skip
_FIELDS = ("id", "kind", "request", "owner", "created", *_LIVE)  # of Job; the result is read only where it is asked for
_PLACED = (*_FIELDS, "turn", "atlas", "model", "data")
_SAVE = "UPDATE jobs SET " + ", ".join(f"{name} = :{name}" for name in _LIVE) + " WHERE id = :id"
_ADD = (
    f"INSERT INTO jobs ({', '.join(_PLACED)}) VALUES ("
    + ", ".join(f":{name}" if name != "turn" else "(SELECT coalesce(max(turn), 0) + 1 FROM jobs)" for name in _PLACED)
    + ")"
)
_READ = f"SELECT {', '.join(_FIELDS)} FROM jobs "


@dataclass(frozen=True)
class Chosen:
    """Which jobs to list; None: any."""

    kind: str | None = None
    status: str | None = None
    owner: str | None = None
    before: str | None = None  # id: only those asked for before it


class Store:
    """The open file; every method may be called from any thread and raises StoreError when the file fails."""

    def __init__(self, file: Path) -> None:
        self.file, self._lock = file, Lock()
        os.close(os.open(file, os.O_CREAT | os.O_RDWR, 0o600))  # SQLite gives its other files the same rights
        self._con = sqlite3.connect(file, check_same_thread=False, isolation_level=None, timeout=10)
        self._con.row_factory = sqlite3.Row
        try:
            with self._telling():
                self._open()
        except StoreError:
            self._con.close()
            raise

    def add(self, job: Job, environment: Environment) -> None:
        """A new job, last in turn."""
        where = {"atlas": str(environment.atlas), "model": environment.model, "data": str(environment.data)}
        self._write(_ADD, _row(job) | where)

    def save(self, job: Job) -> None:
        """Where it stands now."""
        self._write(_SAVE, _row(job))

    def finish(self, job: Job, result: bytes | None) -> None:
        """Where it stands and what came of it: JSON, None where that is a file or nothing came of it."""
        text = None if result is None else result.decode()
        with self._lock, self._telling(), self._transaction():
            self._con.execute(_SAVE, _row(job))
            self._con.execute("UPDATE jobs SET result = ? WHERE id = ?", (text, job.id))

    def requeue(self, job: Job) -> None:
        """As save, and last in turn."""
        with self._lock, self._telling(), self._transaction():
            self._con.execute(_SAVE, _row(job))
            self._con.execute("UPDATE jobs SET turn = (SELECT max(turn) + 1 FROM jobs) WHERE id = ?", (job.id,))

    def get(self, job_id: str) -> Job | None:
        """One job with its result, where that is in this file."""
        rows = self._rows(f"SELECT result, {', '.join(_FIELDS)} FROM jobs WHERE id = ?", (job_id,))
        return _job(rows[0]) if rows else None

    def environment(self, job_id: str) -> Environment:
        """What the job is to work on."""
        (row,) = self._rows("SELECT atlas, model, data FROM jobs WHERE id = ?", (job_id,))
        return Environment(Path(row["atlas"]), row["model"], Path(row["data"]))

    def newest(self, chosen: Chosen, limit: int) -> list[Job]:
        """Newest first, without results."""
        given = {"kind": chosen.kind, "status": chosen.status, "owner": chosen.owner}
        tests = [f"{name} = :{name}" for name, value in given.items() if value is not None]
        if chosen.before is not None:
            tests.append("seq < (SELECT seq FROM jobs WHERE id = :before)")
        where = f"WHERE {' AND '.join(tests)} " if tests else ""
        values = given | {"before": chosen.before, "limit": limit}
        return [_job(row) for row in self._rows(_READ + where + "ORDER BY seq DESC LIMIT :limit", values)]

    def unfinished(self) -> list[Job]:
        """Those that were queued or running, in turn."""
        return [_job(row) for row in self._rows(_READ + "WHERE status IN ('queued', 'running') ORDER BY turn", ())]

    def ids(self) -> set[str]:
        """Of all jobs."""
        return {row["id"] for row in self._rows("SELECT id FROM jobs", ())}

    def prune(self, *, before: float, keep: int) -> list[str]:
        """Forget what ended before a time (seconds since 1970), and all but the last `keep` others; their ids."""
        old = self._rows(
            "SELECT id FROM jobs WHERE status NOT IN ('queued', 'running') AND (finished < :at "
            "OR seq NOT IN (SELECT seq FROM jobs WHERE status NOT IN ('queued', 'running') "
            "ORDER BY finished DESC, seq DESC LIMIT :keep))",
            {"at": before, "keep": keep},
        )
        found = [row["id"] for row in old]
        with self._lock, self._telling(), self._transaction():
            for one in found:
                self._con.execute("DELETE FROM jobs WHERE id = ?", (one,))
        return found

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._con.close()

    def _open(self) -> None:
        application, version = (
            self._con.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")
        )
        tables = self._con.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
        if tables and application != _OURS:
            raise StoreError(f"{self.file} is no file of jobs (another program made it); move it away")
        if version > VERSION:
            raise StoreError(
                f"{self.file} has version {version} of the jobs, this atlas knows up to {VERSION}; "
                "use the atlas that wrote it, or move the file away"
            )
        self._con.execute("PRAGMA journal_mode = WAL")
        self._con.execute("PRAGMA synchronous = NORMAL")
        if not tables:
            self._con.executescript(
                f"BEGIN; {_TABLE} PRAGMA application_id = {_OURS}; PRAGMA user_version = {VERSION}; COMMIT;"
            )

    def _write(self, sql: str, values: dict[str, Any]) -> None:
        with self._lock, self._telling():
            self._con.execute(sql, values)

    def _rows(self, sql: str, values: Any) -> list[sqlite3.Row]:
        with self._lock, self._telling():
            return self._con.execute(sql, values).fetchall()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._con.execute("BEGIN IMMEDIATE")
        try:
            yield
        except sqlite3.Error:
            self._con.rollback()
            raise
        self._con.execute("COMMIT")

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.ProgrammingError as error:
            raise ResourceError("the server is stopping; ask again when it is back") from error
        except sqlite3.Error as error:
            raise StoreError(f"{self.file}: {error}; free disk space, or move the damaged file away") from error


def _row(job: Job) -> dict[str, Any]:
    row = {name: getattr(job, name) for name in _FIELDS}
    times = {name: None if row[name] is None else row[name].timestamp() for name in _TIMES}
    return row | times | {"request": orjson.dumps(job.request).decode()}


def _job(row: sqlite3.Row) -> Job:
    found = dict(row)
    for name in _TIMES:
        found[name] = None if found[name] is None else datetime.fromtimestamp(found[name], UTC)
    result = found.pop("result", None)
    job = Job(**found, result=None if result is None else orjson.loads(result))
    return replace(job, request=orjson.loads(found["request"]), resumable=bool(found["resumable"]))
