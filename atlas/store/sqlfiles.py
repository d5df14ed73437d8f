"""Finds the sql/ folder (checkout or installed wheel) and reads its files.

One question = one file; the text runs as it stands in any DuckDB shell. A file's leading `--` lines are its header:
what it means, and a `Try:` line with an example.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from atlas.errors import StoreError


@cache
def sql_folder() -> Path:
    """The folder with schema/, queries/, checks/ and ingest/."""
    package = Path(__file__).resolve().parents[1]
    for candidate in (package / "_sql", package.parent / "sql"):
        if (candidate / "schema").is_dir():
            return candidate
    raise StoreError(f"no sql/ folder beside {package}; reinstall atlas (pip install -e . in a checkout)")


def sql_files(kind: str) -> list[Path]:
    """All files of one kind ("schema", "queries", "checks", "ingest"), by name."""
    return sorted((sql_folder() / kind).glob("*.sql"))


def sql_text(kind: str, name: str) -> str:
    """The text of one file, without its extension in `name`."""
    return (sql_folder() / kind / f"{name}.sql").read_text(encoding="utf-8")


def header(text: str) -> list[str]:
    """The leading comment lines of a file, without the dashes."""
    lines: list[str] = []
    for line in text.splitlines():
        if not line.startswith("--"):
            break
        lines.append(line[2:].strip())
    return lines


def example(text: str) -> str | None:
    """The statement of the header's `Try:` line, if there is one."""
    tries = [line[4:].strip() for line in header(text) if line.startswith("Try:")]
    return tries[0] if tries else None
