"""Commands on a store that are killed at any instant: the store is right, and the same command goes on."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from observed import LAYERS, WIDTH
from test_store import SIZES, content_of

from atlas.build.edge_store import EdgeOptions, add, compact, status, verify
from atlas.shards import Shard, new_shard
from atlas.tables import SHARDS

GRAPHS, EACH, OF = 700, 400, 7


def large_shards(root: Path) -> Path:
    """280,000 observations in 7 shards."""
    rng = np.random.default_rng(3)
    for index in range(OF):
        graphs = np.arange(index * GRAPHS // OF, (index + 1) * GRAPHS // OF)
        rows = len(graphs) * EACH
        neurons = {f"{end}_{name}": rng.integers(0, top, rows) for end in ("src", "tgt") for name, top in
                   (("layer", LAYERS), ("neuron", WIDTH), ("position", 9))}  # fmt: skip
        columns = {"graph_id": np.repeat(graphs, EACH), **neurons, "weight": rng.normal(size=rows)}
        with new_shard(root, Shard("k" * 12, index, OF)) as draft:
            draft.write("graph_edges", pa.table(columns))
            table = SHARDS["graphs"]
            listed = [{"graph_id": int(g), "edge_method": "relp_direct"} for g in graphs]
            draft.write("graphs", pa.Table.from_pylist(listed, schema=table))
            for empty in ("graph_nodes", "graph_token_edges"):
                draft.write(empty, SHARDS[empty].empty_table())
    return root


def run(*arguments: str, kill_after: float | None = None) -> int:
    process = subprocess.Popen([sys.executable, "-m", "atlas", "edges", *arguments, "-q"], stderr=subprocess.PIPE)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(process.pid, signal.SIGKILL)
    _, said = process.communicate()
    assert process.returncode in (0, -signal.SIGKILL), said.decode()
    return process.returncode


def test_killed_at_any_instant_and_resumed(tmp_path: Path) -> None:
    shards = large_shards(tmp_path / "s")
    whole = tmp_path / "whole"
    started = time.monotonic()
    sizes = ("--model", "small", "--layers", str(LAYERS), "--width", str(WIDTH))
    run("add", str(whole), str(shards), *sizes)
    usual = time.monotonic() - started
    compact(whole, options=EdgeOptions())
    rng, store, killed = random.Random(1), tmp_path / "st", 0
    for _ in range(5):
        killed += run("add", str(store), str(shards), *sizes, kill_after=rng.uniform(0.3, 1.0) * usual) != 0
        if (store / "manifest.json").exists():
            assert status(store)["observations"] in (0, GRAPHS * EACH)
            assert not any("manifest" in fault for fault in verify(store))
    assert killed  # most of them; a run on a warm machine may be over sooner
    run("add", str(store), str(shards), *sizes)
    for _ in range(3):
        run("compact", str(store), kill_after=rng.uniform(0.3, 1.0) * usual)
        assert status(store)["observations"] == GRAPHS * EACH
    run("compact", str(store))
    assert content_of(store) == content_of(whole)
    assert verify(store) == []
    assert status(store)["unfinished"] == []


def test_parts_that_a_kill_after_the_manifest_left_go_with_the_next_compact(tmp_path: Path) -> None:
    shards, store = large_shards(tmp_path / "s"), tmp_path / "st"
    add(store, [shards], sizes=SIZES, options=EdgeOptions())
    before = [path.name for path in (store / "partials").glob("[!.]*")]
    shutil.copytree(store / "partials", tmp_path / "old")
    compact(store, options=EdgeOptions())
    for name in before:  # the manifest is written, then these are removed: killed between the two
        shutil.copytree(tmp_path / "old" / name, store / "partials" / name)
    assert [fault.split()[0] for fault in verify(store)] == before
    compact(store, options=EdgeOptions())
    assert verify(store) == []


def test_pieces_that_were_made_are_not_made_again(tmp_path: Path) -> None:
    shards = large_shards(tmp_path / "s")
    store = tmp_path / "st"
    with pytest.raises(KeyboardInterrupt):
        add(store, [shards], sizes=SIZES, options=EdgeOptions(), progress=Stopping(after=90_000))
    drafts = list((store / "partials").glob(".draft-*"))
    assert len(drafts) == 1
    made = {path: path.stat().st_mtime_ns for path in drafts[0].glob("edges-*")}
    assert 2 <= len(made) < OF
    again = [path.name for path in made]
    add(store, [shards], sizes=SIZES, options=EdgeOptions())
    partial = next((store / "partials").glob("[!.]*"))
    assert [(partial / name).stat().st_mtime_ns for name in again] == list(made.values())
    whole = tmp_path / "whole"
    add(whole, [shards], sizes=SIZES, options=EdgeOptions())
    for path in (store, whole):
        compact(path, options=EdgeOptions())
    assert content_of(store) == content_of(whole)


class Stopping:
    """Progress that is interrupted, as Ctrl-C would, after some observations."""

    def __init__(self, *, after: int) -> None:
        self._left = after

    def task(self, title: str, total: int, unit: str) -> Stopping:
        return self

    def __enter__(self) -> Stopping:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def advance(self, amount: int = 1) -> None:
        self._left -= amount
        if self._left <= 0:
            raise KeyboardInterrupt

    def note(self, text: str) -> None:
        return None
