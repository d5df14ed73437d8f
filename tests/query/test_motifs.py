"""Motif counts against loops over all edges in plain Python; what the random graphs keep."""

from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic import drawn, random_tables, small  # noqa: F401

import atlas
from atlas import InputError, N
from atlas.query.motifs import KINDS, count, rewired

D_MLP = 40
Signs = dict[tuple[int, int], int]


def signs_of(tables: Any, ids: set[int] | None = None, min_count: int = 1) -> Signs:
    return {
        (e["src"], e["tgt"]): 1 if e["weight_sum"] > 0 else -1
        for e in tables["edges"]
        if e["count"] >= min_count and (ids is None or {e["src"], e["tgt"]} <= ids)
    }


def brute(signs: Signs) -> dict[tuple[str, bool], int]:
    found: Counter[tuple[str, bool]] = Counter({(kind, agree): 0 for kind in KINDS for agree in (True, False)})
    for (a, b), x in signs.items():
        for (b2, c), y in signs.items():
            if b == b2 and (a, c) in signs:
                found["ffl", x * y * signs[a, c] > 0] += 1
    for (one, x), (two, y) in combinations(signs.items(), 2):
        if one[1] == two[1]:
            found["fan-in", x * y > 0] += 1
        if one[0] == two[0]:
            found["fan-out", x * y > 0] += 1
    targets = {s: {t for a, t in signs if a == s} for s, _ in signs}
    for a, b in combinations(sorted(targets), 2):
        for c, d in combinations(sorted(targets[a] & targets[b]), 2):
            found["bi-fan", signs[a, c] * signs[a, d] * signs[b, c] * signs[b, d] > 0] += 1
    return dict(found)


def arrays(signs: Signs) -> tuple[Any, Any, Any]:
    columns = [s for s, _ in signs], [t for _, t in signs], list(signs.values())
    source, target, sign = (np.array(column, dtype=np.int64) for column in columns)
    return source, target, sign


def test_counts_against_brute_force(drawn: Path) -> None:  # noqa: F811
    tables = random_tables(1)
    with atlas.open(drawn) as a:
        for min_count in (1, 3):
            ids = {r["feature_id"] for r in tables["neurons"]}
            found = a.motifs(N(), null=0, min_count=min_count)
            wanted = brute(signs_of(tables, ids, min_count))
            assert {(r["motif"], r["agreeing"]): r["count"] for r in found.counts} == wanted
            assert min_count > 1 or min(wanted.values()) > 0
        module = {r["feature_id"] for r in tables["neurons"] if (r["cluster_path"] or "").startswith("1.")}
        found = a.motifs("cluster:1", null=0)
        assert {(r["motif"], r["agreeing"]): r["count"] for r in found.counts} == brute(signs_of(tables, module))


@pytest.mark.parametrize("seed", range(3))
def test_counts_of_any_signed_graph(seed: int) -> None:
    dice = np.random.default_rng(seed)
    signs = {(int(s), int(t)): int(dice.choice([-1, 1])) for s, t in dice.integers(0, 14, (90, 2)) if s != t}
    assert count(*arrays(signs), KINDS) == brute(signs)


def test_loops_are_listed_strongest_first(drawn: Path) -> None:  # noqa: F811
    tables = random_tables(1)
    mean = {(e["src"], e["tgt"]): e["weight_sum"] / e["count"] for e in tables["edges"]}
    loops = sorted(
        (-(abs(x * y * mean[a, c]) ** (1 / 3)), a, b, c)
        for (a, b), x in mean.items() for (b2, c), y in mean.items() if b == b2 and (a, c) in mean
    )  # fmt: skip
    with atlas.open(drawn) as a:
        found = a.motifs(N(), kind="ffl", null=0, limit=30)
        assert found.instances is not None and found.instances.total == len(loops)
        rows = found.instances.rows()
    assert [(r["a"], r["b"], r["c"]) for r in rows] == [loop[1:] for loop in loops[:30]]
    for r in rows:
        product = mean[r["a"], r["b"]] * mean[r["b"], r["c"]] * mean[r["a"], r["c"]]
        assert r["coherent"] == (product > 0) and r["strength"] == pytest.approx(abs(product) ** (1 / 3), rel=1e-5)


def test_random_graphs_keep_degrees_layers_and_signs_of_sources() -> None:
    signs = signs_of(random_tables(1))
    source, target, sign = arrays(signs)
    kept = Counter((int(s), int(t) // D_MLP, int(x)) for s, t, x in zip(source, target, sign, strict=True))
    into = Counter((int(s) // D_MLP, int(t)) for s, t in zip(source, target, strict=True))
    seen = []
    for a, b, x in rewired(source, target, sign, d_mlp=D_MLP, draws=5, seed=3):
        pairs = list(zip(a.tolist(), b.tolist(), strict=True))
        assert len(set(pairs)) == len(signs)  # no double edge
        assert Counter((s, t // D_MLP, y) for (s, t), y in zip(pairs, x.tolist(), strict=True)) == kept
        assert Counter((s // D_MLP, t) for s, t in pairs) == into
        seen.append(frozenset(pairs))
    assert len(set(seen)) == 5 and all(len(pairs & set(signs)) < len(signs) / 2 for pairs in seen)


def test_a_planted_excess_is_found_and_chance_is_not(drawn: Path) -> None:  # noqa: F811
    with atlas.open(drawn) as a:
        first, again, other = (a.motifs(N(), null=60, seed=s).counts for s in (1, 1, 2))
        assert first == again != other
        chance = {(r["motif"], r["agreeing"]): r for r in first}
        assert abs(chance["ffl", True]["z"]) < 4 and chance["fan-out", True]["z"] is None  # kept by the null: no z
        assert chance["fan-out", True]["null_mean"] == chance["fan-out", True]["count"]
        assert all(0 < r["p"] <= 1 for r in first)
    from atlas.query.motifs import _against_null

    planted = {}
    for i in range(12):  # 12 separate loops over three layers of 40: by chance there would be about one
        planted |= {(i, 40 + i): 1, (40 + i, 80 + i): 1, (i, 80 + i): 1}
    row = _against_null(arrays(dict(sorted(planted.items()))), ("ffl",), d_mlp=40, draws=99, seed=0)[0]
    assert row["count"] == 12 and row["z"] > 5 and row["p"] == pytest.approx(0.02)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "square"}, "use ffl, fan-in, fan-out, bi-fan"),
        ({"null": -1}, "not -1 draws"),
        ({"seed": -1}, "seed -1"),
        ({"selection": "cluster:9.9"}, "no module '9.9'"),
    ],
)
def test_motifs_refuses(small: Path, options: Any, message: str) -> None:  # noqa: F811
    with atlas.open(small) as a, pytest.raises(InputError, match=message):
        a.motifs(**options)


def test_no_edges_no_motifs(small: Path) -> None:  # noqa: F811
    with atlas.open(small) as a:
        found = a.motifs(["0_0", "0_1"], null=5)
        assert found.edges == 0 and {r["count"] for r in found.counts} == {0} and found.to_dict()["instances"] == []
        assert a.motifs(null=3).edges == 5  # edges_top has five
