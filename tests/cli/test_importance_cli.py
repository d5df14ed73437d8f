"""`atlas importance` and `atlas prune batch` as a person runs them, on the demo model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from synthetic import random_tables, write_atlas

import atlas
from atlas.cli import main as cli

DEMO = Path(__file__).parents[2] / "data" / "demo"
REVISION = "dea810eab136871f"  # of data/demo/model
TEXTS = ["Hannah ate soup with yogurt and drank wine .", "my knee hurts , I need some aspirin", "she wept because"]
WORDS = [word for text in TEXTS for word in ("--text", text)]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An atlas of the demo model's sizes, with made-up contents."""
    folder = tmp_path_factory.mktemp("atlas")
    return write_atlas(folder / "demo.duckdb", random_tables(1, 4, 384), layers=4, d_mlp=384, revision=REVISION)


def run(capsys: pytest.CaptureFixture[str], file: Path, *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        cli.main([*arguments, "--atlas", str(file), "--model", str(DEMO / "model"), "--quiet"])
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), out, err


def test_a_layer_has_the_form_of_the_seed(capsys: pytest.CaptureFixture[str], file: Path) -> None:
    code, out, err = run(
        capsys, file, "importance", "--layer", "3", "--share", "1", "--fresh", *WORDS, "--format", "json"
    )
    told = json.loads(out)
    assert code == 0, err
    assert told["total_neurons"] == len(told["importance_scores"]) == 384
    assert told["critical_neurons"] == sum(row["is_critical"] for row in told["importance_scores"])
    seed = ["layer_index", "neuron_index", "activation_magnitude", "activation_variance", "impact_score", "is_critical"]
    assert list(told["importance_scores"][0])[:6] == seed
    assert {row["evidence"] for row in told["importance_scores"]} == {"measured", "estimated"}
    assert all(row["safe_to_prune"] is None and row["reason"] for row in told["importance_scores"])  # a few words
    assert "12 of 384 neurons measured" in err
    with atlas.open(file) as a:
        assert a.sql("SELECT count(*) FROM importance_of_layer(3)").fetchall() == [(384,)]


def test_a_batch_has_the_form_of_the_seed(capsys: pytest.CaptureFixture[str], file: Path) -> None:
    code, out, err = run(
        capsys, file, "prune", "batch", "--top", "4", "--batch-size", "3", "--fresh", *WORDS, "--format", "json"
    )
    told = json.loads(out)
    assert code == 0, err
    seed = ["layer_index", "neuron_index", "impact_score", "mean_change", "max_change", "safe_to_prune"]
    assert [list(row)[:6] for row in told["individual_impacts"]] == [seed] * 4
    assert list(told["cumulative_impact"])[:3] == ["impact_score", "mean_change", "max_change"]
    advice = ["safe_to_prune", "risky_to_prune", "suggested_batch_size", "high_impact_neurons"]
    assert list(told["recommendations"])[:4] == advice
    assert told["recommendations"]["suggested_batch_size"] is None
    assert "suggested no verdict" in err and "a verdict needs 10,000" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("importance", "--layer", "9", "--fresh", *WORDS), "layer 9 is out of range"),
        (("importance", "--layer", "1", "--fresh", "--text", ""), "no token to predict"),
        (("importance", "--layer", "1", *WORDS), "--fresh"),
        (("importance", "--layer", "1", "--fresh"), "on which text?"),
        (("prune", "batch", "--fresh", *WORDS), "which neurons?"),
        (("prune", "batch", "--neurons", "L9/N1", "--fresh", *WORDS), "out of range"),
        (("prune", "batch", "--neurons", "L0/N1", "--batch-size", "0", "--fresh", *WORDS), "batch size is 0"),
    ],
)
def test_bad_input_is_one_line(
    capsys: pytest.CaptureFixture[str], file: Path, arguments: tuple[str, ...], said: str
) -> None:
    code, out, err = run(capsys, file, *arguments)
    assert code == 2 and not out
    assert said in err and err.count("\n") == 1
