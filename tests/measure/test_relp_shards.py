"""Graphs in shards: every row of a graph is there, and nothing depends on workers, threads or the split."""

from __future__ import annotations

import random
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import tiny_gpt2, tiny_llama, tokens

from atlas.errors import InputError
from atlas.measure.relp import RelpOptions, attribute, measure
from atlas.models.replacement import Replacement, Trace
from atlas.neuron import NeuronId
from atlas.progress import Quiet
from atlas.shards import MARKER, Shard, read_marker, shard_files
from atlas.tables import SHARDS

OPTIONS = RelpOptions(tau=0.01, max_nodes=40)
PROMPTS = [(100 + i, f"text {i}", tokens(5 + i % 4, seed=i)) for i in range(9)]
MANY = [(i, f"text {i}", tokens(3 + 5 * i % 11, seed=i)) for i in range(70)]  # five blocks of up to 16
TABLES = ("graphs", "graph_nodes", "graph_edges", "graph_token_edges")


def read(root: Path, table: str) -> pa.Table:
    return pa.concat_tables(pq.read_table(path) for path in shard_files(root, table))


def test_rows_are_the_graphs(tmp_path: Path) -> None:
    adapter = tiny_gpt2(torch.float32)
    measure(adapter, PROMPTS, tmp_path, shard=Shard("f"), options=OPTIONS)
    graph = attribute(adapter, PROMPTS[4][2], options=OPTIONS)
    for table in TABLES:
        assert read(tmp_path, table).schema.equals(SHARDS[table])
    row = read(tmp_path, "graphs").to_pylist()[4]
    assert (row["graph_id"], row["document"], row["prompt"]) == (4, 104, "text 4")
    assert (row["n_nodes"], row["n_edges"]) == (len(graph.nodes.layer), len(graph.edges.weight))
    assert (row["edge_method"], row["dtype"], row["tau"], row["metric"]) == (
        "relp_direct", "float32", 0.01, "top_5_logits",
    )  # fmt: skip
    assert row["always_on"] == []
    edges = [r for r in read(tmp_path, "graph_edges").to_pylist() if r["graph_id"] == 4]
    k = 3
    found = edges[k]
    nodes, source, target = graph.nodes, graph.edges.source[k], graph.edges.target[k]
    assert (found["src_layer"], found["src_neuron"], found["src_position"]) == (
        nodes.layer[source], nodes.neuron[source], nodes.position[source],
    )  # fmt: skip
    assert (found["tgt_layer"], found["tgt_neuron"], found["tgt_position"]) == (
        nodes.layer[target], nodes.neuron[target], nodes.position[target],
    )  # fmt: skip
    assert found["weight"] == pytest.approx(graph.edges.weight[k], rel=1e-4)
    token_rows = [r for r in read(tmp_path, "graph_token_edges").to_pylist() if r["graph_id"] == 4]
    ids = PROMPTS[4][2]
    assert all(r["token_id"] == ids[r["token_position"]] for r in token_rows if r["kind"] == "embedding")
    logit = [r for r in token_rows if r["kind"] == "logit"]
    assert {r["token_id"] for r in logit} == set(graph.targets)
    node_rows = [r for r in read(tmp_path, "graph_nodes").to_pylist() if r["graph_id"] == 4]
    assert sum(r["weight"] for r in logit) == pytest.approx(sum(r["direct"] for r in node_rows), rel=1e-5)


def test_workers_and_threads_change_no_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter, before, cores = tiny_llama(torch.float32), torch.get_num_threads(), set()
    original = Replacement.run

    def counted(self: Replacement, ids: list[list[int]]) -> Trace:
        cores.add(torch.get_num_threads())
        return original(self, ids)

    monkeypatch.setattr(Replacement, "run", counted)
    try:
        for name, workers, threads in (("a", 1, 1), ("b", 3, 2)):
            torch.set_num_threads(threads)
            measure(adapter, PROMPTS, tmp_path / name, shard=Shard("f"), options=OPTIONS, workers=workers)
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    left, right = (read_marker(tmp_path / name / Shard("f").name) for name in "ab")
    assert left["sha256"] == right["sha256"]
    assert cores == {1}  # tiny products do not show it, larger ones sum in another order on more cores


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("whole")
    measure(tiny_llama(torch.float32), MANY, root, shard=Shard("f"), options=OPTIONS)
    return root


@settings(max_examples=6, deadline=None)
@given(of=st.integers(2, 9), workers=st.integers(1, 3), order=st.randoms(use_true_random=False))
def test_shards_add_up_to_the_whole(whole: Path, of: int, workers: int, order: random.Random) -> None:
    adapter, indices = tiny_llama(torch.float32), list(range(of))
    order.shuffle(indices)
    with tempfile.TemporaryDirectory() as folder:
        for index in indices:
            measure(adapter, MANY, Path(folder), shard=Shard("f", index, of), options=OPTIONS, workers=workers)
        for table in TABLES:
            assert read(Path(folder), table).equals(read(whole, table))


def test_graph_with_bad_numbers_is_left_out_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter, notes = tiny_llama(torch.float32), []
    adapter.embedding.weight[7] = float("inf")
    prompts = [(i, "t", ids) for i, ids in enumerate(([1, 2, 3], [1, 7, 3], [4, 5, 6]))]
    shown = Quiet()
    monkeypatch.setattr(shown, "note", notes.append)
    measure(adapter, prompts, tmp_path, shard=Shard("f"), options=OPTIONS, progress=shown)
    marker = read_marker(tmp_path / Shard("f").name)
    assert (marker["facts"]["graphs"], marker["facts"]["graphs_rejected"]) == (2, 1)
    assert read(tmp_path, "graphs")["graph_id"].to_pylist() == [0, 2]
    assert len(notes) == 1 and "prompt 1" in notes[0] and "layer 0" in notes[0]


def test_bad_prompt_stops_before_anything_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    original = Replacement.run

    def counted(self: Replacement, ids: list[list[int]]) -> Trace:
        made.append(len(ids))
        return original(self, ids)

    monkeypatch.setattr(Replacement, "run", counted)
    with pytest.raises(InputError, match="empty"):
        measure(tiny_llama(), [*PROMPTS, (0, "", [])], tmp_path, shard=Shard("f"), options=OPTIONS)
    assert not made and not list(tmp_path.glob(f"**/{MARKER}"))


def test_relevance_zero_has_no_share(tmp_path: Path) -> None:
    options = RelpOptions(tau=0.0, max_nodes=None, skip_bos=False)
    adapter = tiny_llama(torch.float32)
    adapter.blocks[1].down.weight[:, 3] = 0
    measure(adapter, PROMPTS[:1], tmp_path, shard=Shard("f"), options=options)
    rows = [r for r in read(tmp_path, "graph_nodes").to_pylist() if (r["layer"], r["neuron"]) == (1, 3)]
    assert rows and all(r["explained"] is None and r["relevance"] == 0 for r in rows)
    assert np.isfinite(read(tmp_path, "graphs")["explained"].to_numpy()).all()


def test_always_on_neurons_are_no_nodes_and_said(tmp_path: Path) -> None:
    adapter = tiny_gpt2(torch.float32)
    before = attribute(adapter, PROMPTS[0][2], options=OPTIONS)
    loud = NeuronId(int(before.nodes.layer[0]), int(before.nodes.neuron[0]))
    options = replace(OPTIONS, always_on=(loud,))
    measure(adapter, PROMPTS[:2], tmp_path, shard=Shard("f"), options=options)
    nodes = read(tmp_path, "graph_nodes").to_pylist()
    assert nodes and not any((r["layer"], r["neuron"]) == (loud.layer, loud.neuron) for r in nodes)
    assert read(tmp_path, "graphs")["always_on"].to_pylist() == [[loud.feature_id(14)]] * 2
    with pytest.raises(InputError, match="L9/N0 of always_on"):
        measure(adapter, PROMPTS, tmp_path, shard=Shard("g"), options=replace(OPTIONS, always_on=(NeuronId(9, 0),)))
