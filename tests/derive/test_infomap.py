"""Infomap on planted graphs: real modules only, deterministic, the same by link list as by arrays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import duckdb
import numpy as np
import pytest
from planted_edges import D_MLP, Flows, agreement, part_of, planted, side_of, write_edges

pytest.importorskip("infomap")

from atlas.derive.clustering.graph import EdgeChoice, compact, count_edges, edge_arrays, edge_batches, usual_count
from atlas.derive.clustering.infomap import InfomapOptions, Tree, by_array, by_file, find
from atlas.errors import InputError, StoreError
from atlas.ingest.partitions import Placed
from atlas.store.connection import Limits, open_reader, open_writer


@pytest.fixture(scope="module")
def atlas_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_edges(tmp_path_factory.mktemp("atlas") / "planted.duckdb", planted())


@pytest.fixture
def con(atlas_file: Path, tmp_path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    con = open_reader(atlas_file, limits=Limits("1GiB", 1, tmp_path / "spill"), macros=False)
    yield con
    con.close()


def clustered(path: Path, flows: Flows, **options: object) -> Placed:
    con = open_reader(write_edges(path, flows), macros=False)
    try:
        return find(con, options=InfomapOptions(min_count=1, **options), d_mlp=D_MLP)[1]
    finally:
        con.close()


def module_sizes(found: Placed) -> Counter[str]:
    parts = [path.split(".") for path in found.paths]
    return Counter(".".join(p[:depth]) for p in parts for depth in range(1, len(p) + 1))


def test_both_planted_levels_are_found(con: duckdb.DuckDBPyConnection) -> None:
    run, found = find(con, options=InfomapOptions(), d_mlp=D_MLP)
    ids = found.ids.tolist()
    assert ids == sorted(ids) and len(ids) > 235
    assert agreement(list(found.paths), [part_of(i) for i in ids]) > 0.9
    assert agreement([p.split(".")[0] for p in found.paths], [side_of(i) for i in ids]) > 0.95
    assert found.flow is not None and 0.95 < found.flow.sum() <= 1 + 1e-9  # neurons alone are left out
    assert (run.name, run.edges, run.quality_measure) == ("infomap", len(planted()), "codelength")
    assert run.quality is not None and 0 < run.quality < 8  # bits; log2(240) is 7.9
    assert min(module_sizes(found).values()) > 1


def same(a: Tree, b: Tree) -> bool:
    return a.codelength == b.codelength and all(
        np.array_equal(getattr(a, name), getattr(b, name)) for name in ("ids", "flow", "steps")
    )


@pytest.mark.parametrize("weight", ["mean_abs_weight^2", "mean_abs_weight / 3e11"])
def test_a_link_list_gives_what_arrays_give(con: duckdb.DuckDBPyConnection, weight: str, tmp_path: Path) -> None:
    options = InfomapOptions(weight=weight, seed=7)
    edges = count_edges(con, EdgeChoice(weight, 3))
    first = by_array(con, edges, options=options)
    assert same(first, by_file(con, edges, options=options))
    assert same(first, by_array(con, edges, options=options))
    assert not list((tmp_path / "spill").iterdir())  # the list is gone


def test_edges_come_sorted_whatever_their_order_in_the_table(tmp_path: Path) -> None:
    flows = planted(3)
    path = write_edges(tmp_path / "a.duckdb", flows)
    con = open_writer(path)
    con.execute("CREATE TABLE mixed AS SELECT * EXCLUDE (tgt_layer, tgt_neuron, mean_weight, mean_abs_weight) "
                "FROM edges ORDER BY hash(src, tgt); DELETE FROM edges; "
                "INSERT INTO edges BY NAME SELECT * FROM mixed")  # fmt: skip
    got = [row for batch in edge_batches(con, EdgeChoice()) for row in batch.to_pylist()]
    con.close()
    assert [(row["src"], row["tgt"]) for row in got] == sorted(flows)
    first = flows[got[0]["src"], got[0]["tgt"]]
    assert got[0]["weight"] == pytest.approx((sum(map(abs, first)) / 3) ** 2, rel=1e-6)


def test_a_neuron_that_shares_a_module_with_no_other_is_in_none(tmp_path: Path) -> None:
    # Sources that nothing feeds, each feeding every part alike.
    flows = {pair: [3.0] for pair in planted() if part_of(pair[0]) == part_of(pair[1]) and pair[0] >= D_MLP}
    flows |= {(src, 5 * D_MLP + part): [1.0] for src in range(4) for part in range(12)}
    found = clustered(tmp_path / "a.duckdb", flows)
    assert min(module_sizes(found).values()) > 1
    assert len(found.ids) < len({end for pair in flows for end in pair})


def test_a_network_left_whole_is_one_module(tmp_path: Path) -> None:
    found = clustered(tmp_path / "a.duckdb", {(i, j): [1.0] for i in range(5) for j in range(5) if i != j})
    assert list(found.paths) == ["1"] * 5  # a cycle, all in one layer


def test_cycles_loops_and_edges_inside_a_layer_are_clustered(tmp_path: Path) -> None:
    rings = [(base + i, base + (i + 1) % 6) for base in (0, 10, 20) for i in range(6)]
    flows = {pair: [1.0] for pair in [*rings, (0, 0), (0, 10), (50, 20), (20, 50)]}
    found = clustered(tmp_path / "a.duckdb", flows)
    ring = {i: base for base in (0, 10, 20) for i in range(base, base + 6)}
    kept = [(path, ring[i]) for i, path in zip(found.ids.tolist(), found.paths, strict=True) if i in ring]
    assert len(kept) == 18 and len(set(kept)) == 3


def test_the_weight_and_the_minimum_count_decide(tmp_path: Path) -> None:
    pairs = [(a, b) for a in range(16) for b in range(16) if a != b]
    flows = {(a, b): [1.0] * (6 if a % 2 == b % 2 else 4) for a, b in pairs}
    path = write_edges(tmp_path / "a.duckdb", flows)
    con = open_reader(path, macros=False)

    def modules(**options: object) -> set[frozenset[int]]:
        found = find(con, options=InfomapOptions(**options), d_mlp=D_MLP)[1]
        groups: dict[str, set[int]] = {}
        for i, module in zip(found.ids.tolist(), found.paths, strict=True):
            groups.setdefault(module, set()).add(i)
        return {frozenset(group) for group in groups.values()}

    odd_and_even = {frozenset(range(0, 16, 2)), frozenset(range(1, 16, 2))}
    assert modules() == {frozenset(range(16))}
    assert modules(weight="greatest(count - 4, 0)") == odd_and_even
    assert modules(min_count=5) == odd_and_even
    assert usual_count(con) == 3
    con.close()


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        ("mean_weight", r"negative, not finite or NULL for [\d,]+ of [\d,]+ edges"),
        ("sqrt(-1.0 * count)", "weight"),
        ("count / 0", "NULL for 2 of 2 edges|not finite or NULL for [0-9,]+ of"),
        ("nothing", 'no SQL expression.*"nothing" not found'),
        ("sum(count)", "no SQL expression"),
        ("'much'", "no SQL expression"),
        ("1; DROP TABLE edges", "no SQL expression"),
        ("1) FROM edges; DROP TABLE edges; SELECT (1", "more than one expression"),
        ("", "no SQL expression"),
        ("random()", r"random\(\) gives another value each time"),
        ('1 + "RANDOM" ()', r"random\(\) gives another value each time"),
        ("unnest([1, 2])", r"it makes [\d,]+ rows of [\d,]+ edges"),
        ("0", "is 0 for all"),
    ],
)
def test_a_weight_that_is_none_is_refused(atlas_file: Path, weight: str, message: str) -> None:
    before = atlas_file.read_bytes()
    con = open_writer(atlas_file)  # also where writing is possible
    with pytest.raises((InputError, StoreError), match=message):
        count_edges(con, EdgeChoice(weight, 1))
    assert con.execute("SELECT count(*) FROM edges").fetchall()[0][0] == len(planted())
    con.close()
    assert atlas_file.read_bytes() == before


def test_no_edges_and_none_so_often_are_two_lines(con: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no edge has a count of at least 9.*the largest count is 3"):
        find(con, options=InfomapOptions(min_count=9), d_mlp=D_MLP)
    bare = open_reader(write_edges(tmp_path / "bare.duckdb", {}), macros=False)
    with pytest.raises(StoreError, match="the atlas has no edges"):
        find(bare, options=InfomapOptions(), d_mlp=D_MLP)
    bare.close()


def test_arrays_hold_places_in_the_list_of_ids(con: duckdb.DuckDBPyConnection) -> None:
    read = edge_arrays(con, EdgeChoice("1", 1))
    assert list(zip(read.ids[read.src].tolist(), read.ids[read.tgt].tolist(), strict=True)) == sorted(planted())
    few = compact(np.array([3, 900]), np.array([900, 70]), np.array([1.0, 2.0]))
    assert (few.ids.tolist(), few.src.tolist(), few.tgt.tolist()) == ([3, 70, 900], [0, 2], [2, 1])
