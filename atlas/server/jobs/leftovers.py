"""Files that a killed worker was writing aside -> removed.

Python announces every temporary file and folder (audit events of module tempfile) before it makes it. A worker writes
those names into its job's folder, so that a server knows what to remove, also the next one.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

_LIST = "temporary.txt"
_EVENTS = ("tempfile.mkdtemp", "tempfile.mkstemp")


def watch_temporaries(folder: Callable[[], Path | None]) -> None:
    """Note what this process makes from now on in the folder of the job that it does, if there is one.

    An audit hook cannot be taken away again: call it once in a process.
    """

    def hook(event: str, args: tuple[object, ...]) -> None:
        if event in _EVENTS and (where := folder()) is not None:
            _note(where, str(args[0]))

    sys.addaudithook(hook)


def remove_temporaries(folder: Path) -> list[Path]:
    """Remove what the dead worker of a job left; what was removed."""
    listed = folder / _LIST
    found = [Path(line) for line in _lines(listed)]
    left = [path for path in found if path.exists()]
    for path in left:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    listed.unlink(missing_ok=True)
    return left


def forget_temporaries(folder: Path) -> None:
    """The work ended by itself and has cleaned up."""
    (folder / _LIST).unlink(missing_ok=True)


def _note(folder: Path, made: str) -> None:
    if not os.path.lexists(made):  # an existing one belongs to another process: tempfile will try the next name
        handle = os.open(folder / _LIST, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(handle, os.fsencode(os.path.abspath(made)) + b"\0")
        finally:
            os.close(handle)


def _lines(listed: Path) -> list[str]:
    with suppress(FileNotFoundError):
        return [os.fsdecode(line) for line in listed.read_bytes().split(b"\0") if line]
    return []
