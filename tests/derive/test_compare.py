"""Two clusterings compared: brute force over pairs and over every possible overlap as the oracle."""

from __future__ import annotations

import json
import math
import random
import re
from collections import Counter, defaultdict
from itertools import combinations, permutations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import random_tables, small_tables, write_atlas

pytest.importorskip("scipy")

import atlas
from atlas.derive.clustering.compare import CompareOptions, compare, compare_all, read_partition
from atlas.errors import InputError, StoreError
from atlas.query.agreement import agreement, expected_information

sizes = st.lists(st.integers(1, 9), min_size=1, max_size=7)


def brute_expectation(rows: list[int], columns: list[int]) -> float:
    """The hypergeometric sum over every pair of modules and every overlap, with exact binomials."""
    total, found = sum(rows), 0.0
    for a in rows:
        for b in columns:
            for n in range(max(1, a + b - total), min(a, b) + 1):
                chance = math.comb(b, n) * math.comb(total - b, a - n) / math.comb(total, a)
                found += n / total * math.log2(total * n / (a * b)) * chance
    return found


def information(a: list[int], b: list[int]) -> float:
    both, one, two = Counter(zip(a, b, strict=True)), Counter(a), Counter(b)
    return sum(n / len(a) * math.log2(len(a) * n / (one[i] * two[j])) for (i, j), n in both.items())


def codes(labels: list[int]) -> tuple[np.ndarray, np.ndarray]:
    return np.arange(len(labels)) * 3, np.array(labels)


@settings(deadline=None)
@given(sizes, st.randoms())
def test_expected_information_is_the_whole_sum(rows: list[int], dice: random.Random) -> None:
    labels = [i for i, n in enumerate(rows) for _ in range(n)]
    columns = list(Counter(dice.choices(range(4), k=len(labels))).values())
    assert expected_information(np.array(rows), np.array(columns)) == pytest.approx(
        brute_expectation(rows, columns), abs=1e-12
    )


def test_expected_information_of_large_modules_leaves_nothing_out() -> None:
    rows, columns = [900, 60, 40, 1, 1], [500, 300, 100, 100, 2]
    found = expected_information(np.array(rows), np.array(columns))
    assert found == pytest.approx(brute_expectation(rows, columns), rel=1e-9)


def test_expected_information_is_the_mean_over_all_permutations() -> None:
    a, b = [0, 0, 0, 1, 1, 2], [0, 0, 1, 1, 1, 1]
    drawn = [information(a, list(order)) for order in permutations(b)]
    assert expected_information(np.array([3, 2, 1]), np.array([2, 4])) == pytest.approx(sum(drawn) / len(drawn))


def test_blocks_of_terms_do_not_change_the_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, columns = np.arange(1, 40), np.full(39, 20)
    whole = expected_information(rows, columns)
    monkeypatch.setattr("atlas.query.agreement._AT_ONCE", 100)
    assert expected_information(rows, columns) == pytest.approx(whole, rel=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=25))
def test_agreement_by_brute_force(labels: list[tuple[int, int]]) -> None:
    a, b = [list(one) for one in zip(*labels, strict=True)]
    found = agreement(codes(a), codes(b))
    shared, h_a, h_b = information(a, b), information(a, a), information(b, b)
    assert found.mutual_information == pytest.approx(shared, abs=1e-12)
    assert found.variation_of_information == pytest.approx(h_a + h_b - 2 * shared, abs=1e-9)
    by_chance, mean = brute_expectation(list(Counter(a).values()), list(Counter(b).values())), (h_a + h_b) / 2
    if mean - by_chance > 1e-9:
        assert found.adjusted_mutual_information == pytest.approx((shared - by_chance) / (mean - by_chance), abs=1e-9)
        assert found.normalized_mutual_information == pytest.approx(shared / mean, abs=1e-9)
    pairs = [(a[i] == a[j], b[i] == b[j]) for i, j in combinations(range(len(a)), 2)]
    either = sum(x or y for x, y in pairs)
    assert found.co_member_jaccard == pytest.approx(sum(x and y for x, y in pairs) / either if either else 1.0)
    for one, other, value in ((a, b, found.best_match_of_a), (b, a, found.best_match_of_b)):
        sets = [{i for i, x in enumerate(other) if x == m} for m in set(other)]
        own = [{i for i, x in enumerate(one) if x == m} for m in one]
        best = [max(len(s & t) / len(s | t) for t in sets) for s in own]
        assert value == pytest.approx(sum(best) / len(best))


@settings(deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=20), st.permutations(range(6)))
def test_equal_clusterings_under_other_numbers(labels: list[int], names: list[int]) -> None:
    found = agreement(codes(labels), codes([names[label] for label in labels]))
    assert found.adjusted_mutual_information == pytest.approx(1)
    assert found.variation_of_information == pytest.approx(0, abs=1e-9)
    assert found.co_member_jaccard == found.best_match_of_a == found.best_match_of_b == 1


def test_one_module_says_nothing_of_others() -> None:
    found = agreement(codes([0, 0, 0, 0]), codes([0, 0, 1, 1]))
    assert (found.adjusted_mutual_information, found.mutual_information) == (0, 0)
    assert found.variation_of_information == 1


def test_only_neurons_of_both_count() -> None:
    found = agreement(
        (np.array([1, 2, 3, 9]), np.array([0, 0, 1, 1])), (np.array([0, 1, 2, 3]), np.array([5, 2, 2, 0]))
    )
    assert (found.neurons_in_both, found.only_in_a, found.only_in_b) == (3, 1, 1)
    assert found.adjusted_mutual_information == pytest.approx(1)
    empty = agreement(codes([0, 0]), (np.array([1, 2]), np.array([0, 0])))
    assert empty.neurons_in_both == 0 and empty.adjusted_mutual_information is None


# -- of an atlas --------------------------------------------------------------------------------------------------


def with_partition(tables: dict, name: str, paths: dict[tuple[int, int], str]) -> dict:
    row = {"method": name, "parameters": "{}", "seed": 0, "flow": None, "clustering": name, "membership": None}
    tables["partitions"] += [
        {**row, "layer": layer, "neuron": neuron, "cluster_path": path}
        for (layer, neuron), path in sorted(paths.items())
    ]
    return tables


def by_labels(tables: dict) -> dict[tuple[int, int], str]:
    """Modules of the first word of the label: labels alike by construction."""
    words = {(r["layer"], r["neuron"]): r["label"].split()[0] for r in tables["neurons"] if r["label"]}
    return {key: f"1.{sorted(set(words.values())).index(word) + 1}" for key, word in words.items()}


@pytest.fixture(scope="module")
def tables() -> dict:
    drawn = random_tables(5)
    return with_partition(drawn, "words", by_labels(drawn))


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory, tables: dict):
    file = write_atlas(tmp_path_factory.mktemp("c") / "c.duckdb", tables, layers=5, d_mlp=40)
    with atlas.open(file) as opened:
        yield opened


def likeness_by_hand(tables: dict, modules: dict[tuple[int, int], str]) -> tuple[float, int, int]:
    words = {
        (r["layer"], r["neuron"]): set(re.findall(r"\w+", r["label"].lower())) for r in tables["neurons"] if r["label"]
    }
    seen = Counter(word for one in words.values() for word in one)
    weights = {key: {w: math.log(len(words) / seen[w]) for w in one} for key, one in words.items()}

    def cosine(x: dict[str, float], y: dict[str, float]) -> float:
        dot = sum(x[w] * y[w] for w in x.keys() & y.keys())
        return dot / math.sqrt(sum(v * v for v in x.values()) * sum(v * v for v in y.values()))

    members = defaultdict(list)
    for key, path in modules.items():
        if key in weights:
            members[path].append(weights[key])
    real = [group for group in members.values() if len(group) > 1]
    means = [sum(cosine(x, y) for x, y in combinations(g, 2)) / math.comb(len(g), 2) for g in real]
    total = sum(map(len, real))
    return sum(len(g) * m for g, m in zip(real, means, strict=True)) / total, total, len(real)


def test_likeness_of_labels_by_hand_and_its_null(opened, tables: dict) -> None:
    primary = {(r["layer"], r["neuron"]): r["cluster_path"] for r in tables["neurons"] if r["cluster_path"]}
    found = compare(opened, "infomap", "words")
    for side, modules in ((found.a, primary), (found.b, by_labels(tables))):
        wanted, neurons, count = likeness_by_hand(tables, modules)
        assert side.coherence is not None and side.coherence.likeness == pytest.approx(wanted)
        assert (side.coherence.neurons, side.coherence.modules) == (neurons, count)
    assert found.a.coherence is not None and abs(found.a.coherence.z or 9) < 4  # drawn without regard to labels
    assert found.b.coherence is not None and (found.b.coherence.z or 0) > 10


def test_the_null_keeps_layers(tmp_path: Path) -> None:
    # Labels differ by layer only, and so do modules: no more alike than their layers make them.
    tables = random_tables(2)
    for row in tables["neurons"]:
        row["label"] = ["dog cat", "verb noun", "code digit"][row["layer"] % 3] + (" odd" if row["neuron"] % 2 else "")
    paths = {(r["layer"], r["neuron"]): f"{r['layer'] + 1}" for r in tables["neurons"]}
    with atlas.open(
        write_atlas(tmp_path / "l.duckdb", with_partition(tables, "layers", paths), layers=5, d_mlp=40)
    ) as a:
        found = compare(a, "layers", "infomap").a.coherence
    assert found is not None and found.likeness == pytest.approx(found.null_mean) and found.z is None
    assert found.reason is not None and "every permutation gives the same" in found.reason


def test_sizes_and_levels(opened, tables: dict) -> None:
    found = compare(opened, "primary", "words", options=CompareOptions(level=1, draws=0))
    tops = Counter(r["cluster_path"].split(".")[0] for r in tables["neurons"] if r["cluster_path"])
    side, ordered = found.a, sorted(tops.values())
    assert (side.name, side.modules, side.neurons) == ("infomap", len(tops), sum(ordered))
    assert side.outside == 200 - sum(ordered) and side.largest_share == max(ordered) / sum(ordered)
    assert (side.sizes["min"], side.sizes["max"]) == (ordered[0], ordered[-1])
    assert side.sizes["50%"] == ordered[math.ceil(len(ordered) / 2) - 1]
    assert side.coherence is None and found.b.modules == 1


def test_a_file_stands_for_a_clustering(opened, tables: dict, tmp_path: Path) -> None:
    members = {
        f"L{r['layer']}/N{r['neuron']}": {"path": r["cluster_path"]} for r in tables["neurons"] if r["cluster_path"]
    }
    file = tmp_path / "same.json"
    file.write_text(json.dumps({"assignments": members}))
    found = compare(opened, "infomap", str(file))
    assert found.agreement.adjusted_mutual_information == pytest.approx(1) and found.agreement.only_in_a == 0
    assert found.a.coherence == found.b.coherence
    assert read_partition(opened, str(file)).ids.tolist() == read_partition(opened, "infomap").ids.tolist()


def test_every_pair_and_plain_values(opened) -> None:
    found = compare_all(opened)
    assert [(one.a.name, one.b.name) for one in found] == [("infomap", "words")]
    assert found == compare_all(opened)  # seeded
    back = json.loads(json.dumps(found[0].to_dict(), allow_nan=False))
    assert set(back) == {"a", "b", "agreement", "level"} and back["a"]["coherence"]["draws"] == 20


def test_an_atlas_without_labels_has_a_reason(tmp_path: Path) -> None:
    tables = small_tables()
    for row in tables["neurons"]:
        row["label"] = None
    paths = {(0, 0): "1", (0, 1): "1", (1, 1): "2", (1, 2): "2"}
    with atlas.open(write_atlas(tmp_path / "n.duckdb", with_partition(tables, "other", paths))) as a:
        found = compare(a, "infomap", "other").b.coherence
    assert found is not None and (found.likeness, found.reason) == (None, "the atlas has no labels")


def test_what_cannot_be_compared_is_one_line(opened, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no clustering 'leiden' in c\.duckdb; there are infomap, words"):
        compare(opened, "infomap", "leiden")
    (tmp_path / "cut.json").write_text('{"assignments": {"L0/1": {"path": "1"}, "L0/2": {"pa')
    with pytest.raises(InputError, match=r"cut\.json is no assignment file"):
        compare(opened, "infomap", str(tmp_path / "cut.json"))
    (tmp_path / "far.json").write_text(json.dumps({"assignments": {"L70/1": "1", "L71/1": "1"}}))
    with pytest.raises(InputError, match="2 out of the model's range"):
        compare(opened, "infomap", str(tmp_path / "far.json"))
    for wrong in ({"level": 0}, {"draws": 1}, {"draws": -1}, {"seed": -1}):
        with pytest.raises(InputError, match=r"is (0|1|-1);"):
            compare(opened, "infomap", "words", options=CompareOptions(**wrong))


def test_clusterings_without_a_common_neuron_and_a_lonely_one(tmp_path: Path) -> None:
    tables = with_partition(small_tables(), "apart", {(0, 5): "1", (0, 6): "1"})
    with atlas.open(write_atlas(tmp_path / "a.duckdb", tables)) as a:
        with pytest.raises(InputError, match="infomap and apart place no neuron in common"):
            compare(a, "infomap", "apart")
        assert compare_all(a)[0].agreement.neurons_in_both == 0
    with (
        atlas.open(write_atlas(tmp_path / "b.duckdb", small_tables())) as a,
        pytest.raises(StoreError, match=r"1 clustering to compare \(infomap\)"),
    ):
        compare_all(a)
