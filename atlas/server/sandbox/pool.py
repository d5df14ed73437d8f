"""Statements -> rows, by a few processes that are started when needed and killed when a statement takes too much.

A kill is the whole of a timeout, of a client that went away and of a statement that took too much memory: a process
costs half a second to start anew, and nothing of what it did is left.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atlas.errors import AtlasError, InputError, StoreError
from atlas.server.errors import Refusal
from atlas.server.sandbox.frames import FRAME
from atlas.server.settings import Settings

_QUEUE_SECONDS = 5.0  # to wait for a free process
_START_SECONDS = 60.0


@dataclass(frozen=True)
class Statement:
    """SQL and how its rows are wanted: `form` json, jsonl, csv or arrow; limit 0: all (not of json)."""

    sql: str
    parameters: dict[str, Any] | None
    form: str
    limit: int


class Worker:
    """One process; `spoilt` when it cannot be asked again."""

    def __init__(self, process: Process, identity: str, settings: Settings) -> None:
        self._process, self.identity, self._settings = process, identity, settings
        self.spoilt = False

    async def open(self, path: Path) -> None:
        """Let it open the atlas; StoreError when it cannot."""
        where = self._settings
        given = {"atlas": str(path), "memory": where.sql_memory, "bytes": bytes_of(where.sql_memory)}
        await self._write(given | {"threads": where.threads or 2})
        async with asyncio.timeout(_START_SECONDS):
            kind, content = await self.frame()
        if kind == b"E":
            raise _error(json.loads(content), where)

    async def ask(self, statement: Statement) -> AsyncIterator[tuple[bytes, bytes]]:
        """Frames H, P ... and Z of a statement; an error of it is raised."""
        self.spoilt = True  # until the last frame: whoever leaves before leaves a process that still works
        order = vars(statement) | {"max_bytes": self._settings.max_bytes}
        await self._write(order)
        while True:
            kind, content = await self.frame()
            if kind == b"E":
                self.spoilt = json.loads(content)["kind"] != "input"
                raise _error(json.loads(content), self._settings)
            self.spoilt = kind != b"Z"
            yield kind, content
            if kind == b"Z":
                return

    async def frame(self) -> tuple[bytes, bytes]:
        """The next frame; a process that died did so over its memory."""
        assert self._process.stdout is not None
        try:
            kind, length = FRAME.unpack(await self._process.stdout.readexactly(FRAME.size))
            return kind, await self._process.stdout.readexactly(length)
        except asyncio.IncompleteReadError:
            raise _error({"kind": "memory"}, self._settings) from None

    def kill(self) -> None:
        """End it now, whatever it does."""
        self.spoilt = True
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.kill()

    async def gone(self) -> None:
        """Wait until the system has taken it away."""
        await self._process.wait()
        self._process._transport.close()  # type: ignore[attr-defined]  # else its pipes wait for the collector

    async def _write(self, order: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        with suppress(ConnectionError):  # it died: the missing frame says so
            await self._process.stdin.drain()


class Sandbox:
    """The processes of one server, at most `sql_workers`."""

    def __init__(self, settings: Settings, path: Path, identity: Callable[[], str]) -> None:
        self._settings, self._path, self._identity = settings, path, identity
        self._slots = asyncio.Semaphore(settings.sql_workers)
        self._idle: list[Worker] = []
        self._all: set[Worker] = set()

    @asynccontextmanager
    async def worker(self) -> AsyncIterator[Worker]:
        """A free process of the atlas as it is now; Refusal 503 when none becomes free within seconds."""
        try:
            async with asyncio.timeout(_QUEUE_SECONDS):
                await self._slots.acquire()
        except TimeoutError:
            busy = f"{self._settings.sql_workers} statements are running"
            raise Refusal(503, busy, details="ask again in a moment", headers={"retry-after": "5"}) from None
        worker: Worker | None = None
        try:
            worker = await self._free()
            yield worker
        finally:
            if worker is not None:
                self._put_back(worker)
            self._slots.release()

    async def close(self) -> None:
        """Kill all of them and take them away, while there is an event loop to do it."""
        for worker in list(self._all):
            self._drop(worker)
            await worker.gone()

    async def _free(self) -> Worker:
        identity = self._identity()
        while self._idle:
            worker = self._idle.pop()
            if worker.identity == identity and not worker.spoilt:
                return worker
            self._drop(worker)  # of a file that was replaced
        return await self._start(identity)

    async def _start(self, identity: str) -> Worker:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "atlas.server.sandbox.process", stdin=PIPE, stdout=PIPE, stderr=DEVNULL,
            env=_environment(), start_new_session=True, limit=1 << 20,
        )  # fmt: skip
        worker = Worker(process, identity, self._settings)
        self._all.add(worker)
        try:
            await worker.open(self._path)
        except BaseException:
            self._drop(worker)
            raise
        return worker

    def _put_back(self, worker: Worker) -> None:
        if worker.spoilt:
            self._drop(worker)
        else:
            self._idle.append(worker)

    def _drop(self, worker: Worker) -> None:
        worker.kill()
        self._all.discard(worker)


def bytes_of(size: str) -> int:
    """Bytes of "2GiB" as DuckDB reads it; InputError for anything else."""
    units = {"KIB": 10, "MIB": 20, "GIB": 30, "TIB": 40}
    number, unit = size.strip()[:-3], size.strip()[-3:].upper()
    if unit not in units or not number.strip().replace(".", "", 1).isdigit():
        raise InputError(f"cannot read a size from {size!r}; use a form such as 2GiB or 512MiB")
    return int(float(number) * (1 << units[unit]))


def _environment() -> dict[str, str]:
    """No more than Python needs: nothing of the server's environment is there to be read."""
    path = os.pathsep.join(os.path.abspath(one) for one in sys.path)
    return {"PYTHONPATH": path, "PATH": os.defpath, "LANG": "C.UTF-8", "TZ": os.environ.get("TZ", "UTC")}


def _error(told: dict[str, str], settings: Settings) -> AtlasError:
    if told["kind"] == "memory":
        return InputError(
            f"the statement needs more than {settings.sql_memory} of memory, which is what one may take; narrow it"
        )
    return (InputError if told["kind"] == "input" else StoreError)(told["message"])
