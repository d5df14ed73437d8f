"""`atlas submit` on a real SLURM: the demo as job arrays, a task killed, resumed; the atlas is that of one process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from one_node import OneNode

pytest.importorskip("torch")

from atlas.build.executor import build
from atlas.build.recipe import read_recipe
from atlas.build.slurm import read_needs, submit_with_submitit
from atlas.store.connection import open_reader
from atlas.store.content import table_hashes

pytestmark = pytest.mark.slurm
ROOT = Path(__file__).parents[2]
SHARDS = 4
OPTIONS = ("--partition", "test", "--time", "10", "--mem", "2G", "--cpus", "1")
TINY = """
[activations]
documents = 40
context_length = 16
fire_quantile = 0.9
calibration_tokens = 512
[gradients]
documents = 0
[relp]
graphs = 0
[edges]
min_count = 1
[cluster]
min_count = 1
"""


def demo_recipe(folder: Path) -> Path:
    """The demo's recipe on a part of its corpus, writing into a folder of the test's own."""
    folder.mkdir()
    text = (ROOT / "data" / "recipes" / "demo.toml").read_text()
    text = text.replace("[activations]", "[activations]\ndocuments = 400").replace("graphs = 400", "graphs = 40")
    text = text.replace('"../demo/', f'"{ROOT}/data/demo/').replace('"../demo.duckdb"', f'"{folder}/demo.duckdb"')
    (folder / "demo.toml").write_text(text)
    return folder / "demo.toml"


def tiny_recipe(folder: Path) -> Path:
    demo = f'model = "{ROOT}/data/demo/model"\ncorpus = "{ROOT}/data/demo/corpus.json"'
    (folder / "tiny.toml").write_text(f'name = "tiny"\n{demo}\natlas = "{folder}/tiny.duckdb"\n{TINY}')
    return folder / "tiny.toml"


def atlas(slurm: OneNode, *words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "atlas", *map(str, words)]
    return subprocess.run(command, env=dict(slurm.environment), cwd=ROOT, capture_output=True, text=True, timeout=120)


def submitted(slurm: OneNode, recipe: Path, *words: object) -> dict[str, dict[str, Any]]:
    """Rows of `atlas submit` by step."""
    done = atlas(slurm, "submit", recipe, *OPTIONS, "--format", "json", *words)
    assert done.returncode == 0, done.stderr
    return {row["step"]: row for row in json.loads(done.stdout)}


def kill_task(command: str, log: Path, seconds: float = 120) -> None:
    """SIGKILL the process with this in its command line while it loads the model: its log says so."""
    end = time.monotonic() + seconds
    while not (log.exists() and "loading" in log.read_text()):
        if time.monotonic() > end:
            raise TimeoutError(f"{log} does not begin to load a model: {log.read_text() if log.exists() else 'no log'}")
        time.sleep(0.02)
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # ended meanwhile
            continue
        if command in words:
            os.kill(int(path.parent.name), signal.SIGKILL)
            return
    raise ProcessLookupError(f"no process with {command!r}; it ended before it could be killed")


def differing_tables(left: Path, right: Path) -> set[str]:
    """Tables whose content hashes differ."""
    found = []
    for path in (left, right):
        con = open_reader(path)
        found.append(table_hashes(con))
        con.close()
    assert found[0].keys() == found[1].keys()
    return {table for table, value in found[0].items() if found[1][table] != value}


def test_a_killed_task_stops_the_merge_and_a_second_submit_measures_it_alone(slurm: OneNode, tmp_path: Path) -> None:
    recipe = demo_recipe(tmp_path / "my atlas")
    finished = recipe.with_suffix(".duckdb")

    first = submitted(slurm, recipe, "--array", SHARDS)
    assert [row["state"] for row in first.values()] == ["submitted"] * 8
    logs = recipe.with_suffix(".duckdb.build") / "slurm"
    killed = f"{first['activations']['job']}_2"
    kill_task(f"measure activations {recipe} --shard 2/{SHARDS}", logs / f"activations-{killed}.log")
    slurm.wait()
    assert slurm.state(killed) == "FAILED"
    assert slurm.state(first["merge"]["job"]) == "CANCELLED"
    assert not finished.exists()

    second = submitted(slurm, recipe)  # without --array: it goes on with the count that was begun
    assert {step: row["tasks"] for step, row in second.items()} == {"activations": "2", "wiring": "0-3", "merge": ""}
    third = submitted(slurm, recipe)
    assert {row["job"] for row in third.values()} <= {row["job"] for row in second.values()}
    assert "submitted" not in {row["state"] for row in third.values()}
    slurm.wait()
    merge_log = logs / f"merge-{second['merge']['job']}.log"
    assert slurm.state(second["merge"]["job"]) == "COMPLETED", merge_log.read_text()

    alone = demo_recipe(tmp_path / "alone")
    build(read_recipe(alone))
    assert not differing_tables(finished, alone.with_suffix(".duckdb"))
    last = atlas(slurm, "submit", recipe, *OPTIONS)
    assert last.returncode == 0 and last.stdout == "" and "up to date" in last.stderr


def test_submitit_sends_what_is_missing_under_names_that_submit_knows(
    slurm: OneNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("submitit")
    from atlas.build.batch_scripts import Resources, read_site

    recipe = tiny_recipe(tmp_path)
    assert atlas(slurm, "measure", "activations", recipe, "--shard", "0/2").returncode == 0
    for name, value in slurm.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(ROOT)
    resources = Resources(partition="test", time="10", memory="2G", cpus=1)
    site = read_site(python=Path(sys.executable))
    handles = submit_with_submitit(read_recipe(recipe), of=2, resources=resources, site=site)
    jobs = {step: [each.job_id for each in of_step] for step, of_step in handles.items()}
    counts = {"activations": 1, "logit_lens": 1, "read_tokens": 1, "weights": 1, "wiring": 2, "merge": 1}
    assert {step: len(ids) for step, ids in jobs.items()} == counts
    again = submitted(slurm, recipe, "--array", 2)
    assert "submitted" not in {row["state"] for row in again.values()}

    slurm.wait(busy=tuple(jobs["activations"]))
    assert slurm.state(jobs["activations"][0]) == "COMPLETED", handles["activations"][0].stderr()
    assert slurm.queue()[jobs["merge"][0]] == "PENDING"
    slurm.run("scancel", *(job for step in jobs.values() for job in step))
    slurm.wait()
    needs, _ = read_needs(read_recipe(recipe), of=None)
    assert {need.step: (need.of, need.done) for need in needs}["activations"] == (2, {0, 1})
