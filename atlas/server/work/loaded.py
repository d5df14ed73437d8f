"""The model that a worker holds -> a note in the data folder, so that the server can tell how much memory it takes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from atlas.export.folder import replace_bytes

if TYPE_CHECKING:
    from atlas.models.adapter import Adapter
    from atlas.server.jobs.work import Work

FOLDER = "loaded"  # one file for each worker: its process, the bytes of the model's parameters


def loaded_model(work: Work) -> Adapter:
    """The job's model, noted for GET /api/models/memory. ModelError, InputError."""
    adapter = work.adapter()
    tensors = (*adapter.model.parameters(), *adapter.model.buffers())
    size = sum({tensor.data_ptr(): tensor.nbytes for tensor in tensors}.values())  # tied ones once
    note = {"pid": os.getpid(), "born": _born(os.getpid()), "model": adapter.spec.name, "bytes": size}
    replace_bytes(work.data / FOLDER / f"{os.getpid()}.json", orjson.dumps(note))
    return adapter


def loaded(data: Path) -> list[dict[str, Any]]:
    """Notes of the workers that still run: pid, model, bytes of its parameters, rss of the process. Old ones go."""
    found = []
    for path in sorted((data / FOLDER).glob("*.json")):
        note = orjson.loads(path.read_bytes())
        if _born(note["pid"]) == note["born"]:
            found.append(note | {"rss": _rss(note["pid"])})
        else:
            path.unlink(missing_ok=True)
    return found


def _born(pid: int) -> float | None:
    """When a process began: a number that is used again is another process."""
    import psutil

    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error:
        return None


def _rss(pid: int) -> int:
    import psutil

    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0
