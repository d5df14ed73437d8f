"""What atlas label output, input, clusters and score read alike: model, endpoint, prices, layers, parameters."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from synthetic import small_tables, write_atlas

from atlas.cli.main import main

PASSES = ("output", "input", "clusters", "score --method detection")


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY", "ATLAS_LABEL_MODEL"):
        monkeypatch.delenv(name, raising=False)
    return write_atlas(tmp_path / "a.duckdb", small_tables())


def run(capsys: pytest.CaptureFixture[str], command: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        main(["label", *shlex.split(command)])
    out = capsys.readouterr()
    return int(end.value.code or 0), out.out, out.err


def test_a_dry_run_counts_and_prices(capsys: pytest.CaptureFixture[str], file: Path, tmp_path: Path) -> None:
    code, out, _ = run(capsys, f"output {file} --model m --dry-run -q --layers 0:1 --format json")
    whole = json.loads(out)
    assert code == 0 and whole["chosen"] == 16
    (tmp_path / "p.toml").write_text("[m]\nin = 10\nout = 0\n")
    code, out, _ = run(
        capsys, f"output {file} --model m --dry-run -q --layers 0:1 --format json --prices {tmp_path}/p.toml"
    )
    assert json.loads(out)["usd"] == pytest.approx(whole["tokens_in"] * 10 / 1e6) != 0
    code, out, _ = run(capsys, f"score {file} --model m --dry-run -q --method detection --price-in 1 --price-out 1")
    assert code == 0 and out.startswith("detection: ")


@pytest.mark.parametrize("which", PASSES)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--model m", "no endpoint: give --base-url and --api-key"),
        ("--dry-run", "no model is named; give --model or set ATLAS_LABEL_MODEL"),
        ("--model m --dry-run --parameter top_p", "expected NAME=JSON, for example top_p=0.9"),
        ("--model m --dry-run --parameter model=1", "--parameter model cannot be given"),
        ("--model m --dry-run --max-usd 1", "--max-usd needs prices"),
        ("--model m --dry-run --price-in 1", "--price-in and --price-out belong together"),
        ("--model m --dry-run --price-in 1 --price-out 1 --prices p.toml", "prices are given twice"),
    ],
)
def test_what_cannot_be_asked_is_one_line(
    capsys: pytest.CaptureFixture[str], file: Path, which: str, options: str, message: str
) -> None:
    code, out, err = run(capsys, f"{which} {file} {options} -q")
    assert (code, out) == (2, "") and message in err and len(err.splitlines()) == 1


@pytest.mark.parametrize("which", PASSES)
def test_layers_or_levels_backwards(capsys: pytest.CaptureFixture[str], file: Path, which: str) -> None:
    name = "levels" if which == "clusters" else "layers"
    code, _, err = run(capsys, f"{which} {file} --model m --dry-run -q --{name} 2:1")
    assert code == 2 and "cannot read layers from '2:1'" in err
