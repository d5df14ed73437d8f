"""Common inputs and outputs against brute force over the rows that went in and scipy's hypergeometric distribution."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import drawn, random_tables, small, small_tables, write_atlas  # noqa: F401

import atlas
from atlas import InputError, StoreError

scipy_stats = pytest.importorskip("scipy.stats", reason="scipy is the oracle; pip install scipy")

Row = dict[str, Any]
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


def brute(members: list[int], direction: str, at_least: int, min_count: int) -> dict[int, Row]:
    """What the header of common_inputs says, edge by edge."""
    pairs = {(e["src"], e["tgt"]): e for e in DRAWN["edges"] if e["count"] >= min_count}
    if direction == "outputs":  # turned round: layers count from the end, and every partner feeds the members
        pairs = {(t, s): e for (s, t), e in pairs.items()}
    later = (lambda x, y: x // D < y // D) if direction == "inputs" else (lambda x, y: x // D > y // D)
    urn = {t for _, t in pairs}
    degree: dict[int, set[int]] = defaultdict(set)
    for s, t in pairs:
        degree[s].add(t)
    layers = {m // D for m in members if m in urn}
    found = {}
    for s, partners in degree.items():
        hits = sorted(partners & set(members))
        if len(hits) < at_least:
            continue
        balls = [n for n in urn if n // D in layers and later(s, n)]
        marked, draws = set(members) & set(balls), partners & set(balls)
        means = [pairs[s, t]["weight_sum"] / pairs[s, t]["count"] for t in hits]
        found[s] = {
            "members": [f"L{t // D}/N{t % D}" for t in hits],
            "hits": len(hits),
            "expected": len(draws) * len(marked) / len(balls),
            "p": scipy_stats.hypergeom.sf(len(hits) - 1, len(balls), len(marked), len(draws)),
            "degree": len(partners),
            "reach": len(draws),
            "sign_agreement": max(sum(m > 0 for m in means), sum(m < 0 for m in means)) / len(hits),
            "weight_abs_sum": sum(pairs[s, t]["weight_abs_sum"] for t in hits),
            "mean_abs_weight": sum(pairs[s, t]["weight_abs_sum"] / pairs[s, t]["count"] for t in hits) / len(hits),
        }
    family = [s for s in degree if any(later(s, m * D) for m in layers)]
    ps = [found[s]["p"] if s in found else 1.0 for s in family]
    for s, q in zip(family, scipy_stats.false_discovery_control(ps), strict=True):
        if s in found:
            found[s]["q"] = q
    return found


SETS = st.lists(st.integers(0, 199), min_size=1, max_size=60, unique=True)


@settings(max_examples=20, deadline=None)
@given(SETS, st.sampled_from(["inputs", "outputs"]), st.integers(1, 3), st.sampled_from([1, 1, 3]))
def test_against_brute_force(
    big: atlas.Atlas, members: list[int], direction: str, at_least: int, min_count: int
) -> None:
    at_least = min(at_least, len(members))
    answer = big.common(list(members), direction=direction, at_least=at_least, min_count=min_count, limit=None)
    expected = brute(members, direction, at_least, min_count)
    got = {row["id"]: row for row in answer.rows()}
    assert got.keys() == expected.keys()
    for key, row in expected.items():
        for column, value in row.items():
            exact = column in ("p", "q", "expected")
            wanted = value if isinstance(value, list) else pytest.approx(value, rel=1e-9 if exact else 1e-5)
            assert got[key][column] == wanted, column
    order = [(r["p"], -r["hits"], -r["weight_abs_sum"], r["id"]) for r in answer.rows()]
    assert order == sorted(order)


def test_by_hand(a: atlas.Atlas) -> None:
    (row,) = a.common(["1_2", "1_3"]).rows()  # only L0/N0 feeds both; two neurons of layer 1 have any input
    assert (row["layer"], row["neuron"], row["hits"], row["degree"], row["reach"]) == (0, 0, 2, 2, 2)
    assert (row["p"], row["expected"], row["members"]) == (1.0, 2.0, ["L1/N2", "L1/N3"])
    assert row["sign_agreement"] == 0.5  # +2 on the mean, and 0
    three = a.common(["0_0", "0_1", "0_2"], direction="outputs").rows()
    assert [(r["layer"], r["neuron"], r["hits"], r["sign_agreement"]) for r in three] == [
        (1, 2, 3, pytest.approx(2 / 3))
    ]
    assert len(a.common("1_2", at_least=1)) == 3


@pytest.mark.parametrize(
    ("n", "k", "d", "h"),
    [(1_600_000, 20, 3000, 5), (1_600_000, 100, 52, 1), (25_600, 100, 25_000, 97), (1_638_400, 300, 30_000, 60),
     (1000, 500, 400, 200), (400_000, 15, 14, 14), (10, 5, 5, 5)],
)  # fmt: skip
def test_p_is_exact_for_large_populations(tmp_path: Path, n: int, k: int, d: int, h: int) -> None:
    """An atlas of one partner with d edges, h of them into the k members, and an urn that is told to hold n neurons."""
    width = max(d + k, 10)
    flows = [*range(h), *range(k, k + d - h)]
    edges = [
        {"src": 0, "tgt": width + i, "src_layer": 0, "src_neuron": 0, "count": 1, "n_graphs": 1, "weight_sum": 1.0,
         "weight_abs_sum": 1.0, "weight_sq_sum": 1.0, "weight_min": 1.0, "weight_max": 1.0} for i in flows
    ]  # fmt: skip
    # a second partner feeds the members that the first does not: without any input they could not be hit
    edges += [{**edges[0], "src": 1, "src_neuron": 1, "tgt": width + i} for i in range(h, k)]
    neurons = [{"layer": i // width, "neuron": i % width, "feature_id": i} for i in (0, 1, *range(width, width + k))]
    neurons.append({"layer": 0, "neuron": width - 1, "feature_id": width - 1})
    tables = {"edges": edges, "neurons": neurons}
    with atlas.open(write_atlas(tmp_path / "a.duckdb", tables, layers=2, d_mlp=width)) as opened:
        values = {
            "of_ids": list(range(width, width + k)),
            "at_least_hits": h,
            "of_senders": [2, 0],
            "of_receivers": [0, n],
        }
        row = next(r for r in opened.ask("common_inputs", values).rows() if r["id"] == 0)
    assert row["p"] == pytest.approx(float(_exact(n, k, d, h)), rel=1e-11)
    assert row["p"] == pytest.approx(scipy_stats.hypergeom.sf(h - 1, n, k, d), rel=1e-8)


def _exact(n: int, k: int, d: int, h: int) -> Any:
    """P(X >= h) in whole numbers."""
    from fractions import Fraction
    from math import comb

    return Fraction(sum(comb(k, i) * comb(n - k, d - i) for i in range(h, min(k, d) + 1)), comb(n, d))


def test_the_macro_counts_its_own_urns(big: atlas.Atlas) -> None:
    for macro, direction in (("common_inputs", "inputs"), ("common_outputs", "outputs")):
        for count in (1, 3):
            values = {"of_ids": list(range(60, 140)), "at_least_count": count, "max_rows": None}
            alone = big.ask(macro, values).fetchall()
            assert (
                alone == big.common(values["of_ids"], direction=direction, min_count=count, limit=None).fetchall() != []
            )


def test_truncated_edges_say_that_p_is_biased(tmp_path: Path) -> None:
    path = write_atlas(tmp_path / "cut.duckdb", small_tables(), edge_truncation="top 10 per source")
    with atlas.open(path) as cut:
        assert any("p and q are biased" in text for text in cut.common(["1_2", "1_3"]).warnings)


def test_limit_says_what_it_cut(big: atlas.Atlas) -> None:
    answer = big.common("layer:3", limit=2)
    assert len(answer) == 2 and answer.total == len(brute(list(range(120, 160)), "inputs", 2, 1)) == answer.cut + 2


def test_refuses(a: atlas.Atlas) -> None:
    with pytest.raises(InputError, match="unknown direction 'input'; use inputs or outputs"):
        a.common(["1_2", "1_3"], direction="input")
    for at_least in (0, 3):
        with pytest.raises(InputError, match=f"at_least is {at_least}, but the selection has 2 neurons"):
            a.common(["1_2", "1_3"], at_least=at_least)
    with pytest.raises(InputError, match="empty list"):
        a.common([])
    with pytest.raises(InputError, match="out of range"):
        a.common([24, 1])


def test_an_atlas_without_edges(tmp_path: Path) -> None:
    tables = small_tables() | {"edges": [], "edges_top": []}
    with atlas.open(write_atlas(tmp_path / "bare.duckdb", tables)) as bare:
        answer = bare.common(["1_2", "1_3"])
        assert answer.rows() == [] and "table edges is empty" in answer.warnings[0]


def test_a_file_without_the_table_says_so(tmp_path: Path) -> None:
    import duckdb

    path = tmp_path / "foreign.duckdb"
    with duckdb.connect(str(path)) as con:
        con.execute("CREATE TABLE neurons AS SELECT 0 AS layer, unnest(range(4))::INTEGER AS neuron")
    with atlas.open(path) as foreign, pytest.raises(StoreError, match="no table 'edges'"):
        foreign.common([0, 1])
