"""`atlas diff` and `atlas edges halves` as a person runs them: formats, notes, failures in one line, exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from synthetic import random_tables, small, write_atlas  # noqa: F401

from atlas.cli import main as cli


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        cli.main([*arguments])
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), out, err


def graphs_file(path: Path, seed: int, *, planted: float = 0.5) -> Path:
    import random

    dice = random.Random(seed)
    rows = [
        {"graph_id": g, "src_layer": 0, "src_neuron": s, "tgt_layer": 1, "tgt_neuron": t,
         "weight": dice.gauss(planted if (s, t) == (1, 2) else 0.5, 1)}
        for g in range(60) for s in range(8) for t in range(8) if dice.random() < 0.7
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


SIZES = ("--layers", "2", "--width", "8", "--method", "relp_direct", "--model", "tiny")


def test_from_graphs_to_what_changed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    files = [str(graphs_file(tmp_path / "a.parquet", 1)), str(graphs_file(tmp_path / "b.parquet", 2, planted=9.0))]
    atlases = [str(tmp_path / "a.duckdb"), str(tmp_path / "b.duckdb")]
    for file, name in zip(files, atlases, strict=True):
        assert run(capsys, "edges", "add", f"{name}.edges", file, *SIZES, "-q")[0] == 0
        assert run(capsys, "edges", "project", f"{name}.edges", name, "-q")[0] == 0
    code, _, err = run(capsys, "edges", "halves", files[0], "-o", str(tmp_path / "noise"), *SIZES, "-q")
    assert code == 0 and "half-1.duckdb" in err and "64 edges" in err
    halves = [str(tmp_path / "noise" / f"half-{i}.duckdb") for i in (1, 2)]
    code, out, err = run(capsys, "diff", *atlases, "--what", "edges", "--noise", *halves, "--format", "json")
    rows = json.loads(out)
    assert code == 0 and (rows[0]["src"], rows[0]["tgt"], rows[0]["change"]) == (1, 10, "changed")
    assert rows[0]["excess"] > 3 and all(row["beyond"] for row in rows) and len(rows) < 10
    assert "99.00% quantile of |score| between the halves" in err
    code, out, err = run(capsys, "diff", *atlases, "--what", "edges", "--all", "--limit", "3")
    assert code == 0 and "L0/N1" in out and "note: 3 of 64 rows" in err and "real noise is larger" in err
    code, out, err = run(capsys, "diff", *atlases, "--noise", *halves)
    assert code == 0 and out.splitlines()[1].split()[:4] == ["edges", "compared", "64", "64"]
    assert "labels are not compared" in err


def test_every_part_prints_a_table(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    names = [str(write_atlas(tmp_path / f"{s}.duckdb", random_tables(s), layers=5, d_mlp=40)) for s in (1, 2)]
    for what, column in (("labels", "similarity"), ("clusters", "jaccard"), ("tokens", "cosine"), ("summary", "part")):
        code, out, _ = run(capsys, "diff", *names, "--what", what, "--limit", "2")
        assert code == 0 and column in out.splitlines()[0]
    code, out, err = run(capsys, "diff", *names, "--what", "clusters", "--level", "1")
    assert code == 0 and "AMI" in err


def test_failures_are_one_line(capsys: pytest.CaptureFixture[str], small: Path, tmp_path: Path) -> None:  # noqa: F811
    other = str(write_atlas(tmp_path / "o.duckdb", random_tables(1), layers=5, d_mlp=40))
    for arguments, said in (
        ((str(small), other), "small.duckdb has 3 layers of 8 neurons, o.duckdb 5 of 40"),
        ((str(small), str(small), "--what", "weights"), "cannot compare 'weights'"),
        ((str(small), str(tmp_path / "none.duckdb")), "no atlas at"),
        ((str(small), str(small), "--what", "edges", "--noise", str(small), str(small)), "given as both halves"),
        ((str(small), str(small), "--quantile", "1.5"), "the quantile of the noise is 1.5"),
        ((str(small), str(small), "--memory", "much"), "cannot read a size"),
    ):
        code, out, err = run(capsys, "diff", *arguments)
        assert (code, out, err.count("\n")) == (2, "", 1) and err.startswith("atlas: ") and said in err
    code, _, err = run(capsys, "edges", "halves", str(tmp_path / "nothing"), "-o", str(tmp_path / "n"), "-q")
    assert code == 2 and "no file or folder" in err
