"""`atlas export seed-json` and `atlas artifacts` as a person runs them."""

import subprocess
import sys
from pathlib import Path

import pytest
from synthetic import small_tables, write_atlas

from atlas.cli.main import main
from atlas.export.seed_json import read_activations, read_query, read_samples
from atlas.models.folder import read_config

DEMO = Path(__file__).parents[2] / "data" / "demo" / "model"


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    return int(stop.value.code or 0)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ATLAS_FILE", raising=False)
    Path("data").mkdir()
    return write_atlas(Path("data/a.duckdb"), small_tables(), name="a")


def test_seed_json_writes_and_lists_files(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("export", "seed-json", "-o", "out", "--neurons", "0_0", "--neurons", "cluster:2") == 0
    captured = capsys.readouterr()
    listed = [line.split("  ")[0] for line in captured.out.splitlines()]
    assert listed == sorted(str(p) for p in Path("out").rglob("*.json"))
    assert read_query("out/queries/L0_N0.json").neuron_index == 0
    assert read_samples("out/samples.json") == ["The dog runs"]
    assert not Path("out/activations").exists()


def test_seed_json_refuses_in_one_line(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("export", "seed-json", "-o", "out") == 0
    assert run("export", "seed-json", "-o", "out") == 2
    assert run("export", "seed-json", "-o", "out2", "--prompt", "a dog") == 2
    errors = capsys.readouterr().err.strip().splitlines()
    assert [line.split(" ")[0] for line in errors] == ["atlas:", "atlas:"]
    assert "--force" in errors[0]
    assert "--model" in errors[1]
    assert run("export", "seed-json", "-o", "out", "--force") == 0


def test_seed_json_measures_prompts_on_the_model(file: Path) -> None:
    config = read_config(DEMO)
    layers, width = config["num_hidden_layers"], config["intermediate_size"]
    write_atlas(Path("demo.duckdb"), {}, layers=layers, d_mlp=width)
    model = ("--model", str(DEMO), "--prompt", "the dog sleeps", "--prompt", "The dog sleeps!")
    assert run("export", "seed-json", "--atlas", "demo.duckdb", "-o", "out", "--top", "3", *model) == 0
    found = read_activations("out/activations/the_dog_sleeps.json")
    assert found.values.shape == (layers, 3, len(found.tokens))
    assert read_activations("out/activations/the_dog_sleeps_2.json").prompt == "The dog sleeps!"
    assert run("export", "seed-json", "--atlas", str(file), "-o", "other", *model) == 2  # another model's sizes


def test_artifacts_write_check_and_print(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("artifacts", "--check", "-q") == 1
    assert run("artifacts", "-q") == 0
    assert run("artifacts", "--check", "-q") == 0
    capsys.readouterr()
    assert run("artifacts", "data", "-o", "-", "-q") == 0
    assert capsys.readouterr().out == Path("ARTIFACTS.md").read_text()
    Path("ARTIFACTS.md").write_text("older")
    assert run("artifacts", "--check", "-q") == 1
    assert Path("ARTIFACTS.md").read_text() == "older"
    assert run("artifacts", "nowhere", "-q") == 2


def test_neither_command_imports_torch_without_prompts(file: Path) -> None:
    code = (
        "import sys; from atlas.cli.main import _run; "
        "assert _run(['export', 'seed-json', '-o', 'out']) == 0; assert _run(['artifacts', '-q']) == 0; "
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    subprocess.run(
        [sys.executable, "-c", code], check=True, cwd=Path.cwd(), env={"PYTHONPATH": str(Path(__file__).parents[2])}
    )
