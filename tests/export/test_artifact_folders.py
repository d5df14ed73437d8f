"""Edge stores, packages, reports and shards in the registry: what is told of each, and whose atlas is gone."""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
from synthetic import FLOWS, random_tables, small_tables, write_atlas

import atlas
from atlas.cli.main import main
from atlas.export.artifact_sections import size_text
from atlas.export.artifacts import artifacts_text, check_artifacts, write_artifacts
from atlas.export.profiles import export_profiles
from atlas.export.reports.write import ReportPlan, write_reports


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    write_atlas(Path("data/a.duckdb"), small_tables(), name="a", created="2026-02-03T04:05:06")
    return Path("data")


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    return int(stop.value.code or 0)


def store(root: Path) -> Path:
    with atlas.open(root / "a.duckdb") as opened:
        export_profiles(opened, Path("p.json"))
    assert run("edges", "add", str(root / "a.edges"), "p.json", "-q") == 0
    return root / "a.edges"


def package(folder: Path, **told: Any) -> Path:
    folder.mkdir(parents=True)
    about = {"schema": "atlas-neuronpedia/1", "layout": "bulk", "model": "toy", "revision": "0123456789abcdef"}
    about |= {"counts": {"features": 12, "explanations": 3, "features with a histogram": 0}, **told}
    (folder / "metadata.json").write_text(json.dumps(about))
    (folder / "features.jsonl").write_bytes(b"x" * 1000)
    return folder


def section(text: str, title: str) -> str:
    return next((part for part in text.split("\n---\n") if part.lstrip().startswith(f"## {title}\n")), "")


def test_edge_stores(root: Path) -> None:
    folder = store(root)
    (line,) = re.findall(r"^\| `data/a.edges/` .*$", section(artifacts_text(root), "Edge Stores"), re.MULTILINE)
    observed = sum(map(len, FLOWS.values()))
    assert f"**Edge statistics** of `toy` (3 layers × 8 mlp_neuron), `derived`: {observed} observations" in line
    assert "an unknown number of graphs" in line and f"{len(FLOWS)} rows of edges in 1 partial aggregate" in line
    assert run("edges", "compact", str(folder), "-q") == 0
    assert f", {len(FLOWS)} edges |" in section(artifacts_text(root), "Edge Stores")
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and path.name != "lock")
    assert f"| {size_text(size)} |" in section(artifacts_text(root), "Edge Stores")
    next(folder.rglob("edges-*.parquet")).unlink()
    text = artifacts_text(root)
    assert section(text, "Edge Stores") == "" and "`data/a.edges/` | " in section(text, "Unreadable Files")
    (folder / "manifest.json").write_text("{")
    assert "manifest.json is damaged" in section(artifacts_text(root), "Unreadable Files")


def test_packages_name_the_atlas_they_are_of(root: Path, tmp_path: Path) -> None:
    with atlas.open(root / "a.duckdb") as opened:
        known = {"fingerprint": opened.hash(), "created": "2026-02-03T04:05:06", "name": "a"}
    package(root / "np", atlas=known)
    package(root / "before", atlas=known | {"fingerprint": "0" * 32}, layout="prd")
    package(root / "gone", atlas=known | {"fingerprint": "0" * 32, "created": "2025-01-01"})
    package(root / "other", atlas=known | {"fingerprint": "0" * 32}, model="another")
    transcoders = {"schema": "atlas-saelens/1", "layers": 1, "features": 7, "created": known["created"], "counts": None}
    package(root / "deep" / "tc", **transcoders, layout=None)
    with zipfile.ZipFile(root / "np.zip", "w") as packed:
        packed.write(root / "np" / "metadata.json", "np/metadata.json")
    text = artifacts_text(root)
    here, old = section(text, "Packages"), section(text, "Superseded")
    told = "**Neuronpedia package, bulk layout** of `toy`: 12 features, 3 explanations; made from `data/a.duckdb`"
    size = size_text(1000 + (root / "np" / "metadata.json").stat().st_size)
    assert f"| `data/np/` | {told} | {size} |" in here and f"| `data/np.zip` | {told} |" in here
    assert "prd layout** of `toy`: 12 features, 3 explanations; made from an earlier state of `data/a.duckdb`" in here
    assert (
        "| `data/deep/tc/` | **SAELens transcoders** of `toy`: 7 features, 1 layer; made from `data/a.duckdb`" in here
    )
    lost = "Neuronpedia package, bulk layout, made from an atlas that is no longer here"
    assert "| `data/gone/` | toy | 2025-01-01 | " in old and old.count(lost) == 2
    assert "`data/other/` | another |" in old and "data/gone" not in here and "data/other" not in here
    assert str(tmp_path) not in text


def test_a_package_of_a_superseded_atlas(root: Path) -> None:
    write_atlas(root / "new.duckdb", small_tables(), name="a", created="2026-03-01")
    package(root / "np", atlas={"fingerprint": "0", "created": "2026-02-03T04:05:06"})
    old = section(artifacts_text(root), "Superseded")
    assert "made from `data/a.duckdb`, which is superseded" in old


def test_reports(root: Path) -> None:
    with atlas.open(root / "a.duckdb") as opened:
        write_reports(opened, root / "reports", ReportPlan(range(5), ["1"]))
    told = "| `data/reports/` | **Pages** of `toy`: 5 neurons, 1 module;"
    assert f"{told} made from `data/a.duckdb` |" in section(artifacts_text(root), "Neuron Reports")
    write_atlas(root / "a.duckdb", small_tables(), name="a", created="2026-03-01")
    assert f"{told} of the model of `data/a.duckdb` |" in section(artifacts_text(root), "Neuron Reports")
    write_atlas(root / "a.duckdb", small_tables(), name="a", revision="another")
    text = artifacts_text(root)
    assert section(text, "Neuron Reports") == ""
    assert "Reports, made from an atlas that is no longer here" in section(text, "Superseded")


def test_shards_have_one_line_each(root: Path) -> None:
    for name in ("a.duckdb.build", "lost.duckdb.build", "empty.build"):
        (root / name / "relp-0123456789ab").mkdir(parents=True)
        (root / name / "wiring-0123456789ab").mkdir()
        (root / name / "relp-0123456789ab" / "x.parquet").write_bytes(b"x" * 2500)
        package(root / name / "np")  # not looked for below a build folder
    shutil.rmtree(root / "empty.build")
    (root / "empty.build").mkdir()
    text = artifacts_text(root)
    assert text.count("a.duckdb.build/") == 1 and "empty.build" not in text and "np/" not in text
    assert "| `data/lost.duckdb.build/` | Measured shards: relp, wiring | 2.5 KB |" in section(text, "Shard Folders")


def test_what_is_none_of_ours_is_left_alone(root: Path) -> None:
    before = artifacts_text(root)
    for name, content in (("metadata.json", '{"schema": "other/1"}'), ("index.json", "{"), ("manifest.json", "[1]")):
        (root / name.partition(".")[0]).mkdir()
        (root / name.partition(".")[0] / name).write_text(content)
    (root / "x.zip").write_text("no zip")
    with zipfile.ZipFile(root / "y.zip", "w") as packed:
        packed.writestr("metadata.json", "{")
    package(root / ".np.partial")
    (root / "metadata" / "deeper").mkdir()
    assert artifacts_text(root) == before
    package(root / "metadata" / "deeper" / "np", atlas={"fingerprint": "0", "created": "2026-02-03T04:05:06"})
    assert "data/metadata/deeper/np/" in artifacts_text(root)


def test_equal_bytes_and_check(root: Path, tmp_path: Path) -> None:
    store(root)
    package(root / "np", atlas={"fingerprint": "0", "created": "2026-02-03T04:05:06"})
    (root / "x.build" / "relp-0123456789ab").mkdir(parents=True)
    write_artifacts(root, Path("A.md"))
    check_artifacts(root, Path("A.md"))
    assert artifacts_text(root.resolve()) == Path("A.md").read_text()
    shutil.copytree(root, tmp_path / "elsewhere" / "data")
    assert artifacts_text(tmp_path / "elsewhere" / "data") == Path("A.md").read_text()
    package(root / "more", atlas={"fingerprint": "0", "created": "2026-02-03T04:05:06"})
    with pytest.raises(atlas.AtlasError, match=r"A\.md is out of date"):
        check_artifacts(root, Path("A.md"))


def test_distributions_of_labels_are_those_of_the_tables(root: Path) -> None:
    tables = random_tables(5, layers=20, d_mlp=6)
    kinds = ["lexical", "semantic", None]
    for place, row in enumerate(tables["labels"]):
        row["type"] = kinds[place % 3]
    write_atlas(root / "r.duckdb", tables, layers=20, d_mlp=6, name="r")
    (part,) = [one for one in artifacts_text(root).split("\n---\n") if ": r (" in one]
    rows = tables["labels"]
    count = {kind: sum(row["type"] == kind for row in rows) for kind in kinds}
    share = {kind: f"{number} ({100 * number / len(rows):.1f}%)" for kind, number in count.items()}
    (line,) = re.findall(r"^- output types of .*$", part, re.MULTILINE)
    assert line.startswith(f"- output types of {len(rows)} labels: ")
    assert {f"lexical {share['lexical']}", f"semantic {share['semantic']}", f"no type {share[None]}"} == set(
        line.partition(": ")[2].split(", ")
    )
    texts = len({row["label"].lower().strip() for row in rows})
    assert f"- output label uniqueness: {100 * texts / len(rows):.1f}% ({texts} texts of {len(rows)} labels)" in part
    found = re.findall(r"^\| L(\d+)(?:-L(\d+))? \| (\d+) \| (\d+) \|", part, re.MULTILINE)
    assert len(found) == 7 and [int(last) for last, *_ in found] == sorted((int(b[0]) for b in found), reverse=True)
    for last, first, neurons, labelled in found:
        band = range(int(first or last), int(last) + 1)
        inside = [row for row in tables["neurons"] if row["layer"] in band]
        assert (int(neurons), int(labelled)) == (len(inside), sum(row["label"] is not None for row in inside))


def test_several_clusterings_are_listed(root: Path) -> None:
    tables = small_tables()
    tables["clusterings"].append(tables["clusterings"][0] | {"clustering": "leiden", "method": "leiden", "modules": 3})
    write_atlas(root / "a.duckdb", tables, name="a")
    text = artifacts_text(root)
    assert "| `leiden` | leiden | 8 | 3 | 2 |" in text and "| `infomap` | infomap | 8 | 4 | 2 |" in text
