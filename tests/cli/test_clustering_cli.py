"""`atlas cluster run | use | runs` as a person runs them: short form, formats, forecasts, failures in one line."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import click
import pytest
from planted_edges import planted, write_edges

pytest.importorskip("infomap")

from atlas.cli import clustering
from atlas.cli import main as cli
from atlas.derive.clustering.methods import METHODS, make_options


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        cli.main(["cluster", *arguments])
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), out, err


def test_run_use_and_runs(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = str(write_edges(tmp_path / "a.duckdb", planted()))
    code, out, _ = run(capsys, file, "--dry-run", "--format", "json")
    assert (code, json.loads(out)["entries"]) == (0, len(planted()))
    code, _, err = run(capsys, file, "--memory", "1MiB")
    assert code == 1 and "0.00 GiB are allowed" in err
    code, out, err = run(capsys, file, "--method", "infomap")
    assert code == 0 and "shown in neurons and clusters" in out and "entries" in err and "shown" not in err
    assert " of 3 levels, " in out
    code, out, _ = run(capsys, "run", file, "--name", "again", "--seed", "1", "--format", "json", "-q")
    assert code == 0 and (json.loads(out)["primary"], json.loads(out)["seed"]) == (False, 1)
    code, out, err = run(capsys, "run", "--atlas", file, "--method", "kmeans", "-q")
    assert (code, err) == (0, "") and " of 1 level, " in out and '"atlas cluster use kmeans" shows it' in out
    code, _, err = run(capsys, file, "--atlas", file)
    assert code == 2 and "two atlases" in err
    assert run(capsys, "use", "again", "--atlas", file, "-q")[0] == 0
    code, out, _ = run(capsys, "runs", "--atlas", file, "--format", "json")
    assert [(row["clustering"], row["primary"]) for row in json.loads(out)] == [
        ("again", True), ("infomap", False), ("kmeans", False),
    ]  # fmt: skip
    code, _, err = run(capsys, "use", "none", "--atlas", file)
    assert (code, err.count("\n")) == (2, 1) and "there are again, infomap, kmeans" in err
    code, _, err = run(capsys, file, "--weight", "mean_weight", "-q")
    assert code == 2 and "negative" in err and err.count("\n") == 1


def test_the_methods_offered_are_those_there_are() -> None:
    offered = next(option for option in clustering.run.params if option.name == "method").type
    assert isinstance(offered, click.Choice) and tuple(offered.choices) == METHODS


@pytest.mark.parametrize("method", METHODS)
def test_every_option_of_a_method_is_on_the_command_line(method: str) -> None:
    offered = {option.name for option in clustering.run.params}
    assert {one.name for one in fields(make_options(method, {}))} <= offered
