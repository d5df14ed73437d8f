"""Files of an export -> a target folder that gets all of them or none.

They are written into a hidden folder beside the target, so that moving them in is a rename on one file system.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from atlas.errors import InputError


@contextmanager
def new_folder(target: Path, *, force: bool = False) -> Iterator[Path]:
    """Yield a hidden folder to write into; when the block ends without an error its files become `target`.

    A target that is not empty is refused, unless `force`: then files of the same name are replaced and all others stay.
    Raises InputError for a target that is a file or not empty.
    """
    _check(target, force)
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}.tmp"
    draft.mkdir()
    try:
        yield draft
        _move(draft, target)
    finally:
        if draft.exists():
            shutil.rmtree(draft)


def replace_text(path: Path, text: str) -> None:
    """Write a file as UTF-8 under a temporary name and rename it over `path`."""
    replace_bytes(path, text.encode("utf-8"))


def replace_bytes(path: Path, content: bytes) -> None:
    """Write a file under a temporary name and rename it over `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        draft.write_bytes(content)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _check(target: Path, force: bool) -> None:
    if target.exists() and not target.is_dir():
        raise InputError(f"{target} is a file, expected a folder; give another -o FOLDER")
    if target.is_dir() and any(target.iterdir()) and not force:
        raise InputError(f"{target} is not empty; give an empty folder, or --force to replace files of the same name")


def _move(draft: Path, target: Path) -> None:
    """Rename the draft where there is no target, so that it appears at once; else file by file."""
    if not os.path.lexists(target):
        draft.replace(target)
        return
    for folder, _, names in os.walk(draft):
        final = target / Path(folder).relative_to(draft)
        final.mkdir(parents=True, exist_ok=True)
        for name in sorted(names):
            os.replace(Path(folder) / name, final / name)
