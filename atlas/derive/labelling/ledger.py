"""Answers -> a file of JSON lines that only grows: what was asked once is never asked, and never paid, again.

One line is one request that was sent and answered (or failed for good). Lines are on the disk before the answers are
used: they are written together as they come in and flushed by one fsync. A line that a kill tore is skipped, and its
request is sent again. JSON lines and not a database, because they need no lock but the folder's, work on network file
systems (SQLite's write-ahead log does not), survive a torn end without repair, and DuckDB reads them as they are.

A folder (ATLAS.labels) holds one file per pass and layer, so that only one layer's answers are in memory.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from atlas.derive.labelling.request import Reply, Request
from atlas.errors import StoreError

Row = dict[str, Any]
LOCK = "lock"


@dataclass(frozen=True)
class Entry:
    """One answered request with the run it was sent in."""

    request: Request
    reply: Reply
    run: str


class Ledger:
    """One file of answers, read at once; appended to by one run."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.damaged = 0  # lines that cannot be read
        self._rows: dict[str, Row] = {}  # the last of each basis and of each key
        self._torn = False
        if file.is_file():
            self._load()

    def find(self, request: Request) -> Row | None:
        """The last answer to this question; None when it was never answered."""
        return self._rows.get(request.basis) or self._rows.get(request.key)

    def append(self, entries: Sequence[Entry]) -> list[Row]:
        """Write answers; when this returns they survive a power cut. Returns their rows."""
        rows = [_row(entry) for entry in entries]
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("ab") as out:
            out.write((b"\n" if self._torn else b"") + text.encode("utf-8", "replace"))
            out.flush()
            os.fsync(out.fileno())
        self._torn = False
        for row in rows:
            self._keep(row)
        return rows

    def __len__(self) -> int:
        return len({id(row) for row in self._rows.values()})

    def _load(self) -> None:
        with self.file.open("rb") as lines:
            for line in lines:
                self._torn = not line.endswith(b"\n")
                row = _read(line)
                if row is not None:
                    self._keep(row)
                elif line.strip():
                    self.damaged += 1

    def _keep(self, row: Row) -> None:
        self._rows[row["basis"]] = self._rows[row["key"]] = row


def ledger_file(folder: Path, name: str, layer: int) -> Path:
    """Where the answers of one layer stand."""
    return folder / name / f"layer_{layer:03d}.jsonl"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder of ledgers for one run; StoreError when another run has it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StoreError(
                f"another run is labelling with {folder}; wait for it, or stop it and run this again"
            ) from error
        yield


def _row(entry: Entry) -> Row:
    request, reply = entry.request, entry.reply
    row = {
        "key": request.key, "basis": request.basis, "subject": request.subject, "status": reply.status,
        "answer": reply.answer, "text": reply.text, "detail": reply.detail, "tokens_in": reply.tokens_in,
        "tokens_out": reply.tokens_out, "model": request.body["model"], "answered_by": reply.model,
        "attempts": reply.attempts, "prompt": request.prompt, "origin": request.origin, "run": entry.run,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }  # fmt: skip
    return {name: value for name, value in row.items() if value is not None}


def _read(line: bytes) -> Row | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and {"key", "basis", "status"} <= row.keys() else None
