"""Strongest paths against all simple paths, listed in plain Python."""

import math
import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from synthetic import edge_sums, random_tables, small, small_tables, write_atlas  # noqa: F401

import atlas
from atlas import InputError

LAYERS, D_MLP = 6, 6
Flows = dict[tuple[int, int], list[float]]


def make(
    path: Path, flows: Flows, *, layers: int = LAYERS, d_mlp: int = D_MLP, tokens: Any = (), **facts: str
) -> atlas.Atlas:
    tables = random_tables(0, layers=3, d_mlp=20)
    tables = {name: [] for name in tables} | {"neurons": []}
    tables["edges"] = [
        {"src": s, "tgt": t, "src_layer": s // d_mlp, "src_neuron": s % d_mlp, **edge_sums(flows[s, t])}
        for s, t in sorted(flows)
    ]
    tables["neurons"] = [
        {"layer": i // d_mlp, "neuron": i % d_mlp, "feature_id": i, "unit_type": "mlp_neuron", "label": f"n{i}"}
        for i in range(layers * d_mlp)
    ]
    tables["token_edges"] = list(tokens)
    file = write_atlas(path, {k: v for k, v in tables.items() if v}, layers=layers, d_mlp=d_mlp, **facts)
    return atlas.open(file)


def brute(flows: Flows, sources: list[int], targets: list[int], hops: int, min_count: int = 1) -> list[tuple[Any, ...]]:
    """All simple paths as (score by product, bottleneck, path), by recursion."""
    size = {e: sum(map(abs, w)) / len(w) for e, w in flows.items() if len(w) >= min_count and any(w)}
    found = []

    def go(path: list[int]) -> None:
        if len(path) > 1 and path[-1] in targets:
            sizes = [size[e] for e in pairwise(path)]
            found.append((math.prod(sizes), min(sizes), tuple(path)))
        if len(path) <= hops:
            for s, t in size:
                if s == path[-1] and t not in path:
                    go([*path, t])

    for source in sources:
        go([source])
    return found


def expected(found: list[tuple[Any, ...]], k: int, score: str) -> list[tuple[Any, ...]]:
    if score == "product":
        return [(p, path) for p, _, path in sorted(found, key=lambda x: (-x[0], x[2]))[:k]]
    return [(b, path) for _, b, path in sorted(found, key=lambda x: (-x[1], -x[0], x[2]))[:k]]


def got(a: atlas.Atlas, *ends: Any, **options: Any) -> list[tuple[Any, ...]]:
    return [(r["score"], tuple(r["path"])) for r in a.paths(*ends, **options).rows()]


def draw(seed: int, edges: int, *, kind: str) -> Flows:
    """Edges between drawn neurons: to later layers, to any later neuron (same layer too), or anywhere (cycles)."""
    dice, n = random.Random(seed), LAYERS * D_MLP
    flows: Flows = {}
    for _ in range(edges):
        s, t = dice.randrange(n), dice.randrange(n)
        if s == t or (kind == "later" and s // D_MLP >= t // D_MLP) or (kind == "same layer" and s > t):
            continue
        # powers of two: products are exact, and ties are many
        flows[s, t] = [dice.choice([-1, 1]) * 2.0 ** dice.randint(-2, 1) for _ in range(dice.choice([1, 1, 2, 4]))]
        if len(flows[s, t]) > 1:
            flows[s, t] = [flows[s, t][0]] * len(flows[s, t])
    for t in range(1, n):  # a hub
        if dice.random() < 0.5:
            flows[0, t] = [2.0 ** dice.randint(-3, 0)]
    return flows


@pytest.mark.parametrize("kind", ["later", "same layer", "cycles"])
@pytest.mark.parametrize("seed", range(4))
def test_paths_against_all_simple_paths(tmp_path: Path, kind: str, seed: int) -> None:
    flows = draw(seed, 150 if kind != "cycles" else 60, kind=kind)
    dice = random.Random(seed + 100)
    with make(tmp_path / "a.duckdb", flows) as a:
        for score in ("product", "bottleneck"):
            for hops, k, min_count in ((1, 3, 1), (2, 2, 1), (3, 5, 2), (4, 3, 1), (5, 10, 1), (6, 7, 1), (6, 1000, 2)):
                sources = sorted({0, *dice.sample(range(12), dice.choice([1, 2, 4]))})  # the hub: more paths than k
                targets = sorted(dice.sample(range(20, 36), dice.choice([1, 3])))
                everything = brute(flows, sources, targets, hops, min_count)
                answer = got(a, sources, targets, max_hops=hops, k=k, score=score, min_count=min_count)
                assert answer == expected(everything, k, score), (score, hops, k, sources, targets)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(
        st.tuples(st.integers(0, 11), st.integers(0, 11)).filter(lambda e: e[0] != e[1]),
        st.floats(0.015625, 5, width=32),
        min_size=1,
        max_size=40,
    ),
    st.integers(1, 6),
    st.integers(1, 20),
)
def test_scores_of_any_graph(
    tmp_path_factory: pytest.TempPathFactory, weights: dict[tuple[int, int], float], hops: int, k: int
) -> None:
    flows = {edge: [w] for edge, w in weights.items()}
    with make(tmp_path_factory.mktemp("g") / "a.duckdb", flows, layers=3, d_mlp=4) as a:
        for score in ("product", "bottleneck"):
            wanted = expected(brute(flows, [0, 1], [10, 11], hops), k, score)
            answer = got(a, [0, 1], [10, 11], max_hops=hops, k=k, score=score)
            assert [s for s, _ in answer] == pytest.approx([s for s, _ in wanted], rel=1e-9)


def test_ties_come_by_path(tmp_path: Path) -> None:
    flows = {(s, t): [1.0] for s in range(36) for t in range(36) if t // D_MLP == s // D_MLP + 1}
    with make(tmp_path / "a.duckdb", flows) as a:
        wanted = sorted(
            (0, x, y, z, w, 30)
            for x in range(6, 12)
            for y in range(12, 18)
            for z in range(18, 24)
            for w in range(24, 30)
        )
        for score in ("product", "bottleneck"):
            assert [path for _, path in got(a, 0, 30, k=8, score=score)] == wanted[:8]


def test_a_long_strong_path_beats_a_short_weak_one(tmp_path: Path) -> None:
    flows: Flows = {(0, 30): [0.5], (0, 6): [2.0], (6, 12): [-2.0], (12, 30): [2.0]}
    with make(tmp_path / "a.duckdb", flows) as a:
        first, second = a.paths(0, 30).rows()
        assert (first["score"], first["sign"], first["n_edges"], first["geometric_mean"]) == (
            8.0,
            -1,
            3,
            pytest.approx(2),
        )
        assert first["neurons"] == ["L0/N0", "L1/N0", "L2/N0", "L5/N0"] and first["labels"] == [
            "n0",
            "n6",
            "n12",
            "n30",
        ]
        assert (first["weights"], first["counts"], first["n_graphs"]) == ([2.0, -2.0, 2.0], [1, 1, 1], [1, 1, 1])
        assert (second["score"], second["sign"], second["path"]) == (0.5, 1, [0, 30])


def linear_network(seed: int) -> tuple[Flows, dict[int, float], float]:
    """h_t = e_t + sum of w h_s, four layers of two: F of edges and embeddings, worth of 0 -> 2 -> 4 -> 6."""
    dice = random.Random(seed)
    w = {(s, t): dice.uniform(-2, 2) for t in range(2, 8) for s in range(t // 2 * 2)}
    embedded = [dice.uniform(-1, 1) for _ in range(8)]
    h: list[float] = []
    for t in range(8):
        h.append(embedded[t] + sum(w[s, t] * h[s] for s in range(t // 2 * 2)))
    to_metric = [0.0] * 6 + [dice.uniform(-1, 1) for _ in range(2)]
    for s in range(5, -1, -1):
        to_metric[s] = sum(w[s, t] * to_metric[t] for t in range((s // 2 + 1) * 2, 8))
    flows = {(s, t): [h[s] * v * to_metric[t]] for (s, t), v in w.items()}
    effect = h[0] * w[0, 2] * w[2, 4] * w[4, 6] * to_metric[6]
    return flows, {i: e * to_metric[i] for i, e in enumerate(embedded)}, effect


@pytest.mark.parametrize("seed", range(6))
def test_effect_sign_is_that_of_the_path_in_a_linear_network(tmp_path: Path, seed: int) -> None:
    flows, embedded, effect = linear_network(seed)
    tokens = [
        {"kind": kind, "token_id": 1, "layer": i // 2, "neuron": i % 2, **edge_sums([f])}
        for kind, factor in (("embedding", 1), ("logit", -50))  # what it writes is not its input
        for i, f in ((i, f * factor) for i, f in embedded.items())
    ]
    for method in ("relp_direct", "transcoder_direct"):
        file = tmp_path / f"{method}.duckdb"
        with make(file, flows, layers=4, d_mlp=2, tokens=tokens, edge_method=method) as a:
            rows = {tuple(row["path"]): row for row in a.paths(0, 6, k=1000).rows()}
            path = rows[0, 2, 4, 6]
            product = math.prod(flows[e][0] for e in pairwise(path["path"]))
            assert path["sign"] == math.copysign(1, product)
            assert path["effect_sign"] == (math.copysign(1, effect) if method == "relp_direct" else path["sign"])
            assert rows[0, 6]["effect_sign"] == rows[0, 6]["sign"]


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    with make(tmp_path / "a.duckdb", {(0, 6): [math.nan], (6, 12): [1.0], (0, 12): [1.0]}) as a:
        for score in ("product", "bottleneck"):
            with pytest.raises(atlas.StoreError, match="weights are not numbers; run atlas check"):
                a.paths(0, 12, score=score)
        with pytest.raises(atlas.StoreError, match="weights are not numbers; run atlas check"):
            a.circuit(0, 12)
        assert len(a.paths(6, 12).rows()) == 1


def test_no_path_says_how_far_was_searched(tmp_path: Path) -> None:
    with make(tmp_path / "a.duckdb", {(0, 6): [1.0], (6, 12): [0.0], (12, 18): [1.0]}) as a:
        found = a.paths(0, 18, max_hops=4)
        assert found.rows() == [] and found.warnings == ("no path of at most 4 edges from L0/N0 to L3/N0",)
        few = a.paths([0, 1], 6, min_count=3)
        assert "any of 2 neurons to L1/N0 over edges of at least 3 observations" in few.warnings[0]


def test_selections_are_ends(small: Path) -> None:  # noqa: F811
    with atlas.open(small) as a:
        rows = a.paths("cluster:1", "cluster:2", max_hops=2, k=3).rows()
        assert [r["path"] for r in rows] == [[2, 23], [0, 10, 23], [1, 10, 23]]  # 4, then 2 * 5/3 twice


@pytest.mark.parametrize(
    ("ends", "options", "message"),
    [
        (("0_0", "0_0"), {}, "source and target are both L0/N0"),
        (("0_0", "2_7"), {"k": 0}, "1 to 1000 paths, not 0"),
        (("0_0", "2_7"), {"k": -3}, "not -3"),
        (("0_0", "2_7"), {"max_hops": 7}, "1 to 6 edges, not 7"),
        (("0_0", "2_7"), {"max_hops": 0}, "1 to 6 edges, not 0"),
        (("0_0", "2_7"), {"score": "sum"}, "use product or bottleneck"),
        (("0_0", "2_7"), {"min_count": -1}, "cannot be -1"),
        (("0_0", "cluster:9.9"), {}, "no module '9.9'"),
        (("0_0", "L9/N0"), {}, "layers 0..2"),
        (("0_0", []), {}, "empty list"),
    ],
)
def test_paths_refuses(small: Path, ends: Any, options: Any, message: str) -> None:  # noqa: F811
    with atlas.open(small) as a, pytest.raises(InputError, match=message.replace("(", r"\(")):
        a.paths(*ends, **options)
