"""A path -> a DuckDB connection: read-only by default, storage version pinned, errors in one line.

The file is always attached to an in-memory database as `atlas`: a reader can then shadow the stored macros with newer
ones without ever opening the file for writing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import duckdb

from atlas.errors import InputError, ResourceError, StoreError
from atlas.store.sqlfiles import sql_files

# DuckDB 1.4 and 1.5 shells and the browser build cannot open the 2.0 format; this one opens in all of them.
STORAGE_VERSION = "v1.4.0"
SEARCH_PATH = "memory.main,atlas.main"  # of readers; a cursor does not inherit it


@dataclass(frozen=True)
class Limits:
    """What a connection may use; None leaves DuckDB's own default."""

    memory: str | None = None  # for example "4GiB"
    threads: int | None = None
    temp_folder: Path | None = None


def open_reader(path: str | Path, *, limits: Limits | None = None, macros: bool = True) -> duckdb.DuckDBPyConnection:
    """Open an atlas read-only with this version's macros on top of the stored ones.

    `macros=False` leaves them out: 2 ms each, and they cannot be made in a file that lacks tables they read.
    """
    file = existing(path)
    con = _memory(limits)
    _attach(con, file, "READ_ONLY")
    con.execute(f"SET search_path = '{SEARCH_PATH}'")
    # Sources of a neuron whose row groups are looked up one by one; beyond (by default 50) their whole range is read,
    # 120 ms instead of 35 for 120 sources among 84M edges.
    con.execute("SET GLOBAL dynamic_or_filter_threshold = 200")
    for query in sql_files("queries") if macros else ():
        con.execute(query.read_text(encoding="utf-8"))
    return con


def open_pair(first: str | Path, second: str | Path, *, limits: Limits | None = None) -> duckdb.DuckDBPyConnection:
    """Open two atlases read-only as `a` and `b`, without macros; one file may be both."""
    files = existing(first), existing(second)
    con = _memory(limits)
    for name, file in zip(("a", "b"), files, strict=True):
        _attach(con, file, "READ_ONLY", name=name)
    return con


def open_writer(path: str | Path, *, limits: Limits | None = None) -> duckdb.DuckDBPyConnection:
    """Open (or create) a file for writing; `USE atlas` is in effect. One writer at a time, and no readers."""
    con = _memory(limits)
    _attach(con, Path(path), f"STORAGE_VERSION '{STORAGE_VERSION}'")
    con.execute("USE atlas")
    return con


def open_scratch(*, limits: Limits) -> duckdb.DuckDBPyConnection:
    """A database in memory that spills to `limits.temp_folder`: for sorting and counting what is in Parquet files."""
    return _memory(limits)


def existing(path: str | Path) -> Path:
    """The path, if an atlas could be there."""
    file = Path(path)
    if not file.is_file():
        raise InputError(f'no atlas at {file}; build one with "atlas build RECIPE.toml" or give another --atlas FILE')
    return file


def explain_failure(error: duckdb.Error, what: str) -> StoreError | ResourceError:
    """DuckDB's error -> ours, with the next step."""
    text = str(error).splitlines()[0]
    if "No space left" in str(error) or "could not be written" in str(error).lower():
        return ResourceError(f"disk full while writing {what}: {text}; free space and run the same command again")
    if isinstance(error, duckdb.OutOfMemoryException):
        return ResourceError(f"{what}: {text}; raise --memory or free memory, then run the same command again")
    if "lock" in text.lower():
        return StoreError(f"{what} is in use by another process (one writer or many readers): {text}; close it first")
    return StoreError(f"{what}: {text}; if the file came from elsewhere copy it again, else rerun its build")


def _memory(limits: Limits | None) -> duckdb.DuckDBPyConnection:
    con = duckdb.connect(":memory:")
    con.execute("SET autoinstall_known_extensions = false; SET autoload_known_extensions = false")
    if limits is None:
        return con
    if limits.memory:
        con.execute("SET memory_limit = $1", [limits.memory])
    if limits.threads:
        con.execute(f"SET threads = {int(limits.threads)}")
    if limits.temp_folder:
        con.execute("SET temp_directory = $1", [str(limits.temp_folder)])
    return con


def _attach(con: duckdb.DuckDBPyConnection, file: Path, mode: str, *, name: str = "atlas") -> None:
    quoted = str(file).replace("'", "''")
    try:
        con.execute(f"ATTACH '{quoted}' AS {name} ({mode})")
    except duckdb.Error as error:
        con.close()
        raise explain_failure(error, str(file)) from error
