"""An atlas file -> the same file changed, or a new one: written beside it, checked, and only then renamed over it.

A kill at any instant leaves the file as it was (and a hidden folder beside it, which may be deleted).
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import duckdb

from atlas.build.measurement import explain
from atlas.errors import StoreError
from atlas.ingest.edge_sides import derive_if_missing
from atlas.store.checks import require_healthy
from atlas.store.connection import Limits, explain_failure, open_writer
from atlas.store.schema import apply_schema, store_macros

_Made = TypeVar("_Made")


def revise(
    file: Path,
    change: Callable[[duckdb.DuckDBPyConnection, bool], _Made],
    *,
    d_mlp: int,
    limits: Limits,
    what: str,
) -> _Made:
    """Apply `change(con, is_new)` to a copy of an atlas, or to a new file, and put it in the place of `file`.

    The copy has this version's schema when `change` gets it. DuckDB spills beside the file. When anything fails, the
    checks included (`what` then names the file: "with these edges the atlas"), the atlas stays as it was.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{file.name}.", dir=file.parent) as work:
            part, found = Path(work) / file.name, stamp(file)
            if found:
                shutil.copyfile(file, part)
            limits = replace(limits, temp_folder=Path(work) / "spill")
            made = _write(part, change, d_mlp=d_mlp, limits=limits, what=what)
            with part.open("rb") as handle:
                os.fsync(handle)
            if stamp(file) != found:
                raise StoreError(f"{file} was changed by another process meanwhile; nothing is written, run it again")
            part.replace(file)
            return made
    except duckdb.Error as error:
        raise explain_failure(error, str(file)) from error
    except OSError as error:
        raise explain(error, file) from error


def stamp(file: Path) -> tuple[int, int, int] | None:
    """What changes when a file is written or replaced; None without a file."""
    if not file.exists():
        return None
    found = file.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def _write(
    part: Path,
    change: Callable[[duckdb.DuckDBPyConnection, bool], _Made],
    *,
    d_mlp: int,
    limits: Limits,
    what: str,
) -> _Made:
    fresh = not part.exists()
    con = open_writer(part, limits=limits)
    try:
        apply_schema(con, d_mlp=d_mlp)
        derive_if_missing(con)
        made = change(con, fresh)
        if fresh:
            store_macros(con)
        con.execute("CHECKPOINT atlas")
        require_healthy(con, what=what, then="the atlas is as it was; report it")
        return made
    finally:
        con.close()
