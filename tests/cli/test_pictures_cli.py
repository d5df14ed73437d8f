"""Questions whose answer is a graph, as files: what is written where, and what is refused."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from synthetic import small  # noqa: F401

from atlas.cli import main as cli


@pytest.fixture(autouse=True)
def place(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:  # noqa: F811
    monkeypatch.setenv("ATLAS_FILE", str(small))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        cli.main(list(arguments))
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), out, err


QUESTIONS = [("cluster", "1"), ("cluster", "show", "1"), ("circuit", "L0/N0", "L2/N7"), ("ego", "L1/N2", "--hops", "2")]


@pytest.mark.parametrize("question", QUESTIONS, ids=" ".join)
def test_a_page_and_a_picture_in_one_call(
    capsys: pytest.CaptureFixture[str], place: Path, question: tuple[str, ...]
) -> None:
    code, out, err = run(capsys, *question, "--html", "a.html", "--svg", "b.svg")
    assert (code, out) == (0, "") and "wrote a.html" in err and "wrote b.svg" in err
    assert sorted(path.name for path in place.iterdir()) == ["a.html", "b.svg"]
    ET.parse(place / "b.svg")
    assert "aspirin and drugs" in (place / "a.html").read_text() or question[-1] == "1"


@pytest.mark.parametrize("question", QUESTIONS, ids=" ".join)
def test_graph_formats_go_to_stdout_or_a_file(
    capsys: pytest.CaptureFixture[str], place: Path, question: tuple[str, ...]
) -> None:
    code, out, _ = run(capsys, *question, "--format", "graph-json")
    assert code == 0 and json.loads(out)["metadata"]["scan"] == "toy"
    code, nothing, _ = run(capsys, *question, "--format", "graph-json", "-o", "g.json", "--svg", "b.svg")
    assert (code, nothing) == (0, "") and (place / "g.json").read_text() == out and (place / "b.svg").exists()
    code, out, _ = run(capsys, *question, "--format", "graphml")
    assert code == 0 and ET.fromstring(out).tag.endswith("graphml")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("--html a.html --svg a.html", "asked for as html and as svg"),
        ("--format graphml -o a.html --html a.html", "asked for as html and as graphml"),
        ("--html a.html --format json", "ask for each in its own call"),
        ("--svg a.svg -o a.txt", "ask for each in its own call"),
        ("--html /proc/none/a.html", "cannot write /proc/none/a.html"),
        ("--html .", "is a folder"),
    ],
)
def test_what_cannot_be_written_is_one_line(
    capsys: pytest.CaptureFixture[str], place: Path, options: str, says: str
) -> None:
    code, out, err = run(capsys, "cluster", "1", *options.split())
    assert (code, out) == (2, "") and says in err and err.count("\n") == 1
    assert list(place.iterdir()) == []


def test_an_unknown_module_leaves_no_file(capsys: pytest.CaptureFixture[str], place: Path) -> None:
    code, _, err = run(capsys, "cluster", "77", "--html", "a.html")
    assert code == 2 and "77" in err and list(place.iterdir()) == []


def test_the_limit_is_how_many_members_are_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "cluster", "1", "--limit", "2", "--format", "graph-json")
    assert code == 0 and len(json.loads(out)["nodes"]) == 2
