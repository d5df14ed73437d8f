"""The graph of a selection, read back by igraph, networkx and our own reader of graph files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from synthetic import random_tables, write_atlas

import atlas
from atlas.errors import InputError
from atlas.export.plain import graph as graph_module
from atlas.export.plain.graph import EdgeCut, selection_graph, write_graph
from atlas.ingest.graph_files.neuronpedia import open_graph
from atlas.ingest.graph_files.source import Report, Units

LAYERS, D_MLP = 5, 40
TABLES = random_tables(4)
Weights = dict[tuple[str, str], float]


@pytest.fixture(scope="module")
def a(tmp_path_factory: pytest.TempPathFactory) -> Iterator[atlas.Atlas]:
    file = write_atlas(tmp_path_factory.mktemp("graph") / "g.duckdb", TABLES, layers=LAYERS, d_mlp=D_MLP)
    with atlas.open(file) as opened:
        yield opened


def among(chosen: set[int], least: float = 0.0, count: int = 1) -> Weights:
    """Edges among packed ids with their mean weight, in plain Python."""
    name = lambda one: f"L{one // D_MLP}/N{one % D_MLP}"  # noqa: E731
    return {
        (name(e["src"]), name(e["tgt"])): e["weight_sum"] / e["count"]
        for e in TABLES["edges"]
        if {e["src"], e["tgt"]} <= chosen and e["weight_abs_sum"] / e["count"] >= least and e["count"] >= count
    }


def members(path: str) -> set[int]:
    return {n["feature_id"] for n in TABLES["neurons"] if f"{n['cluster_path']}.".startswith(f"{path}.")}


def test_a_module_read_by_igraph(a: atlas.Atlas, tmp_path: Path) -> None:
    igraph = pytest.importorskip("igraph")
    chosen, file = members("2"), tmp_path / "m.graphml"
    assert write_graph(selection_graph(a, "cluster:2"), file, "graphml") == file.stat().st_size
    read = igraph.Graph.Read_GraphML(str(file))
    keys = read.vs["key"]
    assert len(keys) == len(chosen) > len({key for pair in among(chosen) for key in pair})  # isolated ones too
    found = {(keys[edge.source], keys[edge.target]): edge["weight"] for edge in read.es}
    assert found == pytest.approx(among(chosen)) and len(found) > 10
    labels = {f"L{n['layer']}/N{n['neuron']}": n["label"] for n in TABLES["neurons"]}
    assert [vertex["label"] or None for vertex in read.vs] == [labels[key] for key in keys]


def test_a_selection_read_by_networkx(a: atlas.Atlas, tmp_path: Path) -> None:
    networkx = pytest.importorskip("networkx")
    chosen = set(range(D_MLP, 3 * D_MLP))
    cut = EdgeCut(min_count=2, min_weight=0.7)
    write_graph(selection_graph(a, ["layer:1", "layer:2"], cut=cut), tmp_path / "s.graphml", "graphml")
    read = networkx.read_graphml(tmp_path / "s.graphml")
    keys = networkx.get_node_attributes(read, "key")
    found = {(keys[s], keys[t]): told["weight"] for s, t, told in read.edges(data=True)}
    truth = among(chosen, 0.7, 2)
    assert read.is_directed() and found == pytest.approx(truth) and 0 < len(truth) < len(among(chosen))


def test_graph_json_comes_back_by_our_reader(a: atlas.Atlas, tmp_path: Path) -> None:
    chosen, file, report = members("2"), tmp_path / "m.json", Report()
    write_graph(selection_graph(a, "cluster:2"), file, "graph-json")
    (batch,) = open_graph(file).read(Units(LAYERS, D_MLP), report)
    found: dict[Any, float] = {
        (f"L{row['src_layer']}/N{row['src_neuron']}", f"L{row['tgt_layer']}/N{row['tgt_neuron']}"): row["weight"]
        for row in batch["graph_edges"].to_pylist()
    }
    assert found == pytest.approx(among(chosen)) and report.nodes["neuron"] == len(chosen)
    assert report.kept == len(found) and not report.skipped


def test_the_weakest_edges_go_first_and_are_counted(a: atlas.Atlas) -> None:
    every = selection_graph(a, "layer:0-4", cut=EdgeCut(limit=None))
    some = selection_graph(a, "layer:0-4", cut=EdgeCut(limit=50))
    assert len(every.links) == 600 and list(some.links) == list(every.links)[:50]
    assert some.facts == {"neurons": 200, "edges": 600, "weaker edges left out": 550}
    assert every.facts == {"neurons": 200, "edges": 600}


def test_graphs_that_are_refused(a: atlas.Atlas, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_module, "MOST_NODES", 100)
    with pytest.raises(InputError, match="200 neurons are too many for a graph in one file"):
        selection_graph(a, "layer:0-4")
    (tmp_path / "x.json").write_text("mine")
    with pytest.raises(InputError, match="exists"):
        write_graph(selection_graph(a, "cluster:1"), tmp_path / "x.json", "graph-json")
    write_graph(selection_graph(a, "cluster:1"), tmp_path / "x.json", "graph-json", force=True)
    assert json.loads((tmp_path / "x.json").read_text())["nodes"]
