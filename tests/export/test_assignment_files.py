"""Assignment and seed cluster files of stored clusterings: they hold what the tables say and come back the same."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import PATHS, random_tables, small_tables, write_atlas

pytest.importorskip("scipy")

import atlas
from atlas.errors import InputError, StoreError
from atlas.export.assignments import export_assignments
from atlas.export.seed_clusters import ClusterPlan, export_seed_clusters
from atlas.export.seed_json import read_clusters
from atlas.ingest.clusters import read_assignments


def clustered(tables: dict, name: str, paths: dict, shares: dict | None = None) -> dict:
    known = shares or {}
    tables["partitions"] += [
        {"method": name, "parameters": "{}", "seed": 0, "layer": key[0], "neuron": key[1], "cluster_path": path,
         "clustering": name, "flow": known.get(key, (None,))[0], "membership": known.get(key, (None,))[-1]}
        for key, path in sorted(paths.items())
    ]  # fmt: skip
    return tables


def test_the_form_of_the_file(tmp_path: Path) -> None:
    file = write_atlas(tmp_path / "a.duckdb", small_tables())
    with atlas.open(file) as opened:
        assert export_assignments(opened, tmp_path / "out" / "x.json") == len(PATHS)
    found = json.loads((tmp_path / "out" / "x.json").read_text())
    assert found["metadata"] == {
        "model": "toy", "revision": "0123456789abcdef", "num_layers": 3, "neurons_per_layer": 8,
        "clustering": "infomap",
        "method": "infomap", "parameters": {}, "seed": 0, "edges": 9, "quality": 1.5, "quality_measure": "codelength",
    }  # fmt: skip
    assert list(found["assignments"]) == [f"L{layer}/{neuron}" for layer, neuron in sorted(PATHS)]
    assert found["assignments"]["L0/2"] == {"path": "1.2", "top": 1, "sub": 2, "subsub": None, "depth": 2, "flow": 0.1}
    assert found["assignments"]["L2/7"] == {"path": "2", "top": 2, "sub": None, "subsub": None, "depth": 1, "flow": 0.1}
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["x.json"]


@st.composite
def trees(draw: st.DrawFn) -> dict[tuple[int, int], tuple[str, float | None, float | None]]:
    """Neurons in real modules: each module of every level has two or more."""
    keys = draw(st.sets(st.tuples(st.integers(0, 4), st.integers(0, 39)), min_size=2, max_size=40))
    paths = {k: tuple(draw(st.lists(st.integers(1, 3), min_size=1, max_size=4))) for k in sorted(keys)}
    sizes: dict[tuple[int, ...], int] = defaultdict(int)
    for path in paths.values():
        for depth in range(1, len(path) + 1):
            sizes[path[:depth]] += 1
    real = {k: tuple(s for d, s in enumerate(p, 1) if sizes[p[:d]] > 1) for k, p in paths.items()}
    share = st.none() | st.floats(0, 1)
    return {k: (".".join(map(str, p)), draw(share), draw(share)) for k, p in real.items() if p}


@settings(max_examples=25, deadline=None)
@given(trees())
def test_files_come_back_the_same(tmp_path_factory: pytest.TempPathFactory, found: dict) -> None:
    if not found:
        return
    folder = tmp_path_factory.mktemp("r")
    tables = clustered(
        random_tables(3), "drawn", {k: v[0] for k, v in found.items()}, {k: v[1:] for k, v in found.items()}
    )
    with atlas.open(write_atlas(folder / "a.duckdb", tables, layers=5, d_mlp=40)) as opened:
        assert export_assignments(opened, folder / "x.json", clustering="drawn") == len(found)
        done = read_assignments(opened.con, folder / "x.json", layers=5, d_mlp=40)
        rows = opened.con.execute(
            "SELECT layer, neuron, cluster_path, flow, membership FROM temp.assignments"
        ).fetchall()
    assert {(row[0], row[1]): row[2:] for row in rows} == found
    assert done.rejected == {} and done.notes == {}


def test_an_unknown_clustering_or_none_writes_nothing(tmp_path: Path) -> None:
    with atlas.open(write_atlas(tmp_path / "a.duckdb", small_tables())) as opened:
        with pytest.raises(InputError, match=r"no clustering 'leiden' in a\.duckdb; there is infomap"):
            export_assignments(opened, tmp_path / "x.json", clustering="leiden")
        with pytest.raises(InputError, match="no clustering 'leiden'"):
            export_seed_clusters(opened, tmp_path / "seed", plan=ClusterPlan("leiden"))
        with pytest.raises(InputError, match=r"no layer 3 in a\.duckdb; layers are 0\.\.2"):
            export_seed_clusters(opened, tmp_path / "seed", plan=ClusterPlan(layer=3))
    tables = small_tables()
    tables["partitions"] = []
    with atlas.open(write_atlas(tmp_path / "b.duckdb", tables)) as opened, pytest.raises(StoreError, match="is empty"):
        export_assignments(opened, tmp_path / "x.json")
    assert not (tmp_path / "x.json").exists() and not (tmp_path / "seed").exists()


# -- the seed's cluster files -------------------------------------------------------------------------------------


def read_all(folder: Path) -> dict[str, tuple]:
    found = {}
    for path in sorted(folder.iterdir()):
        layer = read_clusters(path)
        found[path.name] = (layer.layer, {c.cluster_path: (c.cluster_id, c.neuron_indices) for c in layer.clusters})
    return found


def test_cluster_files_of_layers_and_prompts(tmp_path: Path) -> None:
    paths = {(0, 0): "2.1", (0, 1): "2.1", (0, 7): "10", (1, 2): "10", (1, 5): "2.1"}
    tables = clustered(small_tables(), "mine", paths)
    for row, prompt in zip(tables["graphs"], ["The dog runs", "the dog runs!", "The dog runs"], strict=True):
        row["prompt"] = prompt
    with atlas.open(write_atlas(tmp_path / "a.duckdb", tables)) as opened:
        report = export_seed_clusters(opened, tmp_path / "seed", plan=ClusterPlan("mine"))
        export_seed_clusters(opened, tmp_path / "one", plan=ClusterPlan("mine", layer=1))
    by_hand = {  # ids: ranks of 2, 2.1, 10; graph 1 (of the first prompt) has L0/N0 and L1/N2, graph 2 L0/N0
        "layer_0_clusters.json": (0, {"2.1": (1, (0, 1)), "10": (2, (7,))}),
        "layer_1_clusters.json": (1, {"2.1": (1, (5,)), "10": (2, (2,))}),
        "the_dog_runs_2_layer_0_clusters.json": (0, {"2.1": (1, (0,))}),
        "the_dog_runs_layer_0_clusters.json": (0, {"2.1": (1, (0,))}),
        "the_dog_runs_layer_1_clusters.json": (1, {"10": (2, (2,))}),
    }
    assert read_all(tmp_path / "seed") == by_hand
    assert [name for name, _ in report.files] == list(by_hand)
    assert read_all(tmp_path / "one") == {
        "layer_1_clusters.json": by_hand["layer_1_clusters.json"],
        "the_dog_runs_clusters.json": by_hand["the_dog_runs_layer_1_clusters.json"],
    }


def test_centroids_are_means_in_few_coordinates(tmp_path: Path) -> None:
    tables = random_tables(4)
    primary = {(r["layer"], r["neuron"]): r["cluster_path"] for r in tables["neurons"] if r["cluster_path"]}
    with atlas.open(write_atlas(tmp_path / "a.duckdb", tables, layers=5, d_mlp=40)) as opened:
        export_seed_clusters(opened, tmp_path / "s", plan=ClusterPlan(profile="activations", prompts=0))
    firing: dict[tuple[int, int], dict] = defaultdict(dict)
    for row in tables["token_stats"]:
        if row["n"] >= 3 and row["sum"]:
            firing[row["layer"], row["neuron"]][row["token_id"], row["polarity"]] = abs(row["sum"] / row["n"])
    keys, columns = sorted(firing), sorted({c for one in firing.values() for c in one})
    dense = np.array([[firing[k].get(c, 0.0) for c in columns] for k in keys])
    dense /= np.linalg.norm(dense, axis=1, keepdims=True)
    centroids = {c.cluster_path: c.centroid for p in (tmp_path / "s").iterdir() for c in read_clusters(p).clusters}
    means = {path: dense[[i for i, k in enumerate(keys) if primary.get(k) == path]].mean(axis=0) for path in centroids}
    assert {len(c) for c in centroids.values()} == {3}
    # The first direction is the leading singular vector, on which no mean profile is longer than it is itself.
    _, _, right = np.linalg.svd(dense, full_matrices=False)
    signed = right[0] * np.sign(right[0].sum())
    for path, centroid in centroids.items():
        assert abs(centroid[0] - means[path] @ signed) < 0.02
        assert math.hypot(*centroid) <= np.linalg.norm(means[path]) + 1e-4


def test_without_profiles_there_are_no_centroids(tmp_path: Path) -> None:
    tables = small_tables()
    tables["edges"], tables["neuron_graphs"] = [], []
    with atlas.open(write_atlas(tmp_path / "a.duckdb", tables)) as opened:
        report = export_seed_clusters(opened, tmp_path / "seed")
    assert all(c.centroid is None for p in (tmp_path / "seed").iterdir() for c in read_clusters(p).clusters)
    assert len(report.notes) == 2 and report.notes[0].startswith("no centroids: no edge has a count")
