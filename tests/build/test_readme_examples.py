"""The README's Python and SQL run as they stand, on a built atlas."""

from __future__ import annotations

import re
from pathlib import Path

import duckdb
import pytest

pytest.importorskip("torch")

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_python(small: Path) -> None:
    assert blocks("python")
    for text in blocks("python"):
        exec(compile(text.replace("data/demo.duckdb", str(small)), "README.md", "exec"), {})


def test_sql_in_a_plain_client(small: Path) -> None:
    con = duckdb.connect(str(small), read_only=True)
    statements = [s for text in blocks("sql") for s in text.split(";") if s.strip()]
    assert len(statements) >= 3
    for statement in statements:
        assert con.execute(statement).fetchall(), statement
    con.close()
