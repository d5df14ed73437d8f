"""Shards made by several processes: any count merges, nothing half made is read, and what is wrong is said."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import pytest

pytest.importorskip("torch")

from small_build import DEMO, SMALL, write_recipe

from atlas.build.executor import BuildOptions, build
from atlas.build.measurement import Place, measure, status
from atlas.build.recipe import read_recipe
from atlas.shards import MARKER
from atlas.store.connection import open_reader
from atlas.store.content import content_hash

# one block of 256 documents: activations of any count add the same single sum, so contents are equal to the bit
COUNTS = {"activations": 3, "gradients": 2, "logit_lens": 2, "read_tokens": 3, "weights": 3, "relp": 5, "wiring": 4}


def hash_of(atlas: Path) -> str:
    con = open_reader(atlas)
    try:
        return content_hash(con)
    finally:
        con.close()


def atlas_words(*words: object) -> list[str]:
    return [sys.executable, "-m", "atlas", *map(str, words)]


def measured_folder(folder: Path, recipe: Path) -> Path:
    """Every step in its own count, the shards of a step in any order."""
    draw, what = random.Random(4), read_recipe(recipe)
    for step, of in COUNTS.items():
        for index in draw.sample(range(of), of):
            measure(what, step, (index, of), place=Place(folder, workers=draw.randint(1, 3)))
    return folder


@pytest.fixture(scope="session")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of the small recipe, outside its build folder; tests copy what they change."""
    folder = tmp_path_factory.mktemp("shards")
    return measured_folder(folder / "shards", write_recipe(folder))


@pytest.fixture
def copy(measured: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(measured, tmp_path / "shards"))


def step_folder(root: Path, step: str) -> Path:
    (found,) = root.glob(f"{step}-*")
    return found


def test_any_counts_merge_and_a_begun_set_is_completed(copy: Path, small: Path, tmp_path: Path, run) -> None:
    relp = step_folder(copy, "relp")
    kept = {relp / "shard-00001-of-00005", relp / "shard-00004-of-00005"}
    for path in set(relp.iterdir()) - kept:
        shutil.rmtree(path)
    stamps = {path: path.stat().st_mtime_ns for path in copy.rglob("shard-*")}
    done = run("build", write_recipe(tmp_path), "--shards", copy)
    assert done.code == 0, done.err
    assert "relp: completing the 5 shards that were begun (the recipe asks for 2)" in done.err
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    made = set(copy.rglob("shard-*-of-*")) - set(stamps)
    assert {path.name for path in made} == {f"shard-0000{i}-of-00005" for i in (0, 2, 3)}
    assert hash_of(tmp_path / "small.duckdb") == hash_of(small)
    assert not list((tmp_path / "small.duckdb.build").glob("relp-*"))


def test_the_recipes_count_is_no_parameter(copy: Path, small: Path, tmp_path: Path) -> None:
    recipe = read_recipe(write_recipe(tmp_path, extra=SMALL.replace("shards = 2", "shards = 3")))
    report = build(recipe, options=BuildOptions(shards=copy))
    assert [step for step in report.steps_run if not step.startswith("table:")] == []
    assert report.content_hash == hash_of(small)


def test_rerun_of_a_shard_does_nothing(copy: Path, tmp_path: Path, run) -> None:
    recipe = write_recipe(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*")}
    again = run("measure", "relp", recipe, "--shard", "3/5", "--out", copy)
    assert (again.code, again.out) == (0, "") and "shard 3/5 of relp is complete already; nothing to do" in again.err
    other = run("measure", "relp", recipe, "--shard", "0/8", "--out", copy)
    assert other.code == 0 and "relp is complete already, as 5 shards; nothing to do" in other.err
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*")} == before


@pytest.mark.parametrize("shard", ["3/2", "2/2", "x/y", "-1/2", "1", "0/0", "1/2/3", "0/100000"])
def test_bad_shard_numbers(tmp_path: Path, run, shard: str) -> None:
    done = run("measure", "relp", write_recipe(tmp_path), f"--shard={shard}")
    assert done.code == 2
    assert done.err == (
        f"atlas: --shard is '{shard}', expected I/N with 0 <= I < N < 100000; for example 0/1 or 3/16\n"
    )


def test_what_a_step_reads_must_be_complete(copy: Path, tmp_path: Path, run) -> None:
    shutil.rmtree(step_folder(copy, "activations") / "shard-00001-of-00003")
    shutil.rmtree(step_folder(copy, "wiring"))
    done = run("measure", "wiring", write_recipe(tmp_path), "--out", copy)
    assert done.code == 1
    assert "wiring reads the activations, of which 2 of 3 shards are in" in done.err
    assert '"atlas measure activations small.toml --shard I/3"' in done.err


def test_a_step_that_the_recipe_does_not_ask_for(tmp_path: Path, run) -> None:
    recipe = write_recipe(tmp_path, extra=SMALL.replace("graphs = 6", "graphs = 0"))
    done = run("measure", "relp", recipe)
    assert done.code == 2 and "small.toml asks for no attribution graphs; set its section [relp]" in done.err


def test_the_model_facts_are_one_shard(tmp_path: Path, run) -> None:
    done = run("measure", "model", write_recipe(tmp_path), "--shard", "1/3")
    assert done.code == 2 and "the model facts are one shard" in done.err


@pytest.mark.parametrize("command", ["build", "measure"])
def test_shards_of_another_recipe_are_refused(copy: Path, tmp_path: Path, run, command: str) -> None:
    other = write_recipe(tmp_path, extra=SMALL.replace("tokens = 12", "tokens = 11"))
    found = step_folder(copy, "relp").name.rpartition("-")[2]
    words = ("build", other, "--shards", copy) if command == "build" else ("measure", "relp", other, "--out", copy)
    done = run(*words)
    assert done.code == 2
    assert f"{copy} holds relp shards with fingerprint {found}, this recipe's is " in done.err
    assert "another model, corpus or parameters; give the recipe they were measured with" in done.err
    assert [line for line in done.err.splitlines() if line.startswith("atlas:")] == done.err.splitlines()[-1:]
    assert not (tmp_path / "small.duckdb").exists()
    assert len(list(copy.glob("relp-*"))) == 1


def test_a_shard_of_another_measurement_under_this_name(copy: Path, tmp_path: Path, run) -> None:
    marker = step_folder(copy, "relp") / "shard-00002-of-00005" / MARKER
    facts = json.loads(marker.read_text())
    marker.write_text(json.dumps({**facts, "fingerprint": "feedface0000" + "0" * 20}))
    expected = f"has fingerprint feedface0000, expected is {facts['fingerprint'][:12]}"
    recipe = write_recipe(tmp_path)
    for words in (
        ("build", recipe, "--shards", copy),
        ("measure", "relp", recipe, "--shard", "1/5", "--out", copy),
        ("measure", "status", copy),
    ):
        done = run(*words)
        assert done.code == 1 and expected in done.err and "delete it and measure again" in done.err


def test_a_killed_worker(tmp_path: Path, small: Path, run) -> None:
    """Stopped in the middle it is running; killed, it leaves nothing that a merge reads and its shard is missing."""
    recipe = write_recipe(tmp_path)
    shards = tmp_path / "small.duckdb.build"
    with subprocess.Popen(atlas_words("measure", "relp", recipe, "--shard", "0/2", "--quiet")) as worker:
        try:
            while not list(shards.glob("relp-*/.shard-00000-of-00002.*.tmp")):
                assert worker.poll() is None
                time.sleep(0.002)
            os.kill(worker.pid, signal.SIGSTOP)
            assert "complete already" not in run("measure", "relp", recipe, "--shard", "1/2").err
            (row,) = [row for row in status(recipe)[1] if row.step == "relp"]
            assert (row.shards.running, row.shards.done, row.shards.missing) == ((0,), (1,), ())
        finally:
            worker.kill()
    (row,) = [row for row in status(recipe)[1] if row.step == "relp"]
    assert (row.shards.running, row.shards.done, row.shards.missing) == ((), (1,), (0,))
    stamp = (step_folder(shards, "relp") / "shard-00001-of-00002" / MARKER).stat().st_mtime_ns
    assert run("build", recipe).code == 0
    assert (step_folder(shards, "relp") / "shard-00001-of-00002" / MARKER).stat().st_mtime_ns == stamp
    names = sorted(path.name for path in step_folder(shards, "relp").iterdir())
    assert names == ["shard-00000-of-00002", "shard-00001-of-00002"]
    assert hash_of(tmp_path / "small.duckdb") == hash_of(small)


def test_workers_that_start_together(tmp_path: Path) -> None:
    """Both make the model facts and the same shard."""
    recipe = write_recipe(tmp_path)
    words = [atlas_words("measure", "logit-lens", recipe, "--shard", f"{i}/2", "-q") for i in (1, 1)]
    started = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for command in words]
    assert [(worker.communicate()[1], worker.returncode)[1] for worker in started] == [0, 0]
    folder, rows = status(recipe)
    found = {row.step: row.shards for row in rows}
    assert found["model"].complete and (found["logit_lens"].done, found["logit_lens"].missing) == ((1,), (0,))
    left = [path.name for path in folder.rglob("*") if path.name.startswith(".")]
    assert left == []


def limited(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def test_full_disk(tmp_path: Path, run) -> None:
    recipe = write_recipe(tmp_path)
    done = subprocess.run(
        atlas_words("measure", "activations", recipe, "--shard", "0/1", "-q"),
        capture_output=True, text=True, preexec_fn=lambda: limited(60_000),
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("atlas: disk full while writing ") and done.stderr.count("\n") == 1
    assert done.stderr.endswith("free space and run it again\n")
    folder = step_folder(tmp_path / "small.duckdb.build", "activations")
    assert [path.name for path in folder.iterdir()] == ["shard-00000-of-00001.failed.json"]
    shown = run("measure", "status", recipe)
    assert shown.code == 1 and "activations 0/1 failed: " in shown.err
    assert run("measure", "activations", recipe).code == 0
    assert [path.name for path in folder.iterdir()] == ["shard-00000-of-00001"]


def test_disk_too_small_for_a_shard(tmp_path: Path, run, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10, 9, 1_000_000))
    done = run("measure", "activations", write_recipe(tmp_path), "--shard", "0/2")
    assert done.code == 1
    assert (
        "this shard needs about 0.02 GB under" in done.err and "0.00 GB are free; free space or give --out" in done.err
    )


def test_status(copy: Path, tmp_path: Path, run) -> None:
    recipe = write_recipe(tmp_path)
    whole = run("measure", "status", recipe, "--out", copy, "--format", "json")
    facts = json.loads(whole.out)
    assert (whole.code, facts["folder"]) == (0, str(copy))
    assert {row["step"]: row["of"] for row in facts["steps"]} == {"model": 1, **COUNTS}
    assert {row["step"]: row["done"] for row in facts["steps"]}["weights"] == [0, 1, 2]
    assert run("measure", "status", copy, "--format", "json").out == whole.out
    activations = next(row for row in facts["steps"] if row["step"] == "activations")
    assert activations["tokens"] > activations["rows"] / 1000 > 0
    shutil.rmtree(step_folder(copy, "weights") / "shard-00000-of-00003")
    shutil.rmtree(step_folder(copy, "weights") / "shard-00001-of-00003")
    table = run("measure", "status", copy)
    assert table.code == 1
    (line,) = [line.split() for line in table.out.splitlines() if line.startswith("weights")]
    assert line[2:5] == ["3", "2", "0-1"]


def test_status_of_nothing(tmp_path: Path, run) -> None:
    nothing = run("measure", "status", write_recipe(tmp_path), "--format", "json")
    rows = json.loads(nothing.out)["steps"]
    assert nothing.code == 1 and [row["done"] for row in rows] == [[]] * 8
    assert {row["step"]: row["missing"] for row in rows}["activations"] == [0, 1]
    (tmp_path / "empty").mkdir()
    empty = run("measure", "status", tmp_path / "empty")
    assert empty.code == 2 and "no measured shards under" in empty.err
    assert DEMO.is_dir() and not (tmp_path / "small.duckdb.build").exists()
