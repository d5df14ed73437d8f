"""`atlas circuit` as a person runs it: ends in both forms, tables, JSON, notes, failures in one line."""

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


def test_tables_of_facts_nodes_and_edges(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "circuit", "embedding: dog", "logit: runs")
    assert code == 0
    assert out.startswith("circuit from embedding ' dog' to logit ' runs' (toy)\n")
    for part in (
        "influence               0.2251",
        "nodes_kept              5",
        "5 nodes, by influence",
        "aspirin and drugs",
        "embedding ' dog'",
        "4 edges, by influence",
        "L0/N0   L1/N2",
        "explained_median        0.7",
    ):
        assert part in out


def test_ends_as_arguments_and_as_options_mean_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    answers = [
        run(capsys, "circuit", *arguments, "--format", "json", "--no-tokens")[1]
        for arguments in (("0_0", "2_7"), ("--from", "0_0", "--to", "2_7"), ("--from", "0_0", "2_7"))
    ]
    assert answers[0] == answers[1] == answers[2]
    found = json.loads(answers[0])
    assert [n["key"] for n in found["nodes"]] == ["L0/N0", "L1/N2", "L2/N7"]
    assert [(e["source"], e["target"]) for e in found["links"]] == [("L0/N0", "L1/N2"), ("L1/N2", "L2/N7")]
    assert found["facts"]["share_kept"] == 1.0


def test_a_set_as_source_and_none_at_all(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "circuit", "--from", "0_0", "--from", "0_1", "--to", "1_2", "--no-tokens")
    assert code == 0 and "circuit from L0/N0, L0/N1 to L1/N2" in out
    code, out, _ = run(capsys, "circuit", "logit: runs", "--max-nodes", "50")
    assert code == 0 and "everything that feeds it" in out and "embedding ' dog'" in out


def test_what_the_limit_and_max_nodes_cut_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "circuit", "0_0", "2_7", "--limit", "1", "--max-nodes", "2")
    assert code == 0 and "(no rows)" in out and err.count("note:") == 1
    assert "2 nodes hold 0.0% of the influence, not 80%; raise max_nodes" in err
    code, out, err = run(capsys, "circuit", "0_0", "2_7", "--limit", "1")
    assert "note: at most 1 of 5 nodes and 4 edges are shown; --limit 0 shows all" in err
    assert "L0/N0   L1/N2" not in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "needs a TARGET"),
        (("a", "b", "c"), "one SOURCE and one TARGET"),
        (("0_0", "--to", "1_2"), "one SOURCE and one TARGET"),
        (("0_0", "1_2", "--budget", "-1"), "at most 1, not -1.0"),
        (("0_0", "1_2", "--format", "csv"), "use --format json"),
        (("embedding: dgo", "1_2"), "nearest: ' dog'"),
        (("0_4", "1_2"), "no path from L0/N4 to L1/N2"),
    ],
)
def test_failures_are_one_line(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str) -> None:
    code, out, err = run(capsys, "circuit", *arguments)
    assert code == 2 and out == "" and message in err and err.count("\n") == 1
