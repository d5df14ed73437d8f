"""atlas cluster compare, import and export at the command line."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import duckdb
import pytest
from synthetic import PATHS, small_tables, write_atlas

pytest.importorskip("scipy")

from atlas.cli.main import main


@pytest.fixture
def file(tmp_path: Path) -> Path:
    tables = small_tables()
    other = {
        "method": "kmeans",
        "parameters": "{}",
        "seed": 1,
        "flow": None,
        "clustering": "kmeans",
        "membership": None,
    }
    tables["partitions"] += [
        {**other, "layer": layer, "neuron": neuron, "cluster_path": str(neuron % 2 + 1)}
        for layer, neuron in sorted(PATHS)
    ]
    return write_atlas(tmp_path / "a.duckdb", tables)


def run(capsys: pytest.CaptureFixture[str], command: str, file: Path) -> tuple[int, str, str]:
    words = ["cluster", *shlex.split(command), "--atlas", str(file)]
    with pytest.raises(SystemExit) as end:
        main(words)
    out = capsys.readouterr()
    return int(end.value.code or 0), out.out, out.err


def test_compare_as_text_and_as_a_report(capsys: pytest.CaptureFixture[str], file: Path, tmp_path: Path) -> None:
    code, out, err = run(capsys, "compare infomap kmeans", file)
    assert code == 0, err
    assert "adjusted mutual information (1 = equal, 0 = chance)" in out and "neurons in both 8" in out
    report = tmp_path / "comparison_report.json"
    assert run(capsys, f"compare primary kmeans --level 1 --format json -o {report}", file)[:2] == (0, "")
    found = json.loads(report.read_text())
    assert (found["a"]["name"], found["a"]["modules"], found["level"]) == ("infomap", 2, 1)
    assert found["agreement"]["neurons_in_both"] == len(PATHS)
    code, out, _ = run(capsys, "compare --all --format json", file)
    assert [(one["a"]["name"], one["b"]["name"]) for one in json.loads(out)] == [("infomap", "kmeans")]
    assert "AMI" in run(capsys, "compare --all", file)[1]


def test_export_import_and_compare_the_file(capsys: pytest.CaptureFixture[str], file: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.json"
    code, said, err = run(capsys, f"export assignments --clustering kmeans -o {out}", file)
    assert code == 0 and f"{out}  8 neurons" in said, err
    code, said, err = run(capsys, f"import {out}", file)
    assert code == 0 and said.startswith('import:x.json: 8 of 8 neurons in modules; "atlas cluster use'), err
    assert _primary(file) == ("infomap", sorted(PATHS.values()))
    assert json.loads(run(capsys, "compare kmeans import:x.json --format json", file)[1])["agreement"][
        "variation_of_information"
    ] == pytest.approx(0, abs=1e-9)
    code, said, err = run(capsys, f"import {out} --primary", file)
    assert code == 0 and "now shown" in said, err
    assert _primary(file) == ("import:x.json", sorted(str(neuron % 2 + 1) for _, neuron in PATHS))


def test_an_import_says_what_it_mended(capsys: pytest.CaptureFixture[str], file: Path, tmp_path: Path) -> None:
    given = tmp_path / "ranks.json"
    given.write_text(
        json.dumps({"assignments": {f"0_{i}": f"1:{i // 4 + 1}:{i % 4 + 1}" for i in range(8)} | {"x": "1"}})
    )
    code, said, err = run(capsys, f"import {given}", file)
    assert code == 0 and "8 of 9 neurons" in said
    assert "1 with an unreadable neuron id" in err and "8 path ended in the neuron's own rank (cut off)" in err


def test_the_first_clustering_of_an_atlas_is_shown(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    tables = small_tables()
    tables["partitions"], tables["clusterings"], tables["clusters"] = [], [], []
    for row in tables["neurons"]:
        row.update(dict.fromkeys(["cluster_path", "top_cluster", "sub_module", "hierarchy_depth", "infomap_flow"]))
    bare = write_atlas(tmp_path / "bare.duckdb", tables)
    (tmp_path / "g.json").write_text('{"assignments": {"L0/1": {"path": "3"}, "L1/2": {"path": "3"}}}')
    code, said, err = run(capsys, f"import {tmp_path / 'g.json'}", bare)
    assert code == 0 and "now shown" in said, err
    assert _primary(bare) == ("import:g.json", ["3", "3"])


def test_seed_clusters(capsys: pytest.CaptureFixture[str], file: Path, tmp_path: Path) -> None:
    code, out, err = run(capsys, f"export seed-clusters --clustering kmeans -o {tmp_path / 's'}", file)
    assert code == 0 and "layer_0_clusters.json" in out, err
    found = json.loads((tmp_path / "s" / "layer_1_clusters.json").read_text())
    assert [(c["cluster_path"], c["neuron_indices"]) for c in found["clusters"]] == [("1", [2, 4]), ("2", [3])]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("compare infomap", "1 clusterings to compare; give two names or files, or --all alone"),
        ("compare infomap kmeans --all", "--all alone"),
        ("compare infomap leiden", "no clustering 'leiden' in a.duckdb; there are infomap, kmeans"),
        ("compare infomap kmeans --draws 1", "draws is 1"),
        ("import missing.json", "no assignment file at missing.json"),
        ("import {folder}/other.json", "other.json: 1 of 3 neurons are out of range (3 layers of 8), at 'L9/1'"),
        ("import {folder}/cut.json", "cut.json is no assignment file"),
        ("export assignments --clustering leiden -o {folder}/x.json", "no clustering 'leiden'"),
        ("export assignments -o {folder}", "is a folder; give the name of a file"),
        ("export seed-clusters -o {folder}", "is not empty"),
    ],
)
def test_failures_are_one_line_and_change_nothing(
    capsys: pytest.CaptureFixture[str], file: Path, tmp_path: Path, command: str, message: str
) -> None:
    (tmp_path / "other.json").write_text('{"assignments": {"L0/1": "1", "L0/2": "1", "L9/1": "1"}}')
    (tmp_path / "cut.json").write_text('{"assignments": {"L0/1": "1", "L0/2": "1", "L0')
    before = file.read_bytes()
    code, out, err = run(capsys, command.format(folder=tmp_path), file)
    assert (code, out) == (2, "") and err.startswith("atlas: ") and err.count("\n") == 1 and message in err
    assert file.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.duckdb", "cut.json", "other.json"]


def _primary(file: Path) -> tuple[str, list[str]]:
    with duckdb.connect(str(file), read_only=True) as con:
        name = con.execute("SELECT value FROM metadata WHERE key = 'primary_clustering'").fetchall()
        rows = con.execute("SELECT cluster_path FROM neurons WHERE cluster_path IS NOT NULL ORDER BY 1").fetchall()
    return name[0][0] if name else "infomap", [path for (path,) in rows]
