"""metadata and ingests: what the atlas is, and what came from where.

A step's key is a hash of its code version, parameters and inputs; equal key in the ledger = nothing to do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import duckdb


@dataclass(frozen=True)
class Ingested:
    """What one step put into the atlas."""

    step: str
    key: str
    rows_out: int
    rows_in: int | None = None
    rows_rejected: int = 0
    reason: str | None = None
    source_file: str | None = None
    size_bytes: int | None = None
    sha256: str | None = None


def now() -> datetime:
    """The present in UTC, without a zone (the ledger's form)."""
    return datetime.now(UTC).replace(tzinfo=None)


def set_metadata(con: duckdb.DuckDBPyConnection, facts: Mapping[str, object]) -> None:
    """Set metadata values as text; None removes a key."""
    for key, value in facts.items():
        con.execute("DELETE FROM metadata WHERE key = $1", [key])
        if value is not None:
            con.execute("INSERT INTO metadata VALUES ($1, $2)", [key, str(value)])


def get_metadata(con: duckdb.DuckDBPyConnection) -> dict[str, str]:
    """All metadata, by key."""
    return dict(con.execute("SELECT key, value FROM metadata ORDER BY key").fetchall())


def step_keys(con: duckdb.DuckDBPyConnection) -> dict[str, str]:
    """The key under which each step was last written."""
    return dict(con.execute("SELECT step, key FROM ingests ORDER BY started, step").fetchall())


def record(con: duckdb.DuckDBPyConnection, done: Ingested, *, started: datetime) -> None:
    """Write a step's row (replacing an older one); call inside the transaction that wrote its tables."""
    con.execute("DELETE FROM ingests WHERE step = $1", [done.step])
    con.execute(
        "INSERT INTO ingests VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        [
            done.step,
            done.key,
            done.source_file,
            done.size_bytes,
            done.sha256,
            done.rows_in,
            done.rows_out,
            done.rows_rejected,
            done.reason,
            started,
            now(),
        ],
    )
