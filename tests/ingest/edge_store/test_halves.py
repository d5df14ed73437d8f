"""Halves of graphs: together the whole, apart by graph, the same whatever the files, and never mixed."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from observed import LAYERS, WIDTH, observations, token_observations, write_shards
from test_store import SIZES

import atlas
from atlas.build.edge_store import EdgeOptions, Sizes, add, compact, verify
from atlas.build.halves import make_halves
from atlas.build.projection import project_store
from atlas.errors import InputError
from atlas.ingest.edge_store.facts import content_key, open_store
from atlas.ingest.edge_store.gather import graph_keys, half_of
from atlas.ingest.projection import ProjectOptions

EDGES = "SELECT src, tgt, count, n_graphs, weight_sum, weight_abs_sum, weight_min, weight_max FROM edges ORDER BY 1, 2"


def shards(root: Path, of: int = 2) -> Path:
    return write_shards(root, of, observations(), token_observations())


def edges_of(file: Path) -> dict[tuple[int, int], tuple[float, ...]]:
    with atlas.open(file) as a:
        return {row[:2]: row[2:] for row in a.sql(EDGES)}


def test_the_halves_are_the_whole_by_graph(tmp_path: Path) -> None:
    given = shards(tmp_path / "s")
    halves = make_halves([given], tmp_path / "noise", sizes=SIZES)
    whole = tmp_path / "whole.duckdb"
    add(tmp_path / "st", [given], sizes=SIZES, options=EdgeOptions())
    project_store(tmp_path / "st", whole, how=ProjectOptions(min_count=1))
    first, second, both = edges_of(halves[0].file), edges_of(halves[1].file), edges_of(whole)
    assert set(first) | set(second) == set(both) and set(first) != set(both) != set(second)
    for key, row in both.items():
        parts = [side[key] for side in (first, second) if key in side]
        for place in (0, 1):  # observations and graphs: no graph is in both halves
            assert sum(part[place] for part in parts) == row[place]
        assert sum(part[2] for part in parts) == pytest.approx(row[2], rel=1e-6, abs=1e-6)
        assert min(part[4] for part in parts) == row[4] and max(part[5] for part in parts) == row[5]
    ids = {row["graph_id"] for row in observations()}
    for number, half in enumerate(halves, start=1):
        own = {g for g in ids if half_of(graph_keys("k" * 12, pa.array([g]).to_numpy()))[0] == number}
        with atlas.open(half.file) as a:
            assert {row[0] for row in a.sql("SELECT prompt FROM graphs")} == {f"prompt {g}" for g in own}
            assert a.metadata["edge_half"] == f"{number} of 2"
            assert half.graphs == len(own) and half.edges == len((first, second)[number - 1])
        assert not verify(half.file.with_suffix(".edges"))
    with atlas.open(whole) as a:
        assert "edge_half" not in a.metadata


def test_token_edges_and_nodes_are_halved_too(tmp_path: Path) -> None:
    halves = make_halves([shards(tmp_path / "s")], tmp_path / "noise", sizes=SIZES)
    firsts = {g for g in range(40) if half_of(graph_keys("k" * 12, pa.array([g]).to_numpy()))[0] == 1}
    with atlas.open(halves[0].file) as a:
        found = a.sql("SELECT sum(count)::BIGINT FROM token_edges").fetchall()[0][0]
        assert found == sum(row["graph_id"] in firsts for row in token_observations())
        members = a.sql("SELECT count(DISTINCT graph_id) FROM neuron_graphs").fetchall()[0][0]
        assert members == len(firsts)


def test_the_number_of_shards_and_a_second_run_change_nothing(tmp_path: Path) -> None:
    one = make_halves([shards(tmp_path / "s1", 1)], tmp_path / "n1", sizes=SIZES)
    three = make_halves([shards(tmp_path / "s3", 3)], tmp_path / "n3", sizes=SIZES)
    again = make_halves([tmp_path / "s3"], tmp_path / "n3", sizes=SIZES)
    assert [(h.graphs, h.edges) for h in three] == [(h.graphs, h.edges) for h in again]
    assert [edges_of(h.file) for h in one] == [edges_of(h.file) for h in three]


def test_halves_are_fair() -> None:
    sizes = [(half_of(graph_keys(str(seed), pa.array(range(400)).to_numpy())) == 1).sum() for seed in range(500)]
    assert abs(sum(sizes) / 500 - 200) < 4 * 10 / 500**0.5  # binomial: 200, standard deviation 10
    assert 8.5 < (sum((size - 200) ** 2 for size in sizes) / 500) ** 0.5 < 11.5


def test_a_half_never_mixes_with_another_store(tmp_path: Path) -> None:
    given, other = (
        shards(tmp_path / "s"),
        write_shards(tmp_path / "o", 1, observations(9), token_observations(9), fingerprint="o" * 12),
    )
    half = Sizes(**{**vars(SIZES), "half": 1})
    add(tmp_path / "h1", [given], sizes=half, options=EdgeOptions())
    with pytest.raises(InputError, match=r"--half is 2, the store .* has 1"):
        add(tmp_path / "h1", [other], sizes=Sizes(half=2), options=EdgeOptions())
    add(tmp_path / "full", [other], sizes=SIZES, options=EdgeOptions())
    with pytest.raises(InputError, match=r"--half is 1, the store .* has none"):
        add(tmp_path / "full", [given], sizes=Sizes(half=1), options=EdgeOptions())
    done = add(tmp_path / "full", [tmp_path / "h1"], sizes=Sizes(), options=EdgeOptions())
    assert done.rejected[0][1] == "it is half 1 of its graphs, this store of all its graphs; they do not mix"
    known = open_store(tmp_path / "h1").manifest.observations
    add(tmp_path / "h1", [other], sizes=Sizes(), options=EdgeOptions())  # a store that is a half stays one
    firsts = {g for g in range(40) if half_of(graph_keys("o" * 12, pa.array([g]).to_numpy()))[0] == 1}
    added = open_store(tmp_path / "h1").manifest.observations - known
    assert added == sum(row["graph_id"] in firsts for row in observations(9))


def test_a_store_of_all_graphs_says_nothing_of_halves(tmp_path: Path) -> None:
    add(tmp_path / "st", [shards(tmp_path / "s")], sizes=SIZES, options=EdgeOptions())
    assert "half" not in (tmp_path / "st" / "manifest.json").read_text(encoding="utf-8")
    before = content_key(tmp_path / "st")
    compact(tmp_path / "st", options=EdgeOptions())
    assert content_key(tmp_path / "st") == before


def test_loose_observations_are_halved_and_a_single_graph_is_refused(tmp_path: Path) -> None:
    file, single = tmp_path / "o.parquet", tmp_path / "one.parquet"
    pq.write_table(pa.Table.from_pylist(observations()), file)
    pq.write_table(pa.Table.from_pylist(observations(graphs=1)), single)
    sizes = Sizes("m", LAYERS, WIDTH)
    halves = make_halves([file], tmp_path / "n", sizes=sizes)
    total = sum(sum(row[0] for row in edges_of(half.file).values()) for half in halves)
    assert total == len(observations())
    with pytest.raises(InputError, match="graphs; give more graphs"):
        make_halves([single], tmp_path / "n1", sizes=sizes)


def test_sums_of_other_tools_cannot_be_halved(tmp_path: Path) -> None:
    from atlas.ingest.edge_store.facts import StoreFacts
    from atlas.ingest.edge_store.gather import Gatherer

    facts = StoreFacts("m", LAYERS, WIDTH, "derived", half=2)
    with pytest.raises(InputError, match="cannot be halved; give the graphs"):
        Gatherer(tmp_path, 0, facts, capacity=100).statistics("edge_statistics", pa.table({}))
