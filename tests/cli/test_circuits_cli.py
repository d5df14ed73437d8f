"""atlas ego, common and similar as a person runs them."""

import json
from pathlib import Path

import pytest
from synthetic import small  # noqa: F401

from atlas.cli import main as cli


@pytest.fixture(autouse=True)
def file(small: Path, monkeypatch: pytest.MonkeyPatch) -> Path:  # noqa: F811
    monkeypatch.setenv("ATLAS_FILE", str(small))
    return small


def run(capsys: pytest.CaptureFixture[str], command: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        cli.main(command.split())
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), out, err


@pytest.mark.parametrize(
    ("command", "parts"),
    [
        ("common 1_2 1_3", ["hits", "expected", "sign_agreement", "L0/N0", "dog words"]),
        ("common 0_0 0_1 0_2 --direction outputs --at-least 3", ["L1/N2"]),
        ("common 1_2 --at-least 1 --min-count 3", ["L0/N0"]),
        ("similar 0_0", ["cosine", "L0/N2", "-1"]),
        ("similar 0_0 --by tokens", ["L0/N1", "L0/N2", "dog"]),
        ("similar 1_3 --by label --layers 2 2", ["L2/N7", "dog dog dog"]),
        ("ego 1_2 --top 2", ["nodes", "edges", "L0/N1"]),
    ],
)
def test_commands(capsys: pytest.CaptureFixture[str], command: str, parts: list[str]) -> None:
    code, out, _ = run(capsys, command)
    assert code == 0 and all(part in out for part in parts), out


def test_rows_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    rows = json.loads(run(capsys, "common 1_2 1_3 --format json")[1])
    assert rows[0]["members"] == ["L1/N2", "L1/N3"] and rows[0]["p"] == 1.0
    assert json.loads(run(capsys, "similar 0_0 --by in --format json")[1]) == []
    assert "2 rows; --limit 0 shows all" in run(capsys, "similar 0_0 --limit 1")[2]


def test_ego_as_a_picture(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    page = tmp_path / "ego.html"
    code, out, err = run(capsys, f"ego 1_2 --html {page}")
    assert (code, out) == (0, "") and "wrote" in err
    assert "L1/N2" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("common 1_2", "the selection has 1 neuron"),
        ("common 1_2 1_3 --direction up", "'up' is not one of"),
        ("common 1_2 9_9", "out of range"),
        ("common label:zzz", "no neuron"),
        ("similar 0_0 --by words", "'words' is not one of"),
        ("similar 0_0 --layers 2 9", "both within 0 to 2"),
        ("similar 99", "out of range"),
        ("ego 1_2 --top 0", "at least 1 edge"),
        ("ego 1_2 --hops 4", "0 to 3 hops"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(capsys: pytest.CaptureFixture[str], command: str, message: str) -> None:
    code, out, err = run(capsys, command)
    assert (code, out) == (2, "") and message in err
