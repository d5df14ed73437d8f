"""A process that does jobs for the server at the other end of a socket, one after another, until that is gone.

The main thread works; another listens to the server and tells it ten times a second what is new. Modules and the
model stay in memory between jobs.
"""

from __future__ import annotations

import importlib
import os
import secrets
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from select import select
from threading import Event, Thread, Timer
from typing import Any, cast

import orjson

from atlas.errors import AtlasError
from atlas.server.jobs.channel import Channel, Gone, Message
from atlas.server.jobs.folders import read_request, write_result
from atlas.server.jobs.leftovers import watch_temporaries
from atlas.server.jobs.models import Models
from atlas.server.jobs.process import GRACE, held
from atlas.server.jobs.stages import Stages
from atlas.server.jobs.work import Cancelled, Work

_NICE = 5  # answers to requests come first
_TELL = 0.1  # seconds between two looks at what is new
_OOM = 500  # of 1000: when memory runs out, the system kills the worker and not the server


@dataclass(frozen=True)
class _Task:
    """A job that was given to this process."""

    order: Message
    stages: Stages
    stop: Event = field(default_factory=Event)

    @staticmethod
    def of(order: Message) -> _Task:
        """What the server's order says."""
        stop = Event()
        return _Task(order, Stages(order["stages"], partial(_check, stop)), stop)

    def work(self, models: Models) -> Work:
        """What its function is given."""
        atlas, data, folder = (Path(self.order[name]) for name in ("atlas", "data", "folder"))
        return Work(atlas, self.order["model"], data, folder, progress=self.stages, models=models)


class Worker:
    """The two threads of this process."""

    def __init__(self, channel: Channel) -> None:
        self._channel, self._models = channel, Models()
        self._tasks: SimpleQueue[_Task | None] = SimpleQueue()
        self._now: _Task | None = None  # given last; it may have ended
        self._gone = False
        self.folder: Path | None = None  # of the job that is done now

    def work(self) -> None:
        """Do jobs until the server is gone."""
        Thread(target=self._listen, name="server", daemon=True).start()
        while (task := self._tasks.get()) is not None and not self._gone:
            self.folder = Path(task.order["folder"])
            with suppress(Gone):
                self._channel.send({"id": task.order["id"], "begun": True})
            outcome = _do(task, self._models)
            self.folder = None
            with suppress(Gone):
                self._say_news()
                self._channel.send({"id": task.order["id"], **outcome})

    def _listen(self) -> None:
        try:
            while True:
                if select([self._channel], [], [], _TELL)[0]:
                    for message in self._channel.receive():
                        self._obey(message)
                self._say_news()
        except Gone:
            self._give_up()

    def _obey(self, message: Message) -> None:
        if "run" in message:
            self._now = _Task.of(message["run"])
            self._tasks.put(self._now)
        elif self._now is not None and self._now.order["id"] == message["stop"]:
            self._now.stop.set()

    def _say_news(self) -> None:
        task = self._now
        news = task.stages.news() if task else None
        if task and news:
            self._channel.send({"id": task.order["id"], "progress": news})

    def _give_up(self) -> None:
        """The server is gone: stop, and where that does not help end this process and its children."""
        self._gone = True
        if self._now is not None:
            self._now.stop.set()
        self._tasks.put(None)
        killer = Timer(GRACE, os.killpg, (0, signal.SIGKILL))
        killer.daemon = True
        killer.start()


def main(end: str, lock: str) -> None:
    """Serve the socket of this number."""
    os.dup2(2, 1)  # what a library prints belongs into the server's log
    os.nice(_NICE)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(_OOM))
    worker = Worker(Channel(socket.socket(fileno=int(end))))
    watch_temporaries(lambda: worker.folder)
    with held(Path(lock)):
        worker.work()


def _do(task: _Task, models: Models) -> Message:
    """Call the function of a job; how it came out."""
    work = task.work(models)
    try:
        result = _function(task.order["function"])(work, read_request(work.folder))
        write_result(work.folder, orjson.dumps(result, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS))
        return {"done": True}
    except Cancelled:
        return {"error": "cancelled", "details": None}
    except AtlasError as error:
        return {"error": str(error), "details": _known(error)}
    except OSError as error:
        from atlas.build.measurement import explain

        meant = explain(error, work.folder)
        return {"error": str(meant), "details": _known(meant)}
    except MemoryError:
        return {"error": "memory ran out; ask for less at a time", "details": "ResourceError"}
    except Exception:  # noqa: BLE001 - whatever it is, the worker goes on, and the client gets no trace of it
        number = secrets.token_hex(4)
        told = f"the server's log has it under {number}"
        return {"error": "internal error", "details": told, "fault": number, "trace": traceback.format_exc()}


def _function(name: str) -> Callable[[Work, dict[str, Any]], dict[str, Any]]:
    module, _, function = name.partition(":")
    return cast("Callable[[Work, dict[str, Any]], dict[str, Any]]", getattr(importlib.import_module(module), function))


def _known(error: AtlasError) -> str:
    """The nearest of atlas.errors: a module's own kind of error has the status of what it is a kind of."""
    return next(kind.__name__ for kind in type(error).__mro__ if kind.__module__ == AtlasError.__module__)


def _check(stop: Event) -> None:
    if stop.is_set():
        raise Cancelled


if __name__ == "__main__":
    main(*sys.argv[1:])
