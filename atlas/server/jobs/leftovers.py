"""Files that a killed worker was writing aside -> removed.

Python announces every file and folder before it makes it (audit events). A worker notes those that are to be renamed or
removed, temporary ones and hidden .NAME.tmp and .NAME.part, in its job's folder; so a server knows what to remove, also
the next one. What lies in the job's folder itself is not noted: it goes or stays with that.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

_LIST = "temporary.txt"
_ASIDE = (".tmp", ".part")


def watch_temporaries(folder: Callable[[], Path | None]) -> None:
    """Note what this process makes from now on in the folder of the job that it does, if there is one.

    An audit hook cannot be taken away again: call it once in a process.
    """

    def hook(event: str, args: tuple[object, ...]) -> None:
        if _makes_aside(event, args) and (where := folder()) is not None:
            _note(where, str(args[0]))

    sys.addaudithook(hook)


def remove_temporaries(folder: Path) -> list[Path]:
    """Remove what the dead worker of a job left; what was removed."""
    left = [path for path in _noted(folder) if os.path.lexists(path)]
    for path in left:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    forget_temporaries(folder)
    return left


def forget_temporaries(folder: Path) -> None:
    """The work ended by itself and has cleaned up."""
    (folder / _LIST).unlink(missing_ok=True)


def _makes_aside(event: str, args: tuple[object, ...]) -> bool:
    if event in ("tempfile.mkdtemp", "tempfile.mkstemp"):
        return True
    if event == "open":
        return isinstance(args[2], int) and bool(args[2] & os.O_CREAT) and _is_aside(args[0])
    return event == "os.mkdir" and _is_aside(args[0])


def _is_aside(path: object) -> bool:
    return isinstance(path, str) and path.endswith(_ASIDE) and os.path.basename(path).startswith(".")


def _note(folder: Path, made: str) -> None:
    path = os.path.abspath(made)
    if os.path.lexists(path) or path.startswith(f"{folder}{os.sep}"):
        return  # an existing one is another process's: tempfile will try the next name
    handle = os.open(folder / _LIST, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(handle, os.fsencode(path) + b"\0")
    finally:
        os.close(handle)


def _noted(folder: Path) -> list[Path]:
    with suppress(FileNotFoundError):
        return [Path(os.fsdecode(line)) for line in (folder / _LIST).read_bytes().split(b"\0") if line]
    return []
