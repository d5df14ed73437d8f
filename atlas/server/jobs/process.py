"""One worker process as its server sees it: spawned, spoken to, killed."""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from atlas.server.jobs.channel import Channel

_LOG = logging.getLogger("atlas.server.jobs")
GRACE = 1.2  # seconds between the wish that a job stops and the kill
_PATIENCE = 5.0  # seconds that a killed process may take to go
_LAST = 0.2  # seconds that a process which has closed its socket may take to end by itself


class WorkerProcess:
    """A process that does one job at a time. It dies with its server: the socket between them is closed then."""

    def __init__(self, lock: Path) -> None:
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", "atlas.server.jobs.worker", str(theirs.fileno()), str(lock)]
        self.lock = lock
        with theirs:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=os.environ | {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},
                start_new_session=True,  # Ctrl-C in a terminal is for the server, which asks jobs to stop
            )
        self.channel = Channel(ours)
        self.job: str | None = None
        self.begun = False  # it has said that it works on the job
        self.warm = False  # it has done a job before
        self.stop_for: str | None = None  # status that a job gets which was asked to stop
        self.kill_at: float | None = None
        self.idle_since = time.monotonic()
        self.report: dict[str, Any] | None = None  # progress that is not told yet
        self.told = 0.0

    def begin(self, job: str, order: dict[str, Any]) -> None:
        """Give it a job; Gone when it has died."""
        self.job, self.begun, self.stop_for, self.kill_at, self.report, self.told = job, False, None, None, None, 0.0
        self.channel.send({"run": order})

    def rest(self) -> None:
        """Its job has ended."""
        self.job, self.report, self.kill_at, self.idle_since = None, None, None, time.monotonic()
        self.warm = True

    @property
    def dead(self) -> bool:
        """Whether it has ended without being asked to, while it had nothing to do."""
        return self._process.poll() is not None

    def end(self, *, gone: bool = False) -> int:
        """Kill it with its children; its exit status (-9: by signal 9). `gone`: it has closed its socket."""
        self.channel.close()
        if gone:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_LAST)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        try:
            return self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            _LOG.error("worker %s does not end", self._process.pid)  # in the kernel: a dead disk or driver
            return -signal.SIGKILL


@contextmanager
def held(lock: Path) -> Iterator[None]:
    """In the worker: a lock that says who works, for as long as it lives."""
    with lock.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        handle.truncate(0)
        handle.write(str(os.getpid()))
        handle.flush()
        yield


def end_orphans(folder: Path) -> None:
    """Kill workers whose server was killed: whoever holds a lock is alive and is the process that the file names."""
    for lock in folder.glob("*.lock"):
        with lock.open() as handle:
            for _ in range(int(_PATIENCE * 20)):
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    _kill(handle.read())
                    handle.seek(0)
                    time.sleep(0.05)
        lock.unlink()


def _kill(pid: str) -> None:
    with suppress(ValueError, ProcessLookupError):
        os.killpg(int(pid), signal.SIGKILL)
