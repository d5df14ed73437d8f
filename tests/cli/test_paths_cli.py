"""atlas paths, motifs and graphs as a person runs them."""

import json
from pathlib import Path

import pytest
from synthetic import small  # noqa: F401

from atlas.cli import main as cli


@pytest.fixture(autouse=True)
def file(small: Path, monkeypatch: pytest.MonkeyPatch) -> Path:  # noqa: F811
    monkeypatch.setenv("ATLAS_FILE", str(small))
    return small


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        cli.main(list(arguments))
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), out, err


def test_paths_show_every_edge(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "paths", "0_1", "L2/N7")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "1. score 3.333, sign -, effect -, 2 edges, geometric mean 1.826",
        "                       L0/N1         cat words",
        "              -2 (2x)  L1/N2         aspirin and drugs",
        "              +1 (3x)  L2/N7         dog dog dog",
    ]
    rows = json.loads(run(capsys, "paths", "cluster:1", "cluster:2", "--limit", "2", "--format", "json")[1])
    assert [r["path"] for r in rows] == [[2, 23], [0, 10, 23]]


def test_no_path_is_an_answer(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "paths", "2_7", "0_0", "--hops", "3", "--format", "json")
    assert (code, json.loads(out), err) == (0, [], "note: no path of at most 3 edges from L2/N7 to L0/N0\n")
    assert run(capsys, "paths", "2_7", "0_0")[1] == "(no paths)\n"


def test_motifs_and_graphs(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "motifs", "layer:0-2", "--null", "5")
    assert code == 0 and "8 edges" in out and "bi-fan" in out and "L0/N2" in out, err
    found = json.loads(run(capsys, "motifs", "--kind", "ffl", "--null", "2", "--format", "json")[1])
    assert {r["motif"] for r in found["counts"]} == {"ffl"}
    code, out, err = run(capsys, "graphs", "0_0", "1_2")
    assert code == 0 and "The dog runs" in out and "graphs with both ends" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["paths", "0_0", "0_0"], "both L0/N0"),
        (["paths", "0_0", "2_7", "--hops", "9"], "not 9"),
        (["paths", "0_0", "cluster:77"], "no module '77'"),
        (["paths", "0_0", "dog"], "cannot read a neuron"),
        (["motifs", "--null", "-2"], "not -2 draws"),
        (["graphs", "L9/N0"], "layers 0..2"),
        (["graphs", "0_0", "--members", "nope"], "no file nope"),
    ],
)
def test_failures_are_one_line(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "") and err.startswith("atlas: ") and err.count("\n") == 1 and message in err
