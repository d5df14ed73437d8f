"""Kinds of jobs that are small and real: they sleep, write, fail or die. Imported in the worker processes."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from atlas.errors import InputError
from atlas.server.jobs.work import Kind, Work


def steps(work: Work, request: dict) -> dict:
    """Sleep in steps, keep count in a file, go on from there when called again."""
    kept = work.folder / "steps.txt"
    first = int(kept.read_text()) if kept.exists() else 0
    with work.progress.task("steps", request["steps"], "steps") as task:
        task.advance(first, free=True)
        for i in range(first, request["steps"]):
            time.sleep(request.get("seconds", 0.01))
            part = work.folder / "steps.part"
            part.write_text(str(i + 1))
            part.replace(kept)
            task.advance()
    kept.unlink()
    return {"steps": request["steps"], "first": first, "pid": os.getpid()}


def two_tasks(work: Work, request: dict) -> dict:
    """Two tasks with a note between."""
    for title in ("reading", "writing"):
        with work.progress.task(title, 10, "rows") as task:
            for _ in range(10):
                time.sleep(0.06)
                task.advance(told=f"{title} a row")
    return {}


def deaf(work: Work, request: dict) -> dict:
    """Start a process, write things aside, as the writers of atlas do, and never report."""
    beside = Path(request["beside"])
    with tempfile.TemporaryDirectory(prefix=".atlas.", dir=beside) as folder, open(Path(folder) / "half", "wb") as file:
        file.write(b"x" * 1000)
        file.flush()
        (beside / ".atlas.draft.tmp").mkdir()
        (beside / ".atlas.draft.tmp" / "half").write_text("x")
        (beside / ".atlas.json.part").write_text("x")
        (beside / ".kept").write_text("a cache of some library")
        with subprocess.Popen(["sleep", "600"]) as child:
            (beside / "child").write_text(str(child.pid))
            (beside / "begun").touch()
            time.sleep(request.get("seconds", 60))
            child.kill()
    (beside / ".atlas.draft.tmp" / "half").unlink()
    (beside / ".atlas.draft.tmp").rmdir()
    (beside / ".atlas.json.part").unlink()
    return {}


def fails(work: Work, request: dict) -> dict:
    """Fail in the way that is asked for."""
    if request["how"] == "input":
        raise InputError("layer 99 is out of range: this model has layers 0..3")
    if request["how"] == "memory":
        raise MemoryError
    if request["how"] == "set":
        return {"not JSON": {1, 2}}
    if request["how"] == "exit":
        os._exit(3)
    if request["how"] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    return {"never": 1 / 0}


def large(work: Work, request: dict) -> dict:
    """A result of about so many bytes."""
    return {"text": "x" * request["bytes"]}


def span(work: Work, request: dict) -> dict:
    """When it ran."""
    began = time.time()
    time.sleep(request["seconds"])
    return {"began": began, "ended": time.time(), "pid": os.getpid()}


def model(work: Work, request: dict) -> dict:
    """Which object the model is, in which process."""
    adapter = work.adapter()
    return {"pid": os.getpid(), "object": id(adapter), "model": adapter.spec.name, "nice": os.nice(0)}


def where(work: Work, request: dict) -> dict:
    """What it works on."""
    return {"atlas": str(work.atlas), "model": work.model}


def export(work: Work, request: dict) -> dict:
    """What an export of 7 features tells."""
    with work.progress.task("features", 7, "features") as task:
        for _ in range(7):
            time.sleep(0.1)
            task.advance()
    return {"output_path": "export.zip", "file_size": 12, "feature_count": 7}


KINDS = {
    "export": Kind("small_kinds:export"),
    "where": Kind("small_kinds:where"),
    "steps": Kind("small_kinds:steps", resumable=True),
    "two tasks": Kind("small_kinds:two_tasks", stages={"writing": 0.5}),
    "deaf": Kind("small_kinds:deaf"),
    "fails": Kind("small_kinds:fails"),
    "large": Kind("small_kinds:large"),
    "span": Kind("small_kinds:span"),
    "alone": Kind("small_kinds:span", exclusive=True),
    "model": Kind("small_kinds:model"),
    "absent": Kind("small_kinds:absent"),
}
