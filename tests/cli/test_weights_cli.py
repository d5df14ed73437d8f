"""`atlas weights`: the seed's document of a model folder, and what it says when asked for what is not there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from seed_schemas import schema_faults, weight_schema

from atlas.cli.main import main

DEMO = Path(__file__).parents[2] / "data" / "demo" / "model"


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[str, str]:
    with pytest.raises(SystemExit) as stop:
        main(["weights", *arguments])
    found = capsys.readouterr()
    assert stop.value.code == (2 if found.err.startswith("atlas: ") else 0), found.err
    return found.out, found.err


@pytest.fixture
def model(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    arrays = {
        f"transformer.h.{layer}.mlp.{name}": rng.normal(size=shape).astype(np.float32)
        for layer in (0, 2, 10)
        for name, shape in (("c_fc.weight", (4, 8)), ("c_fc.bias", (8,)))
    } | {"wte.weight": rng.normal(size=(5, 4)).astype(np.float32)}
    arrays["transformer.h.2.mlp.c_fc.weight"][:2] = 0
    save_file(arrays, tmp_path / "model.safetensors")
    return tmp_path


def document(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run(capsys, *arguments, "--format", "json", "-q")[0])
    return found


def test_json_is_the_documents_sparsity_analysis(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = document(capsys, str(model))
    assert schema_faults(found, weight_schema()["properties"]["sparsity_analysis"]) == []
    assert (found["total_parameters"], found["non_zero_parameters"]) == (140, 124)
    assert found["overall_sparsity"] == pytest.approx(16 / 140)
    assert found["layer_sparsity"]["transformer.h.2.mlp.c_fc"] == {
        "sparsity": 0.5, "total_params": 32, "non_zero_params": 16,
    }  # fmt: skip
    names = [(row["layer_index"], row["layer_name"]) for row in found["layer_stats"]]
    assert names[:3] == [(-1, "wte"), (0, "transformer.h.0.mlp.c_fc"), (0, "transformer.h.0.mlp.c_fc.bias")]
    assert [layer for layer, _ in names] == [-1, 0, 0, 2, 2, 10, 10]


def test_one_layer_and_its_own_totals(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = document(capsys, str(model), "--layer", "2")
    assert found["total_parameters"] == 40
    assert found["overall_sparsity"] == pytest.approx(0.4)
    assert len(document(capsys, str(model), "--layer", "-1")["layer_stats"]) == 1
    assert "no layer 3" in run(capsys, str(model), "--layer", "3")[1]


def test_sorting_by_a_column(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stats = document(capsys, str(model), "--sort", "l2_norm")["layer_stats"]
    assert [row["l2_norm"] for row in stats] == sorted((row["l2_norm"] for row in stats), reverse=True)
    names = [row["layer_name"] for row in document(capsys, str(model), "--sort", "name")["layer_stats"]]
    assert names == sorted(names)
    error = run(capsys, str(model), "--sort", "size", "-q")[1]
    assert "no column 'size' to sort by; choose one of name, layer, total_parameters" in error


def test_the_table_says_the_totals_and_what_it_cut(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, err = run(capsys, str(model), "--limit", "2", "-q")
    assert out.splitlines()[0] == "140 parameters in 7 tensors of F32; overall_sparsity 0.1143 (124 are not 0)"
    assert len(out.splitlines()) == 5
    assert err == "note: 2 of 7 rows; --limit 0 shows all\n"
    file = tmp_path / "out.txt"
    assert run(capsys, str(model), "--limit", "2", "-q", "-o", str(file))[0] == ""
    assert file.read_text() == out


def test_neurons_of_the_demo(capsys: pytest.CaptureFixture[str]) -> None:
    from safetensors.numpy import load_file

    out, _ = run(capsys, str(DEMO), "--neurons", "--layer", "1", "--format", "json", "-q")
    rows = json.loads(out)
    stored = load_file(DEMO / "model.safetensors")
    gate, up, down = (stored[f"model.layers.1.mlp.{n}_proj.weight"].astype(np.float64) for n in ("gate", "up", "down"))
    own = np.concatenate([gate, up, down.T], axis=1)
    assert [row["neuron_index"] for row in rows] == list(range(len(gate)))
    assert [row["weight_magnitude"] for row in rows] == pytest.approx(np.abs(own).mean(1), rel=1e-12)
    assert [row["output_norm"] for row in rows] == pytest.approx(np.linalg.norm(down, axis=0), rel=1e-12)
    ranked = sorted(rows, key=lambda row: -row["weight_magnitude"])
    assert [row["weight_rank"] for row in ranked] == list(range(1, len(rows) + 1))
    assert "layer 9 is out of range" in run(capsys, str(DEMO), "--neurons", "--layer", "9", "-q")[1]


def test_what_is_no_model_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "pytorch_model-00001-of-00002.bin").touch()
    assert "only pytorch_model-00001-of-00002.bin (a pickle" in run(capsys, str(tmp_path))[1]
    assert "no model folder" in run(capsys, str(tmp_path / "none"))[1]
