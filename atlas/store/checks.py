"""sql/checks -> faults: a check is a query that returns the bad rows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import duckdb

from atlas.errors import StoreError
from atlas.store.sqlfiles import header, sql_files

_AT_ONCE = 10_000


@dataclass(frozen=True)
class CheckResult:
    """One check: its name, what it asserts, and the bad rows (at most `shown` of them are kept)."""

    name: str
    meaning: str
    bad_rows: int
    sample: list[tuple[object, ...]]

    @property
    def healthy(self) -> bool:
        """No bad row."""
        return self.bad_rows == 0


def require_healthy(con: duckdb.DuckDBPyConnection, *, what: str, then: str) -> None:
    """Run every check; StoreError that says `what` failed, the bad rows, and `then` what is left and what to do."""
    faults = [result for result in run_checks(con) if not result.healthy]
    if faults:
        worst = "; ".join(f"{f.name}: {f.bad_rows} bad rows, first {f.sample[0]}" for f in faults)
        raise StoreError(f"{what} fails its checks ({worst}); {then}")


def run_checks(con: duckdb.DuckDBPyConnection, *, shown: int = 3) -> list[CheckResult]:
    """Run every check on an open atlas, in order of name.

    Those of how a table lies on disk are left out for tables that a view stands in for, as in files of older schemas.
    """
    views = [row[0] for row in con.execute("SELECT view_name FROM duckdb_views() WHERE NOT internal").fetchall()]
    texts = {path.stem: path.read_text(encoding="utf-8") for path in sql_files("checks")}
    return [_run(con, name, text, shown) for name, text in texts.items() if not _on_disk(text, views)]


def _on_disk(text: str, tables: Sequence[str]) -> bool:
    return "rowid" in text and any(re.search(rf"\b{table}\b", text) for table in tables)


def _run(con: duckdb.DuckDBPyConnection, name: str, text: str, shown: int) -> CheckResult:
    found = con.execute(text)
    sample = found.fetchmany(shown)
    bad_rows = len(sample)
    while rows := found.fetchmany(_AT_ONCE):  # an unsorted table of 84M edges has 40M bad rows
        bad_rows += len(rows)
    return CheckResult(name, " ".join(header(text)), bad_rows, sample)
