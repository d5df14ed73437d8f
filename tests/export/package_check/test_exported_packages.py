"""What atlas itself exports is clean, and one changed byte of it is found."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from synthetic import small, write_atlas  # noqa: F401

import atlas
from atlas.build.saelens import SaelensPlan, export_saelens
from atlas.export.package_check import check_package
from atlas.export.reports.write import ReportPlan, write_reports
from atlas.models.folder import revision

DEMO = Path(__file__).parents[3] / "data" / "demo" / "model"


@pytest.fixture
def transcoders(tmp_path: Path) -> Path:
    """Neurons 3 and 9 of layer 1 (both signs) and 0 of layer 2, of the demo model."""
    keys = [(layer, neuron) for layer in range(4) for neuron in range(384)]
    rows = [{"layer": layer, "neuron": n, "feature_id": layer * 384 + n} for layer, n in keys]
    facts = {"model": "demo", "revision": revision(DEMO), "context_length": 128, "bos_policy": "every context ..."}
    file = write_atlas(tmp_path / "m.duckdb", {"neurons": rows}, layers=4, d_mlp=384, **facts)
    with atlas.open(file) as opened:
        plan = SaelensPlan([opened.id_of(one) for one in ("L1/N3", "L1/N9", "L2/N0")])
        export_saelens(opened, DEMO, tmp_path / "out", plan)
    return tmp_path / "out"


def test_transcoders_of_the_demo_model(transcoders: Path) -> None:
    report = check_package(transcoders)
    assert (report.layout, report.found) == ("saelens", {})
    assert (report.counts["transcoders"], report.counts["features"]) == (2, 6)


def place_of(file: Path, tensor: str, cell: int) -> int:
    """Byte of a value of a tensor, from the format."""
    content = file.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    return 8 + length + int(header[tensor]["data_offsets"][0]) + 4 * cell


@pytest.mark.parametrize(
    ("tensor", "cell", "value", "rule"),
    [
        ("W_enc", 3 * 4 + 2, 1.0, "sae-selection"),  # column 2 selects neuron 9 and now 3 too
        ("W_enc", 9 * 4 + 2, -1.0, "sae-selection"),  # the wrong sign
        ("W_dec", 7, float("inf"), "sae-finite"),
        ("W_dec", 7, 0.125, None),  # what weights are is not known here: the manifest tells
    ],
)
def test_a_changed_weight(transcoders: Path, tensor: str, cell: int, value: float, rule: str | None) -> None:
    file = transcoders / "blocks.1.mlp" / "sae_weights.safetensors"
    at = place_of(file, tensor, cell)
    content = bytearray(file.read_bytes())
    content[at : at + 4] = struct.pack("<f", value)
    file.write_bytes(content)
    found = {one.rule: one for one in check_package(transcoders).problems}
    assert set(found) == {"manifest-sha256", rule} - {None}
    assert all(one.file == "blocks.1.mlp/sae_weights.safetensors" for one in found.values())


@pytest.fixture(scope="module")
def opened(small: Path) -> Iterator[atlas.Atlas]:  # noqa: F811
    with atlas.open(small) as found:
        yield found


def test_report_pages(opened: atlas.Atlas, tmp_path: Path) -> None:
    neurons = [row["feature_id"] for row in opened.ask("neurons_busiest", {"max_rows": 3}).rows()]
    path = str(opened.sql("SELECT min(cluster_path) FROM clusters").rows()[0]["min(cluster_path)"])
    made = write_reports(opened, tmp_path / "pages", ReportPlan(neurons, (path,)))
    report = check_package(tmp_path / "pages")
    assert (report.layout, report.found, report.counts["pages"]) == ("reports", {}, made.pages + 1)
    (tmp_path / "pages" / "html" / f"C{path}.html").unlink()
    assert [one.rule for one in check_package(tmp_path / "pages").problems] == ["report-missing"]
