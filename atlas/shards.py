"""Measured tables -> a folder that is either whole or absent.

A shard is a folder `shard-00003-of-00016` of Parquet files (one per table of tables.SHARDS) and a marker `_DONE.json`
with row counts and hashes. It is written under a temporary name and renamed, so a killed worker leaves nothing that a
merge would read.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from atlas.errors import ShardError
from atlas.tables import SHARDS

MARKER = "_DONE.json"
# Columns with few values, written with a dictionary; building one for the others only costs time (half of writing).
REPEATED = frozenset({"layer", "polarity", "stratum", "direction", "polarity_source", "kind", "metric", "dtype"})


@dataclass(frozen=True)
class Shard:
    """Part `index` of `of` of one measurement; `fingerprint` names model, corpus and parameters."""

    fingerprint: str
    index: int = 0
    of: int = 1

    @property
    def name(self) -> str:
        """Folder name of this shard."""
        return f"shard-{self.index:05d}-of-{self.of:05d}"

    def span(self, total: int) -> range:
        """The contiguous range of items (documents, prompts, blocks) that this shard owns."""
        return range(self.index * total // self.of, (self.index + 1) * total // self.of)


@dataclass
class ShardDraft:
    """A shard being written."""

    folder: Path
    facts: dict[str, Any] = field(default_factory=dict)  # counts for the marker: tokens, documents, rejected ...
    rows: dict[str, int] = field(default_factory=dict)

    def write(self, table: str, data: pa.Table) -> None:
        """Write one table of the contract; columns are cast to the contract's types or the write fails."""
        schema = SHARDS[table]
        repeated = [name for name in schema.names if name in REPEATED]
        columns = data.select(schema.names).cast(schema)
        pq.write_table(columns, self.folder / f"{table}.parquet", compression="zstd", use_dictionary=repeated)
        self.rows[table] = data.num_rows


@contextmanager
def new_shard(root: Path, shard: Shard) -> Iterator[ShardDraft]:
    """Write a shard under a temporary name; rename it when the block ends without an error."""
    root.mkdir(parents=True, exist_ok=True)
    for left in root.glob(f".{shard.name}.*.tmp"):  # a killed worker's
        shutil.rmtree(left)
    draft = ShardDraft(root / f".{shard.name}.{uuid.uuid4().hex[:8]}.tmp")
    draft.folder.mkdir()
    try:
        yield draft
        _finish(draft, shard)
        final = root / shard.name
        if final.exists():
            shutil.rmtree(final)
        draft.folder.rename(final)
        _sync(root)
    finally:
        if draft.folder.exists():
            shutil.rmtree(draft.folder)


def is_done(root: Path, shard: Shard) -> bool:
    """Whether this very shard (same fingerprint) is complete."""
    marker = root / shard.name / MARKER
    return marker.exists() and json.loads(marker.read_text())["fingerprint"] == shard.fingerprint


def read_marker(folder: Path) -> dict[str, Any]:
    """The completion marker of one shard folder, after checking every file against it."""
    try:
        marker: dict[str, Any] = json.loads((folder / MARKER).read_text())
    except (OSError, ValueError) as error:
        raise ShardError(
            f"{folder} has no readable completion marker ({error}); delete it and rerun the build"
        ) from error
    for table, rows in marker["rows"].items():
        _verify(folder / f"{table}.parquet", rows)
    return marker


def shard_files(root: Path, table: str) -> list[Path]:
    """The files of one table over all shards of a complete measurement, in shard order.

    Raises ShardError when a shard is missing, damaged or of another fingerprint than its neighbours.
    """
    folders = sorted(p for p in root.glob("shard-*-of-*") if p.is_dir())
    if not folders:
        raise ShardError(f"no shards under {root}; rerun the build to measure them")
    markers = [read_marker(folder) for folder in folders]
    of, fingerprint = markers[0]["of"], markers[0]["fingerprint"]
    if [m["index"] for m in markers] != list(range(of)) or any(m["of"] != of for m in markers):
        raise ShardError(f"{root} holds {len(folders)} of {of} shards; rerun the build to measure the missing ones")
    if any(m["fingerprint"] != fingerprint for m in markers):
        raise ShardError(f"{root} mixes shards of different models or recipes; delete the folder and rerun the build")
    return [folder / f"{table}.parquet" for folder in folders]


def shard_facts(root: Path) -> dict[str, int]:
    """The integer facts of all markers, added up (tokens, documents, rejected ...)."""
    total: dict[str, int] = {}
    for path in sorted(root.glob(f"shard-*-of-*/{MARKER}")):
        for key, value in json.loads(path.read_text())["facts"].items():
            if isinstance(value, int):
                total[key] = total.get(key, 0) + value
    return total


def shard_rows(root: Path) -> int:
    """Rows of all tables of all complete shards."""
    markers = [json.loads(path.read_text()) for path in sorted(root.glob(f"shard-*-of-*/{MARKER}"))]
    return sum(sum(marker["rows"].values()) for marker in markers)


def file_sha256(path: Path) -> str:
    """Content hash of a file, streamed."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _finish(draft: ShardDraft, shard: Shard) -> None:
    hashes = {table: file_sha256(draft.folder / f"{table}.parquet") for table in draft.rows}
    marker = {
        "fingerprint": shard.fingerprint,
        "index": shard.index,
        "of": shard.of,
        "rows": draft.rows,
        "sha256": hashes,
        "facts": draft.facts,
    }
    (draft.folder / MARKER).write_text(json.dumps(marker, indent=1, sort_keys=True))
    for path in draft.folder.iterdir():
        _sync(path)


def _verify(path: Path, rows: int) -> None:
    try:
        found = pq.read_metadata(path).num_rows
    except (OSError, pa.ArrowInvalid) as error:
        raise ShardError(f"{path} is truncated or damaged ({error}); delete its folder and rerun the build") from error
    if found != rows:
        raise ShardError(f"{path} holds {found} rows, its marker says {rows}; delete its folder and rerun the build")


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
