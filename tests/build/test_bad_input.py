"""Bad input: one clear line with the next step, exit code 1 or 2, and an existing atlas untouched."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

pytest.importorskip("torch")

from small_build import DEMO, SMALL, write_recipe

from atlas.store.connection import open_writer


@pytest.fixture
def place(small: Path, tmp_path: Path):
    """A folder with a finished atlas; afterwards its bytes must be the same."""
    shutil.copyfile(small, tmp_path / "small.duckdb")
    before = (tmp_path / "small.duckdb").read_bytes()
    yield tmp_path
    assert (tmp_path / "small.duckdb").read_bytes() == before


def broken_model(folder: Path, change) -> Path:
    model = folder / "model"
    shutil.copytree(DEMO / "model", model)
    change(model)
    return model


def edit_config(**values: object):
    def change(model: Path) -> None:
        config = json.loads((model / "config.json").read_text())
        (model / "config.json").write_text(json.dumps({**config, **values}))

    return change


def truncate(model: Path) -> None:
    file = model / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def without_tokenizer(model: Path) -> None:
    for path in model.glob("tokenizer*"):
        path.unlink()


def one_line(done, code: int, *parts: str) -> None:
    assert done.code == code, done
    lines = [line for line in done.err.splitlines() if line.startswith("atlas:")]
    assert len(lines) == 1, done.err
    assert "Traceback" not in done.err
    for part in parts:
        assert part in lines[0], lines[0]


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda m: (m / "model.safetensors").unlink(), ["safetensors"]),
        (truncate, ["model.safetensors"]),
        (without_tokenizer, ["tokenizer"]),
        (lambda m: (m / "config.json").unlink(), ["config.json"]),
        (edit_config(architectures=["MambaForCausalLM"], model_type="mamba"), ["Mamba", "Gemma-2"]),
        (edit_config(num_hidden_layers=9), []),
    ],
    ids=[
        "no weights",
        "truncated weights",
        "no tokenizer",
        "no config",
        "unknown architecture",
        "config of another model",
    ],
)
def test_broken_model_folders(place: Path, run, change, parts) -> None:
    model = broken_model(place, change)
    done = run("build", write_recipe(place, model=model))
    assert done.code in (1, 2)
    one_line(done, done.code, *parts)


def test_model_that_is_not_there(place: Path, run) -> None:
    one_line(run("build", write_recipe(place, model=place / "nowhere")), 2, "nowhere")


@pytest.mark.parametrize(
    ("content", "part"),
    [("[]", "no text"), ('["a story", "cut in the mid', "JSON"), ("{}", "list"), ("[1, 2]", "text")],
)
def test_corpora_that_cannot_be_read(place: Path, run, content: str, part: str) -> None:
    corpus = place / "c.json"
    corpus.write_text(content)
    one_line(run("build", write_recipe(place, corpus=corpus)), 2, part)


def test_corpus_that_is_not_there(place: Path, run) -> None:
    one_line(run("build", write_recipe(place, corpus=place / "none.json")), 2, "none.json", "set corpus in small.toml")


def test_context_longer_than_the_model(place: Path, run) -> None:
    recipe = write_recipe(place, extra=SMALL.replace("context_length = 32", "context_length = 100000"))
    one_line(run("build", recipe), 2, "100000", "use at most")


def test_truncated_shard_is_named(place: Path, small: Path, run) -> None:
    shutil.copytree(small.with_name("small.duckdb.build"), place / "small.duckdb.build")
    damaged = next((place / "small.duckdb.build").glob("activations-*/shard-00001-of-00002/exemplars.parquet"))
    damaged.write_bytes(damaged.read_bytes()[:-50])
    recipe = write_recipe(
        place, extra=SMALL.replace("shards = 2\n[gradients]", "shards = 2\ntokens_kept = 9\n[gradients]")
    )
    one_line(run("build", recipe), 1, "exemplars.parquet is truncated or damaged", "rerun the build")


def test_disk_too_small_is_refused_before_hours_are_spent(place: Path, run, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10, 9, 1_000_000))
    recipe = write_recipe(place, extra=SMALL.replace("documents = 80", "documents = 81"))
    one_line(run("build", recipe), 1, "needs about", "0.00 GB are free", "free space")


def limited(command: list[str], size: int) -> subprocess.CompletedProcess[str]:
    """Run with a limit on file size: the write that crosses it fails as on a full disk."""
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)),
    )


@pytest.mark.parametrize("size", [60_000, 1_500_000], ids=["in a shard", "in the database"])
def test_full_disk(place: Path, run, size: int) -> None:
    recipe = write_recipe(place, extra=SMALL.replace("documents = 80", "documents = 81"))
    done = limited([sys.executable, "-m", "atlas", "build", str(recipe), "--quiet"], size)
    assert done.returncode == 1, done.stderr
    assert "disk full" in done.stderr and "free space" in done.stderr and "Traceback" not in done.stderr
    # and with space again, the same command finishes (into another file, so that the fixture's stays as it was)
    again = run("build", recipe, "--quiet", "-o", place / "other.duckdb")
    assert again.code == 0, again.err


def test_wrong_table_version(place: Path, small: Path, run) -> None:
    newer = place / "newer.duckdb"
    shutil.copyfile(small, newer)
    con = open_writer(newer)
    con.execute("UPDATE metadata SET value = '999' WHERE key = 'schema_version'")
    con.close()
    one_line(run("search", "dog", "--atlas", newer), 1, "schema 999", "upgrade atlas")


def test_wrong_id(small: Path, run) -> None:
    one_line(run("neuron", "L9/N0", "--atlas", small), 2, "layers 0..3", "neurons 0..383")


def test_atlas_that_another_process_writes(place: Path) -> None:
    con = open_writer(place / "small.duckdb")
    done = subprocess.run(
        [sys.executable, "-m", "atlas", "search", "dog", "--atlas", str(place / "small.duckdb")],
        capture_output=True,
        text=True,
    )
    con.close()
    assert done.returncode == 1
    assert "in use by another process" in done.stderr and "Traceback" not in done.stderr
