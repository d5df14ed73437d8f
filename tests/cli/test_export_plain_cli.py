"""`atlas export labels | edges | neurons | graph` as a person runs them, and what reads the files again."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import polars
import pytest
from synthetic import FLOWS, LABELS, LAYERS, PATHS, small_tables, write_atlas

import atlas
from atlas.cli.main import main


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ATLAS_FILE", str(write_atlas(tmp_path / "a.duckdb", small_tables())))

    def call(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            main(list(arguments))
        return int(stop.value.code or 0), *capsys.readouterr()

    return call


def test_the_format_is_that_of_the_ending_or_the_option(run) -> None:
    for name in ("e.parquet", "e.csv", "e.jsonl", "e.ndjson", "e.csv.gz"):
        code, out, err = run("export", "edges", "-o", name, "-q")
        assert code == 0 and out.startswith(f"{name}  {len(FLOWS)} rows  ") and err == ""
    assert run("export", "edges", "-o", "other.txt", "--format", "jsonl", "-q")[0] == 0
    assert run("export", "labels", "-o", "two.json.gz", "-q")[0] == 0
    assert json.loads(gzip.decompress(Path("two.json.gz").read_bytes()))["L0/N0"]["label"] == "dog words"
    assert Path("other.txt").read_bytes() == Path("e.jsonl").read_bytes()
    assert polars.read_parquet("e.parquet").height == polars.read_csv("e.csv.gz").height == len(FLOWS)


def test_filters_and_columns(run) -> None:
    code, _, _ = run("export", "edges", "cluster:1", "--ends", "source", "--min-count", "2", "--columns", "src, tgt",
                     "--layer", "0-1", "--to-layer", "1-2", "-o", "e.csv", "-q")  # fmt: skip
    with atlas.open("a.duckdb") as opened:
        chosen = set(opened.select("cluster:1"))
    rows = [f"{s},{t}" for (s, t), flows in sorted(FLOWS.items()) if s in chosen and len(flows) > 1]
    assert code == 0 and Path("e.csv").read_text().splitlines() == ['"src","tgt"', *rows]
    assert run("export", "labels", "--source", "rule", "--where", "layer < 2", "-o", "l.jsonl", "-q")[0] == 0
    found = [json.loads(line) for line in Path("l.jsonl").read_text().splitlines()]
    assert [(row["layer"], row["neuron"]) for row in found] == sorted(key for key in LABELS if key[0] < 2)
    assert run("export", "labels", "--source", "it's", "-o", "none.csv", "-q")[1].startswith("none.csv  0 rows")


def test_stdout_holds_nothing_but_rows(run) -> None:
    words = ["export", "neurons", "layer:0", "--columns", "neuron,label", "-o", "-"]
    done = subprocess.run([sys.executable, "-m", "atlas", *words], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert lines[:2] == ['"neuron","label"', '0,"dog words"'] and len(lines) == 9
    words = ["export", "neurons", "--limit", "2", "-o", "-", "--format", "jsonl", "-q"]
    done = subprocess.run([sys.executable, "-m", "atlas", *words], capture_output=True, text=True, check=True)
    assert [json.loads(line)["neuron"] for line in done.stdout.splitlines()] == [0, 1]
    code, _, err = run("export", "edges", "-o", "-", "--format", "parquet")
    assert code == 2 and "parquet and packed files are not text: give -o FILE" in err


def test_a_reader_that_has_enough(run) -> None:
    words = f"{sys.executable} -m atlas export edges -q -o - | head -1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", words], capture_output=True, text=True, env=os.environ)
    assert done.returncode in (0, 141) and done.stdout.startswith('"src"') and done.stderr == ""


@pytest.mark.parametrize("name", ["l.parquet", "l.csv", "l.jsonl", "l.json"])
def test_labels_come_back_by_label_import(run, tmp_path: Path, name: str) -> None:
    assert run("export", "labels", "-o", name, "-q")[0] == 0
    other = write_atlas(tmp_path / "b.duckdb", small_tables() | {"labels": []})
    code, _, err = run("label", "import", str(other), name, "-q")
    assert code == 0, err
    with atlas.open("a.duckdb") as ours, atlas.open(other) as theirs:
        asked = 'SELECT layer, neuron, "pass", polarity, label, type FROM labels WHERE label IS NOT NULL ORDER BY ALL'
        expected, found = ours.sql(asked).fetchall(), theirs.sql(asked).fetchall()
    if name == "l.json":  # a two-pass file says a sign once for all labels of a neuron
        assert {(*row[:3], *row[4:]) for row in found} == {(*row[:3], *row[4:]) for row in expected}
    else:
        assert found == expected


def test_assignments_come_back_by_cluster_import(run, tmp_path: Path) -> None:
    code, out, _ = run("export", "neurons", "--format", "assignments", "-o", "as.json", "-q")
    assert code == 0 and out.startswith(f"as.json  {len(PATHS)} neurons")
    empty = {"clusters": [], "partitions": [], "clusterings": []}
    other = write_atlas(tmp_path / "b.duckdb", small_tables() | empty)
    assert run("cluster", "import", "as.json", "--atlas", str(other), "--primary")[0] == 0
    with atlas.open(other) as opened:
        found = opened.sql("SELECT layer, neuron, cluster_path FROM neurons WHERE cluster_path IS NOT NULL").fetchall()
    tops = {key: path.split(".")[0] for key, path in PATHS.items()}
    groups = {(one, two): tops[one] == tops[two] for one in tops for two in tops}
    there = {(layer, neuron): path.split(".")[0] for layer, neuron, path in found}
    assert {(one, two): there[one] == there[two] for one in tops for two in tops} == groups


def test_profiles_and_graphs(run) -> None:
    code, out, _ = run("export", "neurons", "layer:0", "-o", "p.json", "--top", "1", "-q")
    assert code == 0 and out.startswith("p.json  8 profiles")
    assert len(json.loads(Path("p.json").read_text())["profiles"]) == 8
    for name in ("g.graphml", "g.json"):
        code, out, _ = run("export", "graph", "layer:0-2", "-o", name, "-q", "--limit", "3")
        assert code == 0 and f"{name}  {8 * LAYERS} nodes  3 edges  " in out
    code, out, err = run("export", "graph", "--to", "L2/N7", "-o", "c.json", "-q")
    document = json.loads(Path("c.json").read_text())
    assert code == 0 and {"metadata", "nodes", "links"} <= set(document) and document["links"], err
    assert run("export", "graph", "cluster:1", "-o", "-", "-q")[1].startswith("<?xml")


def test_what_is_left_out_is_said(run) -> None:
    assert "note: 6 weaker edges are left out; --limit 0 writes all" in run(
        "export", "graph", "layer:0-2", "-o", "g.json", "-q", "--limit", "3")[2]  # fmt: skip
    assert run("export", "graph", "layer:0-2", "-o", "h.json", "-q", "--limit", "0")[2] == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("edges", "-o", "e.txt"),
            "no format by the ending of e.txt; give --format, or end the file in .csv, .jsonl, .par",
        ),
        (("edges", "-o", "e.json"), "no format by the ending of e.json"),
        (("graph", "layer:1", "-o", "g.csv"), "end the file in .graphml, .json"),
        (("edges", "-o", "e.parquet.gz"), "parquet files are not packed as a whole; end e.parquet.gz without .gz"),
        (("neurons", "-o", "p.json.gz"), "profiles files are not packed as a whole"),
        (("graph", "layer:1", "-o", "g.graphml.gz"), "graphml files are not packed as a whole"),
        (("edges", "--ends", "both", "-o", "e.csv"), "--ends both of no selection; give NEURONS too"),
        (("neurons", "--clustering", "leiden", "-o", "n.csv"), "--clustering is of assignments, not of csv"),
        (("graph", "-o", "g.json"), "no graph without NEURONS or --to TARGET"),
        (("graph", "L0/N0", "--to", "L2/N7", "-o", "g.json"), "a graph is of NEURONS or of a circuit"),
        (("labels", "layer:1", "-o", "l.json"), "two-pass files hold all there is; leave out NEURONS"),
        (("neurons", "--where", "true", "-o", "p.json"), "profiles files hold all there is; leave out --where"),
        (("neurons", "--format", "assignments", "-o", "-"), "assignments is written into a file"),
        (("edges", "--layer", "a", "-o", "e.csv"), 'cannot read layers from \'a\'; use "3" or "0-5"'),
        (("edges", "--memory", "lots", "-o", "e.csv"), "cannot read a size"),
        (
            ("edges", "--memory", "1MiB", "-o", "e.csv"),
            "--memory 1MiB is too little to open an atlas; use at least 64MiB",
        ),
        (("labels", "-o", "there.json"), "there.json exists; give another -o FILE, or --force"),
        (("neurons", "-o", "there.json", "--format", "assignments"), "there.json exists"),
        (("edges", "-o", "there.json", "--format", "csv"), "there.json exists"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else "",
)
def test_refusals_in_one_line(run, words: tuple[str, ...], message: str) -> None:
    Path("there.json").write_text("mine")
    code, out, err = run("export", *words)
    assert code == 2 and out == "" and message in err and err.count("\n") == 1
    assert Path("there.json").read_text() == "mine"
    assert {path.name for path in Path().iterdir()} == {"a.duckdb", "there.json"}
