"""An atlas that is there takes other edges: what is made of edges follows, and two may read one store at once."""

from __future__ import annotations

from pathlib import Path

import pytest
from observed import LAYERS, WIDTH, expected, observations, write_shards

import atlas
from atlas.build.edge_store import EdgeOptions, Sizes, add, compact, verify
from atlas.build.projection import project_store
from atlas.errors import StoreError
from atlas.ingest.edge_store.facts import locked
from atlas.ingest.projection import ProjectOptions
from atlas.store.connection import open_writer

SIZES = Sizes("small", LAYERS, WIDTH)


def test_weights_of_modules_are_those_of_the_new_edges(tmp_path: Path) -> None:
    store, path = tmp_path / "st", tmp_path / "a.duckdb"
    add(store, [write_shards(tmp_path / "s", 2, observations(3), [])], sizes=SIZES, options=EdgeOptions())
    project_store(store, path, how=ProjectOptions(1))
    con = open_writer(path)
    con.execute("INSERT INTO partitions (clustering, parameters, layer, neuron, cluster_path) "
                "SELECT 'infomap', '{}', layer, neuron, (neuron % 2 + 1)::VARCHAR FROM neurons")  # fmt: skip
    con.close()
    inside = []
    for least in (1, 12):
        project_store(store, path, how=ProjectOptions(least))
        with atlas.open(path) as a:
            edges = a.sql("SELECT src_neuron, tgt_neuron, mean_abs_weight FROM edges").rows()
            found = a.sql("SELECT internal_weight AS w FROM clusters WHERE cluster_path = '2'").rows()
        exact = sum(e["mean_abs_weight"] for e in edges if e["src_neuron"] % 2 == e["tgt_neuron"] % 2 == 1)
        assert abs(found[0]["w"] - exact) <= 1e-9 * exact
        inside.append(exact)
    assert inside[1] < inside[0]


def test_two_may_project_a_compacted_store_at_once(tmp_path: Path) -> None:
    store = tmp_path / "st"
    add(store, [write_shards(tmp_path / "s", 1, observations(3), [])], sizes=SIZES, options=EdgeOptions())
    compact(store, options=EdgeOptions())
    with locked(store, shared=True):  # what the other one holds
        assert project_store(store, tmp_path / "a.duckdb", how=ProjectOptions(1)).edges > 10


def test_a_store_whose_lock_cannot_be_written_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = tmp_path / "st"
    add(store, [write_shards(tmp_path / "s", 1, observations(3), [])], sizes=SIZES, options=EdgeOptions())
    compact(store, options=EdgeOptions())
    opened = Path.open

    def on_a_read_only_disk(path: Path, mode: str = "r", **how: object) -> object:
        if path.is_relative_to(store) and mode.strip("bt") != "r":
            raise OSError(30, "Read-only file system")
        return opened(path, mode, **how)

    monkeypatch.setattr(Path, "open", on_a_read_only_disk)
    assert verify(store) == []
    assert project_store(store, tmp_path / "a.duckdb", how=ProjectOptions(1)).edges > 10
    with pytest.raises(StoreError, match="Read-only file system"):
        add(store, [tmp_path / "s"], sizes=SIZES, options=EdgeOptions())


def test_a_name_with_a_star_is_one_store(tmp_path: Path) -> None:
    for name, rows in (("s*e", observations(3)), ("store", observations(4)), ("s[1]", observations(5))):
        given = write_shards(tmp_path / f"of {name}", 1, rows, [])
        add(tmp_path / name, [given], sizes=SIZES, options=EdgeOptions())
        found = project_store(tmp_path / name, tmp_path / f"{name}.duckdb", how=ProjectOptions(1, "store"))
        assert found.graphs == 40
    again = project_store(tmp_path / "s*e", tmp_path / "s*e.duckdb", how=ProjectOptions(1, "store"))
    assert (again.edges, again.graphs) == (len(expected(observations(3))), 40)
