"""Which neurons go: against the table of scores, sorted in plain Python."""

from __future__ import annotations

import shutil
from pathlib import Path

import duckdb
import pytest
from synthetic import drawn  # noqa: F401

import atlas
from atlas.errors import InputError, StoreError
from atlas.query.pruning import Ranking
from atlas.query.removal import Wanted, choose

Rows = list[tuple[int, int, float | None]]


def scores(file: Path, column: str) -> Rows:
    with duckdb.connect(str(file), read_only=True) as con:
        return con.execute(f"SELECT layer, neuron, {column} FROM pruning").fetchall()


def removed(file: Path, wanted: Wanted) -> list[list[int]]:
    with atlas.open(file) as a:
        return [one.tolist() for one in choose(a, wanted).removed]


@pytest.mark.parametrize("method", ["fisher", "wifv", "wanda"])
def test_so_many_of_each_layer_by_another_method(drawn: Path, method: str) -> None:  # noqa: F811
    found = removed(drawn, Wanted(per_layer=7, ranking=Ranking(method)))
    for layer, gone in enumerate(found):
        order = sorted((value, neuron) for at, neuron, value in scores(drawn, method) if at == layer)
        assert gone == sorted(neuron for _, neuron in order[:7])


def test_a_share_of_all_layers_together(drawn: Path) -> None:  # noqa: F811
    order = sorted((-value, layer, neuron) for layer, neuron, value in scores(drawn, "pruning_score_global"))
    expected = {(layer, neuron) for _, layer, neuron in order[:40]}  # of 200: scores 1 - i/199, at least 0.8
    found = removed(drawn, Wanted(share=20, ranking=Ranking(scope="global")))
    assert {(layer, neuron) for layer, gone in enumerate(found) for neuron in gone} == expected


def test_the_default_is_what_the_list_of_candidates_has(drawn: Path) -> None:  # noqa: F811
    with atlas.open(drawn) as a:
        listed = {(row["layer_index"], row["neuron_index"]) for row in a.prune(limit=None).rows()}
    found = removed(drawn, Wanted())
    assert {(layer, neuron) for layer, gone in enumerate(found) for neuron in gone} == listed


def test_neurons_without_a_score_go_last_or_not_at_all(drawn: Path, tmp_path: Path) -> None:  # noqa: F811
    file = Path(shutil.copy(drawn, tmp_path / "a.duckdb"))
    with duckdb.connect(str(file)) as con:
        con.execute("UPDATE pruning SET pruning_score = NULL, importance = NULL WHERE neuron < 38")
    assert removed(file, Wanted(per_layer=2)) == [[38, 39]] * 5
    with pytest.raises(InputError, match="layer 0 has 2 of these neurons, 3 of each layer"):
        removed(file, Wanted(per_layer=3))
    named = Wanted(neurons=tuple(f"L{layer}/N{n}" for layer in range(5) for n in (4, 38)), per_layer=1)
    assert removed(file, named) == [[38]] * 5
    with duckdb.connect(str(file)) as con:
        con.execute("DELETE FROM pruning")
    with pytest.raises(StoreError, match="has no pruning scores, so it cannot say which neurons are safest"):
        removed(file, Wanted())
    assert removed(file, Wanted(neurons=("L1/N3",))) == [[], [3], [], [], []]
