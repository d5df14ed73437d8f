"""`atlas cluster show | quotient | enrich` as a person runs them."""

import json
from pathlib import Path

import pytest
from synthetic import drawn, random_tables, write_atlas  # noqa: F401

from atlas.cli import main as cli


@pytest.fixture(autouse=True)
def file(drawn: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setenv("ATLAS_FILE", str(drawn))


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        cli.main(list(arguments))
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), out, err


def test_a_module_path_shows_its_card(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "cluster", "2.1", "--words")
    assert code == 0
    for part in ("conductance", "Layers", "Members", "Neighbours", "Edges", "Tokens", "Words"):
        assert part in out


def test_quotient_and_enrich(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "cluster", "quotient", "--limit", "3", "--between")
    assert code == 0 and "expected" in out and "3 of 20" in err
    rows = json.loads(run(capsys, "cluster", "enrich", "2", "--format", "json")[1])
    assert {r["module"] for r in rows} == {"selection"}
    code, out, err = run(capsys, "cluster", "enrich", "--all", "--level", "2", "--limit", "5")
    assert code == 0 and "odds_ratio" in out and "FDR over" in err
    assert run(capsys, "cluster", "enrich", "label:dog", "--field", "type")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("enrich",), "--all"),
        (("enrich", "--all", "2"), "--all"),
        (("enrich", "99"), "no module '99'"),
        (("show", "2.1.7"), "'2.1' exists"),
        (("quotient", "--level", "9"), "levels 1 to 2"),
        (("enrich", "2", "--field", "colour"), "choose among"),
    ],
)
def test_refusals_are_one_line(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], says: str) -> None:
    code, out, err = run(capsys, "cluster", *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1) and says in err


def test_an_atlas_without_clusters_says_how_to_get_them(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    tables = random_tables(1)
    tables["clusters"] = []
    file = write_atlas(tmp_path / "none.duckdb", tables, layers=5, d_mlp=40)
    code, _, err = run(capsys, "cluster", "quotient", "--atlas", str(file))
    assert code == 1 and "atlas cluster run" in err and err.count("\n") == 1
