"""Similar neurons against brute force over all pairs, also where the bound leaves most of them unread."""

import math
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import _finish, drawn, random_tables, small, small_tables, write_atlas  # noqa: F401

import atlas
from atlas import InputError, StoreError

Row = dict[str, Any]
Profile = dict[Any, float]
D = 40
DRAWN = random_tables(1)


@pytest.fixture(scope="module")
def a(small: Path) -> Iterator[atlas.Atlas]:  # noqa: F811
    with atlas.open(small) as opened:
        yield opened


@pytest.fixture(scope="module")
def big(drawn: Path) -> Iterator[atlas.Atlas]:  # noqa: F811
    with atlas.open(drawn) as opened:
        yield opened


def edge_profiles(edges: list[Row], by: str) -> dict[int, Profile]:
    found: dict[int, Profile] = defaultdict(dict)
    for e in edges:
        weight = float(np.float32(e["weight_sum"]))
        if by in ("out", "both"):
            found[e["src"]]["out", e["tgt"]] = weight
        if by in ("in", "both"):
            found[e["tgt"]]["in", e["src"]] = weight
    return found


def token_profiles(rows: list[Row]) -> dict[int, Profile]:
    found: dict[int, Profile] = defaultdict(dict)
    for r in rows:
        found[r["layer"] * D + r["neuron"]][r["polarity"], r["token_id"]] = abs(float(np.float32(r["sum"])))
    return found


def brute(profiles: dict[int, Profile], members: list[int]) -> dict[int, tuple[float, float, int]]:
    """Cosine, Jaccard and shared partners of every neuron that shares any with the members' summed profile."""
    x: Profile = defaultdict(float)
    for member in members:
        for key, value in profiles.get(member, {}).items():
            x[key] += value
    found = {}
    for other, y in profiles.items():
        shared = x.keys() & y.keys()
        if shared and other not in members:
            norms = math.sqrt(sum(v * v for v in x.values()) * sum(v * v for v in y.values()))
            cosine = sum(x[s] * y[s] for s in shared) / norms
            found[other] = cosine, len(shared) / len(x.keys() | y.keys()), len(shared)
    return found


def check(answer: Any, expected: dict[int, tuple[float, float, int]], k: int | None) -> None:
    rows = answer.rows()
    for row in rows:
        cosine, jaccard, shared = expected[row["id"]]
        assert row["cosine"] == pytest.approx(cosine, abs=1e-9) and row["shared"] == shared
        assert row["jaccard"] == pytest.approx(jaccard) and 1 <= len(row["strongest"]) <= 3
    best = sorted((c for c, *_ in expected.values()), reverse=True)[:k]
    assert [row["cosine"] for row in rows] == pytest.approx(best, abs=1e-9)
    order = [(-row["cosine"], row["id"]) for row in rows]
    assert order == sorted(order)


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.integers(0, 199), min_size=1, max_size=3, unique=True), st.sampled_from(["out", "in", "both"]),
    st.sampled_from([1, 5, None]),
)  # fmt: skip
def test_by_edges_against_brute_force(big: atlas.Atlas, members: list[int], by: str, k: int | None) -> None:
    expected = brute(edge_profiles(DRAWN["edges"], by), members)
    check(big.similar(list(members), by=by, k=k), expected, k)


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(0, 199), min_size=1, max_size=3, unique=True), st.sampled_from([4, None]))
def test_by_tokens_against_brute_force(big: atlas.Atlas, members: list[int], k: int | None) -> None:
    check(big.similar(list(members), by="tokens", k=k), brute(token_profiles(DRAWN["token_stats"]), members), k)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[atlas.Atlas, list[Row]]]:
    """Layer 0 (2,400 neurons) feeds a hub, layer 1's neuron 0, and others: more candidates than are read at first."""
    dice, width = np.random.default_rng(3), 2400
    flows = {(s, width): [float(w)] for s, w in enumerate(dice.normal(0, 0.2, width))}
    for s in range(width):
        for t in dice.choice(np.arange(1, 60), 4, replace=False):
            flows[s, int(width + t)] = [float(dice.normal())]
    tables = _finish({}, 2, width, flows, {}, {})
    with atlas.open(write_atlas(tmp_path_factory.mktemp("hub") / "hub.duckdb", tables, layers=2, d_mlp=width)) as found:
        yield found, tables["edges"]


@pytest.mark.parametrize("neuron", [0, 17, 2399])
@pytest.mark.parametrize("k", [1, 20, 500, None])
def test_the_bound_leaves_out_no_neuron(hub: tuple[atlas.Atlas, list[Row]], neuron: int, k: int | None) -> None:
    expected = brute(edge_profiles(hub[1], "out"), [neuron])
    assert len(expected) == 2399  # through the hub
    check(hub[0].similar(neuron, k=k), expected, k)


@pytest.mark.parametrize("neuron", [2400, 2403])
def test_the_bound_leaves_out_no_target(hub: tuple[atlas.Atlas, list[Row]], neuron: int) -> None:
    check(hub[0].similar(neuron, by="in", k=3), brute(edge_profiles(hub[1], "in"), [neuron]), 3)


def test_the_best_neuron_may_have_one_of_the_smallest_bounds(tmp_path: Path) -> None:
    """2,398 neurons share the heavy target but are otherwise busy; the last shares the light one and nothing else."""
    width = 2400
    flows = {(s, width): [0.05] for s in range(1, width - 1)} | {(s, width + 2): [5.0] for s in range(1, width - 1)}
    flows |= {(0, width): [1.0], (0, width + 1): [0.5], (width - 1, width + 1): [1.0]}
    with atlas.open(
        write_atlas(tmp_path / "a.duckdb", _finish({}, 2, width, flows, {}, {}), layers=2, d_mlp=width)
    ) as f:
        rows = f.similar(0, k=2).rows()
    assert [(r["neuron"], r["cosine"]) for r in rows] == [
        (width - 1, pytest.approx(0.5 / math.hypot(1.0, 0.5))),
        (1, pytest.approx(0.05 / math.hypot(0.05, 5) / 1.25**0.5)),
    ]  # fmt: skip


def test_by_hand(a: atlas.Atlas) -> None:
    rows = a.similar("0_0").rows()  # sums 6 and 0; L0/N1 has -4 on the same target, L0/N2 0.25 beside 8
    assert [(r["layer"], r["neuron"], r["cosine"]) for r in rows] == [
        (0, 2, pytest.approx(0.25 / math.hypot(0.25, 8.0))), (0, 1, -1.0),
    ]  # fmt: skip
    assert rows[0]["strongest"] == ["L1/N2 aspirin and drugs"] and rows[1]["jaccard"] == 0.5
    (label,) = a.similar("1_3", by="label", k=1).rows()  # Über Hund German dog | dog dog dog: 1 of 4
    assert (label["layer"], label["neuron"], label["jaccard"], label["strongest"]) == (2, 7, 0.25, ["dog"])


def test_by_label_against_brute_force(big: atlas.Atlas) -> None:
    words = {r["feature_id"]: set(re.findall(r"[^\W_]+", r["label"].lower())) for r in DRAWN["neurons"] if r["label"]}
    for members in ([3], [5, 90, 91]):
        mine = set().union(*(words.get(m, set()) for m in members))
        scores = {n: len(mine & w) / len(mine | w) for n, w in words.items() if n not in members and mine & w}
        expected = sorted(scores, key=lambda n: (-scores[n], n))
        rows = big.similar(list(members), by="label", k=None).rows()
        assert [r["id"] for r in rows] == expected
        assert [r["jaccard"] for r in rows] == pytest.approx([scores[n] for n in expected])
        assert all(r["strongest"] == sorted(mine & words[r["id"]]) for r in rows)


@pytest.mark.parametrize("by", ["out", "in", "both", "tokens", "label"])
def test_layers_filter_the_answer(big: atlas.Atlas, by: str) -> None:
    every = big.similar(60, by=by, k=None).fetchall()
    assert big.similar(60, by=by, k=None, layers=(1, 2)).fetchall() == [row for row in every if row[0] in (1, 2)]


def test_refuses(a: atlas.Atlas) -> None:
    with pytest.raises(InputError, match="unknown by='words'; use out, in, both, tokens or label"):
        a.similar(0, by="words")
    for layers in ((0, 3), (2, 1), (0,), "0-1", 1):
        with pytest.raises(InputError, match=r"use \(first, last\), both within 0 to 2"):
            a.similar(0, layers=layers)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="empty list"):
        a.similar([])
    assert a.similar("2_0").rows() == []  # no edge at all
    assert "has a label" in a.similar("2_0", by="label").warnings[0]


def test_atlases_without_the_tables(tmp_path: Path) -> None:
    empty = small_tables() | {"edges": [], "edges_top": [], "token_stats": []}
    with atlas.open(write_atlas(tmp_path / "bare.duckdb", empty)) as bare:
        assert "table edges is empty" in bare.similar(0).warnings[0] and not bare.similar(0).rows()
        assert "table token_stats is empty" in bare.similar(0, by="tokens").warnings[0]
    import duckdb

    with duckdb.connect(str(tmp_path / "foreign.duckdb")) as con:
        con.execute("CREATE TABLE neurons AS SELECT 0 AS layer, unnest(range(4))::INTEGER AS neuron")
    with atlas.open(tmp_path / "foreign.duckdb") as foreign:
        for by, table in (("out", "edges"), ("tokens", "token_stats")):
            with pytest.raises(StoreError, match=f"no table '{table}'"):
                foreign.similar(0, by=by)
