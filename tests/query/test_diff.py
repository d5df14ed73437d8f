"""Diffs of two atlases against plain Python and scipy, hand-made halves, and draws whose truth is known."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from synthetic import Row, Tables, drawn, edge_sums, random_tables, small, small_tables, write_atlas  # noqa: F401

import atlas
from atlas import InputError
from atlas.errors import StoreError
from atlas.query import noise as levels
from atlas.query.agreement import agreement_of_overlaps
from atlas.query.compare import DiffOptions
from atlas.query.edge_changes import take_survey
from atlas.query.pair import Pair, cut_ranges

GRAPHS = 40


def tables_of(flows: dict[tuple[int, int], list[float]], *, d_mlp: int = 40, graphs: int = GRAPHS) -> Tables:
    """Edges alone, with a graph for every observation of an edge."""
    tables: Tables = {
        "edges": [
            {"src": s, "tgt": t, "src_layer": s // d_mlp, "src_neuron": s % d_mlp, **edge_sums(f), "n_graphs": len(f)}
            for (s, t), f in sorted(flows.items())
        ],
        "graphs": [{"graph_id": g, "edge_method": "relp_direct"} for g in range(graphs)],
        "neurons": [
            {"layer": i // d_mlp, "neuron": i % d_mlp, "feature_id": i, "unit_type": "mlp_neuron"}
            for i in range(5 * d_mlp)
        ],
    }  # fmt: skip
    return tables


def written(path: Path, tables: Tables, **facts: object) -> Path:
    return write_atlas(path, tables, layers=5, d_mlp=40, **facts)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[atlas.Atlas, atlas.Atlas]:
    """Two drawn atlases that share many edges, 2 of 3 with other weights; cuts 1 and 3."""
    folder, dice = tmp_path_factory.mktemp("two"), random.Random(5)
    first = {
        (dice.randrange(100), dice.randrange(100, 200)): [dice.gauss(0, 1) for _ in range(dice.randint(1, 9))]
        for _ in range(900)
    }
    second = {}
    for key in [key for key in first if dice.random() < 0.8]:
        mean = dice.choice((0.5, 0.5, 20.0))
        again = [dice.gauss(mean, 2) for _ in range(dice.randint(3, 9))]
        second[key] = list(first[key]) if dice.random() < 0.3 else again
    second |= {(dice.randrange(100), dice.randrange(100, 200)): [dice.gauss(0, 1)] * 4 for _ in range(99)}
    files = [
        written(folder / "a.duckdb", tables_of(first), min_edge_count=1),
        written(folder / "b.duckdb", tables_of(second, graphs=30), min_edge_count=3, model="tuned", revision="other"),
    ]
    return atlas.open(files[0]), atlas.open(files[1])


def edges_of(one: atlas.Atlas) -> dict[tuple[int, int], Row]:
    return {(r["src"], r["tgt"]): r for r in one.sql("FROM edges").rows()}


def spread(row: Row) -> float:
    """The sum of squared deviations as the header of diff_edges states it."""
    square = row["weight_sq_sum"]
    return max(square - row["weight_sum"] ** 2 / row["count"], square / 2**22)


def test_every_edge_against_scipy_and_plain_python(two: tuple[atlas.Atlas, atlas.Atlas]) -> None:
    rows = two[0].diff(two[1], what="edges", everything=True, limit=None).rows()
    a, b = map(edges_of, two)
    found = {(r["src"], r["tgt"]): r for r in rows}
    assert set(found) == set(a) | set(b) and len(rows) == len(found)
    kinds = Counter(r["change"] for r in rows)
    assert min(kinds[k] for k in ("gained", "lost", "flipped", "changed", "same")) > 20
    for key, row in found.items():
        x, y = a.get(key), b.get(key)
        if not (x and y):
            assert row["change"] == ("lost" if x else "gained")
            assert (row["z"], row["no_z"], row["below_cut"]) == (None, "in one only", x is not None)
            continue
        means = x["weight_sum"] / x["count"], y["weight_sum"] / y["count"]
        assert row["delta"] == pytest.approx(means[1] - means[0], abs=1e-12)
        assert (row["change"] == "flipped") == (means[0] * means[1] < 0)
        na, nb = x["count"], y["count"]
        if na > 1 and nb > 1:
            deviations = math.sqrt(spread(x) / (na - 1)), math.sqrt(spread(y) / (nb - 1))
            want = stats.ttest_ind_from_stats(means[1], deviations[1], nb, means[0], deviations[0], na, equal_var=False)
        elif na > 1 or nb > 1:  # a side of one observation takes the other's variance
            other, n = (x, na) if na > 1 else (y, nb)
            error = math.sqrt(spread(other) / (n - 1) * (1 + 1 / n))
            z = (means[1] - means[0]) / error
            assert (row["z"], row["df"]) == (pytest.approx(z, rel=1e-9), n - 1)
            continue
        else:
            assert (row["z"], row["no_z"]) == (None, "one observation on each side")
            continue
        assert row["z"] == pytest.approx(want.statistic, rel=1e-9, abs=1e-12)
        assert row["score"] == pytest.approx(
            math.copysign(stats.norm.isf(want.pvalue / 2), row["z"]), abs=0.5, rel=0.15
        )


def test_rates_against_fishers_exact_test(two: tuple[atlas.Atlas, atlas.Atlas]) -> None:
    rows = two[0].diff(two[1], what="edges", everything=True, limit=None).rows()
    checked = 0
    for row in rows:
        x, y = row["graphs_a"], row["graphs_b"]
        x = 0 if x is None else x  # the cut of a is 1: it has none
        y = min(2, x * 30 / 40) if y is None else y  # that of b is 3: it may have up to 2
        mean, total = (x + y) * 30 / 70, x + y
        var = total * 30 / 70 * 40 / 70 * (70 - total) / 69
        want = math.copysign(max(abs(y - mean) - 0.5, 0) / math.sqrt(var), y - mean)
        assert row["rate_z"] == pytest.approx(want, abs=1e-9)
        if y == int(y):
            side = "less" if want > 0 else "greater"
            exact = stats.fisher_exact([[x, 40 - x], [y, 30 - y]], alternative=side).pvalue
            assert abs(y - mean) < 0.5 or stats.norm.sf(abs(want)) == pytest.approx(exact, abs=0.02)
            checked += 1
    assert checked > 300


def test_wallace_is_near_student_and_never_bolder() -> None:
    for df, p in itertools.product((1, 2, 3, 5, 10, 100), (0.2, 0.05, 0.01, 1e-4, 1e-8)):
        t = stats.t.isf(p / 2, df)
        z = math.sqrt(df * math.log(1 + t**2 / df)) * (8 * df + 1) / (8 * df + 3)
        exact = stats.norm.isf(p / 2)
        assert z < exact * 1.02 + 0.01
        if df > 1:
            assert z > exact * 0.92


def test_q_is_benjamini_hochberg_over_all_edges(two: tuple[atlas.Atlas, atlas.Atlas]) -> None:
    rows = [r for r in two[0].diff(two[1], what="edges", everything=True, limit=None).rows() if r["score"] is not None]
    p = np.array([2 * stats.norm.sf(math.floor(abs(r["score"]) * 50) / 50) for r in rows])
    want = stats.false_discovery_control(p)
    assert [r["q"] for r in rows] == pytest.approx(list(want), rel=1e-9)
    beyond = [r["beyond"] for r in rows]
    floor = rows[0]["floor"]
    assert beyond == [abs(r["score"]) >= floor for r in rows] and 0 < sum(beyond) < len(rows)
    assert floor >= 2.57 and max(q for q, yes in zip(want, beyond, strict=True) if yes) <= 0.05
    default = two[0].diff(two[1], what="edges", limit=None)
    assert [(r["src"], r["tgt"]) for r in default.rows()] == [
        (r["src"], r["tgt"]) for r, yes in zip(rows, beyond, strict=True) if yes
    ]
    assert two[0].diff(two[1], what="edges", limit=3).total == sum(beyond)


# -- noise -------------------------------------------------------------------------------------------------------
def draw(
    dice: random.Random, keys: list[tuple[int, int]], *, graphs: int, shift: set[Any]
) -> dict[Any, list[list[float]]]:
    """Observations of every graph: dependent inside a graph (one level for its 1 to 3 positions), so noise is large."""
    found: dict[Any, list[list[float]]] = {}
    for key in keys:
        rate, mean, size = (hash(key) % 7 + 2) / 10, (hash(key) % 11 - 5) / 5, 0.5 + hash(key) % 3
        base = mean + (6 * size if key in shift else 0)
        found[key] = []
        for _ in range(graphs):
            level = dice.gauss(base, size)
            times = dice.randint(1, 3) if dice.random() < rate else 0
            found[key].append([level + dice.gauss(0, 0.1 * size) for _ in range(times)])
    return found


def seen(drawn_graphs: dict[Any, list[list[float]]], part: slice) -> Tables:
    """The edges of some of the graphs."""
    flows = {key: [f for graph in found[part] for f in graph] for key, found in drawn_graphs.items()}
    with_graphs = {key: sum(map(bool, found[part])) for key, found in drawn_graphs.items()}
    size = len(range(*part.indices(len(next(iter(drawn_graphs.values()))))))
    tables = tables_of({key: f for key, f in flows.items() if f}, graphs=size)
    for row in tables["edges"]:
        row["n_graphs"] = with_graphs[row["src"], row["tgt"]]
    return tables


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Path], set[tuple[int, int]]]:
    """a and b are of one distribution but for 40 planted edges; h1 and h2 are halves of a's graphs."""
    folder, dice = tmp_path_factory.mktemp("sampled"), random.Random(7)
    keys = list({(dice.randrange(100), dice.randrange(100, 200)) for _ in range(8000)})
    planted = set(dice.sample(keys, 40))
    a, b = draw(dice, keys, graphs=60, shift=set()), draw(dice, keys, graphs=60, shift=planted)
    parts = {"a": (a, slice(None)), "b": (b, slice(None)), "h1": (a, slice(0, 30)), "h2": (a, slice(30, 60))}
    halves = {"h1": "1 of 2", "h2": "2 of 2"}
    files = {
        name: written(folder / f"{name}.duckdb", seen(*given), edge_half=halves.get(name, ""), min_edge_count=1)
        for name, given in parts.items()
    }
    return files, planted


def test_halves_keep_false_positives_at_the_nominal_share(sampled: Any) -> None:
    files, planted = sampled
    with atlas.open(files["a"]) as a:
        rows = a.diff(files["b"], what="edges", noise=(files["h1"], files["h2"]), everything=True, limit=None).rows()
        alone = a.diff(files["b"], what="edges", everything=True, limit=None).rows()
    beyond = {(r["src"], r["tgt"]) for r in rows if r["beyond"]}
    equal = [r for r in rows if (r["src"], r["tgt"]) not in planted]
    nominal = 0.01 * len(equal)
    false = len(beyond - planted)
    assert false <= nominal + 4 * math.sqrt(2 * nominal)  # both the floor and the count are of samples
    assert len(beyond & planted) >= 36
    # observations of one graph agree, so the normal quantile at the same nominal share is beaten far more often
    assert sum(abs(r["score"]) >= 2.576 for r in equal if r["score"] is not None) > 2 * nominal
    assert {r["floor"] for r in alone} == {alone[0]["floor"]}


def test_floors_are_quantiles_of_the_halves(sampled: Any) -> None:
    files, _ = sampled
    with atlas.open(files["a"]) as a, atlas.open(files["h1"]) as h1:
        rows = a.diff(files["b"], what="edges", noise=(files["h1"], files["h2"]), everything=True, limit=None).rows()
        noise = h1.diff(files["h2"], what="edges", everything=True, limit=None).rows()
    by_stratum = defaultdict(list)
    for row in noise:
        if row["change"] in ("changed", "flipped", "same") and row["score"] is not None:
            by_stratum[int(math.log2(min(row["count_a"], row["count_b"])))].append(abs(row["score"]))
    checked = 0
    for row in rows:
        scores = by_stratum[int(math.log2(min(row["count_a"] or 1, row["count_b"] or 1)))]
        if row["change"] in ("changed", "flipped") and len(scores) >= 200:
            assert sum(s >= row["floor"] for s in scores) <= 0.01 * len(scores)
            assert sum(s >= row["floor"] - 0.021 for s in scores) > 0.01 * len(scores)
            assert row["beyond"] == (abs(row["score"]) >= row["floor"])
            checked += 1
    assert checked > 1000


def test_floors_of_deltas_are_scaled_by_the_root_of_one_half() -> None:
    dice = np.random.default_rng(3)
    n, edges = 400, 20_000
    halves = dice.normal(0, 1 / math.sqrt(n / 2), edges) - dice.normal(0, 1 / math.sqrt(n / 2), edges)
    whole = dice.normal(0, 1 / math.sqrt(n), edges) - dice.normal(0, 1 / math.sqrt(n), edges)
    noise = levels.Levels()
    places = np.floor((np.log2(abs(halves)) - levels.LEAST_DELTA) * levels.DELTA_STEPS).astype(int)
    noise.add(("delta", 7, place, count) for place, count in Counter(places.tolist()).items())
    change = levels.change_of((n, n), (n / 2, n / 2))
    assert change.scale == pytest.approx(math.sqrt(0.5)) and change.strata == 1
    floor = levels.floors_of_halves(noise, 0.99, change).delta[8]
    share = (abs(whole) >= floor).mean()
    assert 0.005 < share < 0.0125  # 1 %; the floor is rounded up by at most 4.4 %, which is 0.25 % of the edges


def test_edges_of_one_observation_are_judged_by_their_delta(tmp_path: Path) -> None:
    dice = random.Random(2)
    keys = [(s, t) for s in range(40) for t in range(100, 200, 2)]

    def once(**other: float) -> Tables:
        return tables_of({key: [dice.gauss(0, 1)] for key in keys} | {(0, 100): [other.get("planted", 0.0)]})

    a, b = written(tmp_path / "a.duckdb", once(), min_edge_count=1), written(tmp_path / "b.duckdb", once(planted=30.0))
    halves = tuple(
        written(tmp_path / f"h{i}.duckdb", once() | {"graphs": once()["graphs"][:20]}, edge_half=f"{i} of 2")
        for i in (1, 2)
    )
    with atlas.open(a) as one:
        rows = one.diff(b, what="edges", noise=halves, limit=None).rows()  # type: ignore[arg-type]
        assert (rows[0]["src"], rows[0]["tgt"], rows[0]["z"]) == (0, 100, None)
        assert all(abs(r["delta"]) >= r["delta_floor"] > 0 for r in rows)
        without = one.diff(b, what="edges")
        assert not without.rows() and any("not judged without halves" in w for w in without.warnings)


def test_strata_with_few_edges_take_in_their_neighbours() -> None:
    counts = np.zeros((levels.STRATA, 10), np.int64)
    counts[3, 1], counts[5, 2], counts[6, 3] = 100, 5, 100
    assert levels.window(counts, 5, 50)[[1, 2, 3]].tolist() == [0, 5, 100]
    assert levels.window(counts, 3, 50)[[1, 2, 3]].tolist() == [100, 0, 0]
    assert levels.window(counts, 30, 10_000).sum() == 205


def test_a_survey_does_not_depend_on_ranges_or_threads(two: tuple[atlas.Atlas, atlas.Atlas], monkeypatch: Any) -> None:
    whole = take_survey(Pair(*two))
    monkeypatch.setattr("atlas.query.pair.RANGE_EDGES", 1)
    pair = Pair(*two)
    assert len(pair.edge_ranges) > 1
    parts = take_survey(pair)
    assert parts.kinds == whole.kinds and parts.correlation == whole.correlation
    assert all((parts.levels.scores[t] == whole.levels.scores[t]).all() for t in levels.TESTS)
    a, b = map(edges_of, two)
    both = [(a[k]["mean_weight"], b[k]["mean_weight"]) for k in a.keys() & b.keys()]
    assert whole.correlation == pytest.approx(stats.pearsonr(*zip(*both, strict=True)).statistic, abs=1e-6)


def test_ranges_hold_all_layers_once() -> None:
    assert cut_ranges({}, 5) == []
    assert cut_ranges({0: 2, 1: 3, 2: 1, 7: 9}, 5) == [(0, 1), (2, 2), (7, 7)]


# -- labels, modules, tokens -----------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> tuple[atlas.Atlas, atlas.Atlas]:
    folder = tmp_path_factory.mktemp("others")
    files = [write_atlas(folder / f"{s}.duckdb", random_tables(s), layers=5, d_mlp=40) for s in (1, 2)]
    return atlas.open(files[0]), atlas.open(files[1])


def test_labels_against_plain_python(others: tuple[atlas.Atlas, atlas.Atlas]) -> None:
    found = others[0].diff(others[1], what="labels", limit=None).rows()
    a, b = ({(r["layer"], r["neuron"]): r["label"] for r in random_tables(s)["neurons"]} for s in (1, 2))
    want = []
    for key in a:
        if a[key] != b[key]:
            x, y = (set((one or "").lower().split()) for one in (a[key], b[key]))
            change = "gained" if a[key] is None else "lost" if b[key] is None else "changed"
            want.append((len(x & y) / len(x | y), *key, change, a[key], b[key]))
    order = ("similarity", "layer", "neuron", "change", "label_a", "label_b")
    assert [tuple(r[c] for c in order) for r in found] == sorted(want, key=lambda r: r[:3])
    facts = others[0].diff(others[1], what="labels").facts
    assert facts["changed"] == sum(w[3] == "changed" for w in want)


@pytest.mark.parametrize("level", [1, None])
def test_modules_against_plain_python(others: tuple[atlas.Atlas, atlas.Atlas], level: int | None) -> None:
    members: list[dict[str, set[int]]] = []
    for seed in (1, 2):
        own = defaultdict(set)
        for r in random_tables(seed)["neurons"]:
            if r["cluster_path"]:
                own[".".join(r["cluster_path"].split(".")[:level])].add(r["feature_id"])
        members.append(own)
    a, b = members
    best = {p: min(b, key=lambda q: (-len(a[p] & b[q]) / len(a[p] | b[q]), q)) for p in a}
    answer = others[0].diff(others[1], what="clusters", limit=None, options=DiffOptions(level=level))
    rows = answer.rows()
    found = {r["module_a"]: r for r in rows if r["change"] != "new"}
    assert {p: r["module_b"] for p, r in found.items()} == best
    for p, r in found.items():
        shared = a[p] & b[best[p]]
        assert (r["shared"], r["moved"]) == (len(shared), len(a[p]) - len(shared))
        assert r["jaccard"] == pytest.approx(len(shared) / len(a[p] | b[best[p]]))
    assert {r["module_b"] for r in rows if r["change"] == "new"} == set(b) - set(best.values())
    assert answer.facts["moved neurons"] == sum(len(a[p] - b[best[p]]) for p in a)
    both = set().union(*a.values()) & set().union(*b.values())
    assert answer.facts["neurons in modules of both"] == len(both)
    assert abs(answer.facts["AMI"]) < 0.1  # drawn apart


def test_agreement_of_renamed_modules_is_whole() -> None:
    first, second = np.array([0, 1, 2]), np.array([1, 0, 2])
    found = agreement_of_overlaps(first, second, np.array([3, 2, 1]))
    assert (found.adjusted_mutual_information, found.variation_of_information) == (pytest.approx(1), pytest.approx(0))


def test_tokens_against_plain_python(others: tuple[atlas.Atlas, atlas.Atlas]) -> None:
    sides = []
    for seed in (1, 2):
        own: dict[Any, dict[Any, int]] = defaultdict(dict)
        for r in random_tables(seed)["token_stats"]:
            own[r["layer"], r["neuron"]][r["polarity"], r["token_id"]] = r["n"]
        sides.append(own)
    rows = others[0].diff(others[1], what="tokens", everything=True, limit=None).rows()
    assert {(r["layer"], r["neuron"]) for r in rows} == set(sides[0]) | set(sides[1])
    assert [(r["cosine"], r["layer"], r["neuron"]) for r in rows] == sorted(
        (r["cosine"], r["layer"], r["neuron"]) for r in rows
    )
    for r in rows:
        x, y = (side[r["layer"], r["neuron"]] for side in sides)
        dot = sum(n * y[t] for t, n in x.items() if t in y)
        norms = math.sqrt(sum(n * n for n in x.values()) * sum(n * n for n in y.values()))
        assert r["cosine"] == pytest.approx(dot / norms) and r["jaccard"] == len(x.keys() & y.keys()) / len(x | y)
        new = sorted(y.keys() - x.keys(), key=lambda t: (-y[t], t[1], -t[0]))[:5]
        assert (r["gained"] or []) == [f" w{token}" for _, token in new]


# -- the whole, and what is refused ------------------------------------------------------------------------------------
def test_a_file_is_identical_to_itself(small: Path) -> None:  # noqa: F811
    with atlas.open(small) as a:
        answer = a.diff(small)
        assert [w for w in answer.warnings if w.startswith("identical")] == [
            "identical: small.duckdb and small.duckdb are one file",
            "identical: all 9 edges have the same statistics",
        ]
        facts = answer.facts
        assert (facts["edges: same"], facts["edges: gained"], facts["clusters: AMI"]) == (9, 0, 1.0)
        assert (facts["tokens: median cosine"], facts["labels: changed"]) == (pytest.approx(1.0), 0)
        for what in ("edges", "labels", "clusters", "tokens"):
            assert not a.diff(small, what=what).rows()  # type: ignore[arg-type]


def test_the_summary_counts_what_the_rows_are(two: tuple[atlas.Atlas, atlas.Atlas]) -> None:
    answer = two[0].diff(two[1])
    rows = two[0].diff(two[1], what="edges", everything=True, limit=None).rows()
    for change, count in Counter(r["change"] for r in rows).items():
        assert answer.facts[f"edges: {change}"] == count
    assert answer.facts["edges: lost beyond noise"] == sum(r["beyond"] and r["change"] == "lost" for r in rows)
    assert answer.facts["edges: gained or lost by the cut"] == sum(r["below_cut"] for r in rows)
    said = " | ".join(answer.warnings)
    assert "two models are compared" in said and "labels are not compared: a.duckdb and b.duckdb have none" in said


def test_what_cannot_be_compared_is_one_line(two: Any, sampled: Any, small: Path, tmp_path: Path) -> None:  # noqa: F811
    a, (files, _) = two[0], sampled
    with pytest.raises(InputError, match=r"a.duckdb has 5 layers of 40 neurons, small.duckdb 3 of 8"):
        a.diff(small)
    with pytest.raises(InputError, match="cannot compare 'weights'; use summary, edges"):
        a.diff(two[1], what="weights")
    for what in ("labels", "clusters", "tokens"):
        with pytest.raises(InputError, match=f"a.duckdb and b.duckdb have no {what}"):
            a.diff(two[1], what=what)
    bare = written(tmp_path / "bare.duckdb", {})
    with pytest.raises(InputError, match=r"bare.duckdb has no edges"):
        a.diff(bare, what="edges")
    other = written(tmp_path / "other.duckdb", tables_of({(0, 50): [1.0]}), edge_method="relp_total")
    with pytest.raises(InputError, match=r"relp_direct edges, other.duckdb relp_total: different methods"):
        a.diff(other, what="edges")
    with pytest.raises(InputError, match="no atlas at"):
        a.diff(tmp_path / "none.duckdb")
    h1, h2 = files["h1"], files["h2"]
    for quantile in (0.2, 1.0):
        with pytest.raises(InputError, match="quantile of the noise"):
            a.diff(two[1], what="edges", options=DiffOptions(quantile=quantile))
    with pytest.raises(InputError, match="noise is of edges, not of tokens"):
        a.diff(two[1], what="tokens", noise=(h1, h2))
    with pytest.raises(InputError, match="given as both halves"):
        a.diff(two[1], what="edges", noise=(h1, h1))
    one = tables_of({(0, 50): [1.0]})
    stranger = [written(tmp_path / f"s{i}.duckdb", one, revision="strange", edge_half=f"{i} of 2") for i in (1, 2)]
    with pytest.raises(InputError, match="its noise is not theirs"):
        a.diff(two[1], what="edges", noise=(stranger[0], stranger[1]))
    with pytest.raises(InputError, match="both half 1 of 2"):
        a.diff(two[1], what="edges", noise=(h1, stranger[0]))
    with pytest.raises(InputError, match="give halves of its graphs"):
        a.diff(two[1], what="edges", noise=(other, h2))


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    flows = {(0, 40): [1.0, 2.0], (0, 41): [1.0, 3.0]}
    good = atlas.open(written(tmp_path / "good.duckdb", tables_of(flows)))
    bad = atlas.open(written(tmp_path / "bad.duckdb", tables_of(flows | {(0, 41): [math.nan, 1.0]})))
    for pair in ((good, bad), (bad, good)):
        with pytest.raises(StoreError, match=r"bad.duckdb has edges whose weights are not numbers"):
            pair[0].diff(pair[1], what="edges")


def test_notes_on_rates_only_where_edges_are_in_one(tmp_path: Path) -> None:
    flows = {(0, 40): [1.0, 2.0], (0, 41): [1.0, 3.0]}
    files = [
        atlas.open(written(tmp_path / f"{i}.duckdb", tables_of(one, graphs=0)))
        for i, one in enumerate((flows, {(0, 40): [1.5, 2.0], (0, 41): [1.0, 4.0]}, {(0, 40): [1.0, 2.0]}))
    ]
    both, one = (files[0].diff(other, what="edges").warnings for other in files[1:])
    assert not any("gained" in note for note in both)
    assert any("gained and lost edges are not judged" in note for note in one)


def test_a_file_that_lacks_a_table_is_one_line(two: Any, tmp_path: Path) -> None:
    import shutil

    import duckdb

    broken = tmp_path / "broken.duckdb"
    shutil.copyfile(two[1].path, broken)
    con = duckdb.connect(str(broken))
    con.execute("DROP TABLE token_stats")
    con.close()
    with pytest.raises(StoreError, match="token_stats"):
        two[0].diff(broken, what="tokens")


def test_other_vocabularies_are_refused_for_tokens(others: Any, tmp_path: Path) -> None:
    tables = random_tables(2)
    tables["vocab"][3]["token"] = "else"
    other = write_atlas(tmp_path / "v.duckdb", tables, layers=5, d_mlp=40)
    with pytest.raises(InputError, match=r"token 3 is ' w3' in 1.duckdb, 'else' in v.duckdb"):
        others[0].diff(other, what="tokens")


def test_small_tables_are_compared_too(small: Path, tmp_path: Path) -> None:  # noqa: F811
    tables = small_tables()
    tables["edges"] = [row for row in tables["edges"] if row["src"] != 12]
    other = write_atlas(tmp_path / "less.duckdb", tables)
    with atlas.open(small) as a:
        rows = a.diff(other, what="edges", everything=True).rows()
    assert Counter(r["change"] for r in rows) == {"same": 8, "lost": 1}
