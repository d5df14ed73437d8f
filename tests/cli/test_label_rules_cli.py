"""`atlas label rules` as a person runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from synthetic import small_tables, write_atlas

import atlas
from atlas.cli import main as cli


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        cli.main(["label", *arguments])
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), out, err


def test_an_atlas_is_labelled_anew(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = write_atlas(tmp_path / "small.duckdb", small_tables())
    code, out, _ = run(capsys, "rules", str(file), "--format", "json", "--quiet")
    made = json.loads(out)
    assert code == 0 and made["labels"] == sum(made["rules"].values()) > 0
    with atlas.open(file) as a:
        assert a.sql("SELECT count(*) FROM labels WHERE source LIKE 'rule:%'").fetchall() == [(made["labels"],)]
        assert a.sql("SELECT count(*) FROM labels WHERE source = 'llm'").fetchall() == [(2,)]  # others stay
        assert a.sql("SELECT label FROM neurons WHERE feature_id = 0").fetchall()[0][0].startswith("fires ")
    again = run(capsys, "rules", str(file), "--quiet")
    assert again[0] == 0 and f"{made['labels']:,} labels of {made['neurons']:,} neurons" in again[1]


def test_what_is_no_atlas_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(capsys, "rules", str(tmp_path / "none.duckdb"))[0] == 2
    (tmp_path / "text.duckdb").write_text("this is no database")
    code, _, err = run(capsys, "rules", str(tmp_path / "text.duckdb"))
    assert code == 1 and err.count("\n") == 1
