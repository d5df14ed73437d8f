"""Leiden and Louvain on planted graphs, against igraph itself; steps of nested modules -> paths, by hand."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import duckdb
import numpy as np
import pytest
from planted_edges import D_MLP, agreement, part_of, planted, write_edges

igraph = pytest.importorskip("igraph")
pytest.importorskip("leidenalg")

from atlas.derive.clustering import leiden, louvain
from atlas.derive.clustering.graph import compact
from atlas.derive.clustering.hierarchy import nest, number_by_size, place
from atlas.derive.clustering.leiden import LeidenOptions
from atlas.derive.clustering.louvain import LouvainOptions
from atlas.derive.clustering.undirected import igraph_of, modularity, potts, undirected
from atlas.errors import InputError
from atlas.progress import Quiet
from atlas.store.connection import open_reader


@pytest.fixture(scope="module")
def con(tmp_path_factory: pytest.TempPathFactory) -> Iterator[duckdb.DuckDBPyConnection]:
    con = open_reader(write_edges(tmp_path_factory.mktemp("atlas") / "planted.duckdb", planted()), macros=False)
    yield con
    con.close()


class Notes(Quiet):
    """Progress that keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)


def tops(paths: object) -> list[str]:
    return [path.split(".")[0] for path in paths]


def test_leiden_finds_the_parts_and_says_their_modularity(con: duckdb.DuckDBPyConnection) -> None:
    run, found = leiden.find(con, options=LeidenOptions(max_size=30), d_mlp=D_MLP)
    ids = found.ids.tolist()
    assert len(ids) == 240
    assert agreement(list(found.paths), [part_of(i) for i in ids]) > 0.9
    weights = [np.mean(np.abs(flows)) ** 2 for _, flows in sorted(planted().items())]
    graph = igraph.Graph(n=240, edges=sorted(planted()))
    assert run.quality == pytest.approx(graph.modularity([int(top) for top in tops(found.paths)], weights), rel=1e-5)


@pytest.mark.parametrize("objective", ["modularity", "cpm"])
@pytest.mark.parametrize("most", [8, 25, 70])
def test_no_module_at_the_end_of_a_path_is_larger_than_asked(
    con: duckdb.DuckDBPyConnection, objective: str, most: int
) -> None:
    options = LeidenOptions(max_size=most, objective=objective, resolution=1.0 if objective == "modularity" else 0.001)
    run, found = leiden.find(con, options=options, d_mlp=D_MLP)
    above = {path.rsplit(".", depth)[0] for path in found.paths for depth in range(1, path.count(".") + 1)}
    leaves = Counter(path for path in found.paths if path not in above)
    assert run.parameters["modules_left_above_max_size"] == 0 and max(leaves.values()) <= most
    again = leiden.find(con, options=options, d_mlp=D_MLP)[1]
    assert np.array_equal(found.paths, again.paths) and np.array_equal(found.ids, again.ids)


def test_a_module_that_cannot_be_split_is_told(tmp_path: Path) -> None:
    cliques = {(base + a, base + b): [1.0] * 3 for base in (0, 40) for a in range(12) for b in range(12) if a < b}
    con, notes = open_reader(write_edges(tmp_path / "a.duckdb", cliques), macros=False), Notes()
    run, found = leiden.find(con, options=LeidenOptions(max_size=5, weight="1"), d_mlp=D_MLP, progress=notes)
    con.close()
    sizes = Counter(tops(found.paths))
    assert sorted(sizes.values()) == [12, 12]
    left = run.parameters["modules_left_above_max_size"]
    assert left and any("cannot be split (the largest has 12)" in note for note in notes.said)


def test_louvain_is_igraphs_with_its_levels_nested(con: duckdb.DuckDBPyConnection) -> None:
    run, found = louvain.find(con, options=LouvainOptions(seed=5, weight="abs(weight_sum)"), d_mlp=D_MLP)
    pairs = sorted(planted())
    graph = igraph.Graph(n=240, edges=pairs)
    igraph.set_random_number_generator(random.Random(5))
    weights = [float(abs(np.float32(sum(planted()[pair])))) for pair in pairs]
    levels = graph.community_multilevel(weights, return_levels=True)
    igraph.set_random_number_generator(random)
    assert agreement(tops(found.paths), levels[-1].membership) == pytest.approx(1)
    assert run.quality == pytest.approx(graph.modularity(levels[-1].membership, weights))
    finest = [levels[0].membership[i] for i in found.ids]
    assert agreement(list(found.paths), finest) == pytest.approx(1)
    squared = louvain.find(con, options=LouvainOptions(seed=5), d_mlp=D_MLP)[1]
    assert agreement(list(found.paths), list(squared.paths)) < 1  # the weight decides


def test_louvain_leaves_igraphs_generator_as_it_was(con: duckdb.DuckDBPyConnection) -> None:
    drawn = []
    for _ in range(2):
        random.seed(3)
        drawn.append(igraph.Graph.Erdos_Renyi(50, m=100).get_edgelist())
        louvain.find(con, options=LouvainOptions(), d_mlp=D_MLP)
    assert drawn[0] == drawn[1]


def test_both_directions_are_added_up() -> None:
    src, tgt = np.array([5, 5, 7, 9, 9]), np.array([7, 9, 5, 5, 9])
    pairs = undirected(compact(src, tgt, np.array([1.0, 2.0, 4.0, 8.0, 16.0])))
    rows = list(zip(pairs.low.tolist(), pairs.high.tolist(), pairs.weight.tolist(), strict=True))
    assert rows == [(0, 1, 5.0), (0, 2, 10.0), (2, 2, 16.0)]


def test_quality_is_igraphs_and_leidenalgs() -> None:
    import leidenalg

    rng = np.random.default_rng(0)
    keys = np.unique(rng.integers(0, 900, 200))
    pairs = undirected(compact(keys // 30, keys % 30, rng.random(len(keys))))  # cycles and loops among them
    labels, graph = rng.integers(0, 4, pairs.n), igraph_of(pairs)
    for resolution in (1.0, 2.5):
        expected = graph.modularity(labels.tolist(), pairs.weight.tolist(), resolution=resolution)
        assert modularity(pairs, labels, resolution=resolution) == pytest.approx(expected)
    loose = undirected(compact(np.array([0, 1, 2, 4]), np.array([1, 2, 3, 5]), np.arange(1.0, 5)))
    part = leidenalg.CPMVertexPartition(
        igraph_of(loose), [0, 0, 0, 1, 1, 1], weights=loose.weight.tolist(), resolution_parameter=0.3
    )
    assert potts(loose, np.array([0, 0, 0, 1, 1, 1]), resolution=0.3) == pytest.approx(
        part.quality() / 2
    )  # it counts both directions


def test_steps_become_paths_of_modules_of_two_or_more() -> None:
    steps = np.array([[1, 1], [1, 1], [1, 2], [2, 1], [2, 1], [2, 0], [3, 1], [1, 3]], dtype=np.int32)
    found = place(np.array([70, 10, 20, 30, 40, 50, 60, 80]), steps, np.arange(8.0))
    got = dict(zip(found.ids.tolist(), found.paths.tolist(), strict=True))
    assert got == {10: "1.1", 20: "1", 30: "2.1", 40: "2.1", 50: "2", 70: "1.1", 80: "1"}
    assert found.flow is not None and found.flow.tolist() == [1, 2, 3, 4, 5, 0, 7]


def test_levels_nest_and_what_repeats_the_one_above_is_left_out() -> None:
    coarse, fine = np.array([7, 7, 7, 7, 3, 3]), np.array([1, 4, 4, 4, 9, 9])
    assert nest([coarse, fine, np.array([0, 2, 2, 3, 9, 9])]).tolist() == [
        [1, 2, 0], [1, 1, 1], [1, 1, 1], [1, 1, 2], [2, 0, 0], [2, 0, 0],
    ]  # fmt: skip
    assert number_by_size(np.array([5, 2, 2, 8, 8, 0])).tolist() == [3, 1, 1, 2, 2, 4]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"resolution": 0.0}, "resolution"), ({"max_size": 1}, "maximum size"), ({"objective": "best"}, "objective")],
)
def test_options_that_make_no_sense_are_refused(
    con: duckdb.DuckDBPyConnection, options: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        leiden.find(con, options=LeidenOptions(**options), d_mlp=D_MLP)
