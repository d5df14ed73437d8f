"""`atlas export neuronpedia` as a person runs it: layouts, selections, estimates, one-line errors."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from synthetic import small_tables, write_atlas

import atlas
from atlas.cli.main import main
from atlas.export.package_check import check_package
from atlas.models.folder import revision

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "data" / "demo" / "model"
LAYOUTS = ("bulk", "upload", "prd", "sae-dashboard")


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main(["export", "neuronpedia", *arguments])
    return int(stop.value.code or 0)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ATLAS_FILE", raising=False)
    Path("data").mkdir()
    return write_atlas(Path("data/a.duckdb"), small_tables(), name="a", context_length=128, corpus_documents=2)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_package_passes_our_own_check(file: Path, capsys: pytest.CaptureFixture[str], layout: str) -> None:
    assert run("--layout", layout, "-o", "out", "--sign", "both", "--visibility", "public", "-q") == 0
    captured = capsys.readouterr()
    path = Path("out.zip" if layout == "prd" else "out")
    assert captured.out.splitlines()[0].startswith(f"{path}  {layout}, 2 features, ")
    assert "neurons with exemplars are exported" in captured.err and "about 0.0" in captured.err
    found = check_package(path)
    assert [str(one) for one in found.problems] == []


def test_everything_is_said_as_json(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--all", "--dry-run", "--format", "json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["features"], told["layouts"], told["weight_bytes"]) == (24, list(LAYOUTS), 0)
    assert [p.name for p in Path().iterdir()] == ["data"]
    assert run("--all", "-o", "out", "--format", "json", "-q") == 0
    made = json.loads(capsys.readouterr().out)
    assert (made["path"], made["features"], made["layout"]) == ("out", 24, "bulk") and len(made["sha256"]) == 64
    assert 0.5 < told["size_bytes"] / made["size_bytes"] < 2


@pytest.mark.parametrize(
    ("arguments", "ids"),
    [
        (["L0/N3", "L2/N1"], [3, 17]),
        (["cluster:2"], [12, 22, 23]),
        (["--range", "4:6"], [4, 5, 6]),
        (["--sql", "SELECT 1 AS layer, 2 AS neuron"], [10]),
        (["--extracted"], [0, 10]),
        (["-"], [5, 9]),
    ],
)
def test_neurons_are_chosen_in_every_way(
    file: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], ids: list[int]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("L0/N5\nL1/N1\n"))
    assert run(*arguments, "--layout", "prd", "--no-zip", "-o", "out", "-q") == 0
    assert sorted(int(p.stem) for p in Path("out/features").iterdir()) == ids


def test_the_weights_are_those_of_the_model(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"layer": n // 384, "neuron": n % 384, "feature_id": n} for n in range(4 * 384)]
    write_atlas(Path("demo.duckdb"), {"neurons": rows}, layers=4, d_mlp=384, revision=revision(DEMO))
    given = ("--atlas", "demo.duckdb", "--model", str(DEMO), "L1/N3", "L1/N5", "-q")
    assert run(*given, "--layout", "prd", "--no-zip", "-o", "out") == 0
    assert (Path("out/saelens/blocks.1.mlp/sae_weights.safetensors")).stat().st_size > 0
    told = json.loads(Path("out/metadata.json").read_text())
    assert told["includes"]["saelens_weights"] is True and told["layer"] == 1
    assert {name for name in told["files"] if name.startswith("saelens/")} == {
        "saelens/metadata.json", "saelens/blocks.1.mlp/cfg.json", "saelens/blocks.1.mlp/sae_weights.safetensors",
    }  # fmt: skip
    config = json.loads(Path("out/saelens/blocks.1.mlp/cfg.json").read_text())
    assert config["metadata"]["neuron_indices"] == [3, 5] and config["metadata"]["polarity"] == [1, 1]
    capsys.readouterr()
    assert run(*given, "--dry-run", "--format", "json") == 0
    size = json.loads(capsys.readouterr().out)["weight_bytes"]
    made = Path("out/saelens/blocks.1.mlp/sae_weights.safetensors").stat().st_size
    assert 0 <= made - size < 1000  # its header
    assert run("--atlas", str(file), "--model", str(DEMO), "-o", "other") == 2  # another model's sizes
    assert not Path("other").exists() and "4 of 384" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 2, "give -o TARGET, or --dry-run"),
        (["--all", "--extracted", "-o", "t"], 2, "one way"),
        (["--top-k", "0", "-o", "t"], 2, "--top-k is 0"),
        (["--range", "0:24", "-o", "t"], 2, "not within 0:23"),
        (["--layout", "upload", "--set", "neurons", "-o", "t"], 2, "takes no set called 'neurons'"),
        (["--max-size", "1KB", "-o", "t"], 2, "--max-size"),
        (["--max-size", "much", "-o", "t"], 2, "cannot read a size"),
        (["--atlas", "gone.duckdb", "-o", "t"], 2, "gone.duckdb"),
        (["-o", "data"], 2, "there already"),
        (["-o", "data", "--force"], 2, "is no package"),
    ],
)
def test_errors_are_one_line(
    file: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, said: str
) -> None:
    assert run(*arguments, "-q") == code
    captured = capsys.readouterr()
    last = captured.err.strip().splitlines()[-1]
    assert captured.out == "" and last.startswith("atlas: ") and said in last
    assert [p.name for p in Path().iterdir()] == ["data"]


def test_ctrl_c_says_how_to_go_on(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from atlas.export.neuronpedia import bulk

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(bulk, "finish", stop)
    monkeypatch.setattr("atlas.build.neuronpedia.estimate", lambda *_: _small())
    assert run("--all", "-o", "t", "-q") == 130
    assert "run the same command again to go on" in capsys.readouterr().err
    assert not Path("t").exists()


def _small() -> Any:
    from atlas.build.neuronpedia import Estimate

    return Estimate("bulk", 24, 9, 1000, 24, 0, 1000, (), LAYOUTS)


def test_it_starts_without_torch(file: Path) -> None:
    code = (
        "import sys; from atlas.cli.main import _run; "
        "assert _run(['export', 'neuronpedia', '--all', '-o', 'out', '-q']) == 0; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": str(ROOT)})


@pytest.mark.parametrize("name", ["demo", "stories260K"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_built_atlases_pass_the_check(tmp_path: Path, name: str, layout: str) -> None:
    built = Path(os.environ.get(f"ATLAS_{name.upper()}", ROOT / "data" / name / f"{name}.duckdb"))
    if not built.is_file():
        pytest.skip(f"no atlas of {name}; atlas build data/recipes/{name}.toml makes it")
    with atlas.open(built) as a:
        assert a.layers
    where = ("--atlas", str(built), "--layout", layout, "-o", str(tmp_path / "out"))
    assert run(*where, "--range", "0:399", "--visibility", "public", "-q") == 0
    target = tmp_path / ("out.zip" if layout == "prd" else "out")
    assert [str(one) for one in check_package(target).problems] == []
