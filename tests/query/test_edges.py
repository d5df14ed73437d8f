"""Edges between selections, their matrices, and neighbourhoods as drawable graphs, against the rows that went in."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic import drawn, random_tables, small, small_tables, write_atlas  # noqa: F401

import atlas
from atlas import InputError

pytest.importorskip("scipy.sparse", reason="matrix() needs scipy; pip install scipy")

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


def strongest(edges: list[dict[str, Any]]) -> list[tuple[int, int]]:
    return [
        (e["src"], e["tgt"])
        for e in sorted(edges, key=lambda e: (-float(np.float32(e["weight_abs_sum"])), e["src"], e["tgt"]))
    ]


@pytest.mark.parametrize("sources", [None, [3, 50, 90]])
@pytest.mark.parametrize("targets", [None, [130, 131, 170]])
@pytest.mark.parametrize("min_count", [1, 3])
@pytest.mark.parametrize("limit", [2, None])
def test_every_kind_of_selection(
    big: atlas.Atlas, sources: list[object] | None, targets: list[object] | None, min_count: int, limit: int | None
) -> None:
    expected = strongest([
        e for e in DRAWN["edges"]
        if (sources is None or e["src"] in sources) and (targets is None or e["tgt"] in targets)
        and e["count"] >= min_count
    ])  # fmt: skip
    answer = big.edges(sources, targets, min_count=min_count, limit=limit)
    assert [(r["src"], r["tgt"]) for r in answer.rows()] == expected[:limit]
    assert answer.total == len(expected)


def test_the_strongest_edges_have_the_same_columns_wherever_they_come_from(big: atlas.Atlas) -> None:
    few, more = big.edges(limit=5), big.edges(limit=6)  # edges_top of this atlas holds 5
    assert "edges_strongest" in few.sql and "edges_between" in more.sql
    assert few.fetchall() == more.fetchall()[:5] and few.columns == more.columns
    assert few.total == more.total == few.cut + 5 == len(DRAWN["edges"])
    assert few.by_cluster().fetchall() == more.by_cluster().fetchall()
    assert few.matrix().value.nnz == len(DRAWN["edges"])


def test_a_target_without_edges(big: atlas.Atlas) -> None:
    fed = {e["tgt"] for e in DRAWN["edges"]}
    alone = next(i for i in range(40, 200) if i not in fed)
    assert big.edges(None, [alone]).rows() == [] == big.edges([5], [alone]).rows()
    assert big.ask("edges_into", {"of_layer": alone // D, "of_neuron": alone % D}).rows() == []


def test_edges_of_one_neuron_and_their_shares(big: atlas.Atlas) -> None:
    for end, other, macro in (("src", "tgt", "edges_from"), ("tgt", "src", "edges_into")):
        for neuron in sorted({e[end] for e in DRAWN["edges"]})[::9]:
            mine = [e for e in DRAWN["edges"] if e[end] == neuron]
            total = sum(e["weight_abs_sum"] for e in mine)
            rows = big.ask(macro, {"of_layer": neuron // D, "of_neuron": neuron % D, "max_rows": 3}).rows()
            by_pair = {e[other]: e for e in mine}
            expected = [dict(zip(("src", "tgt"), pair, strict=True))[other] for pair in strongest(mine)][:3]
            assert [r["layer"] * D + r["neuron"] for r in rows] == expected
            for row, key in zip(rows, expected, strict=True):
                e = by_pair[key]
                n, mean = e["count"], e["weight_sum"] / e["count"]
                variance = (e["weight_sq_sum"] - n * mean**2) / (n - 1) / n if n > 1 else None
                assert row["share"] == pytest.approx(e["weight_abs_sum"] / total, rel=1e-5)
                assert row["mean_weight"] == pytest.approx(mean, rel=1e-5, abs=1e-7)
                assert row["mean_abs_weight"] == pytest.approx(e["weight_abs_sum"] / n, rel=1e-5)
                assert (row["standard_error"] is None) == (n == 1)
                if variance is not None:
                    assert row["standard_error"] ** 2 == pytest.approx(variance, rel=1e-3, abs=1e-6)


def test_derived_edges_have_no_evidence(tmp_path: Path) -> None:
    tables = small_tables()
    tables["edges"] = [e | {"weight_sq_sum": None} for e in tables["edges"]]
    with atlas.open(write_atlas(tmp_path / "derived.duckdb", tables)) as derived:
        rows = [
            *derived.edges(limit=None).rows(), *derived.edges(limit=2).rows(),
            *derived.ask("edges_from", {"of_layer": 0, "of_neuron": 0}).rows(),
            *derived.ask("edges_into", {"of_layer": 1, "of_neuron": 2}).rows(),
        ]  # fmt: skip
    assert len(rows) == 16
    assert {(r["standard_error"], r["sign_consistency"]) for r in rows} == {(None, None)}


@pytest.mark.parametrize("weight", ["weight_abs_sum", "count", "standard_error", "signed_share"])
def test_matrix_of_any_weight(big: atlas.Atlas, weight: str) -> None:
    matrix = big.edges("layer:0-1", "layer:3", limit=1).matrix(weight)
    entering: dict[int, float] = defaultdict(float)
    for e in DRAWN["edges"]:
        entering[e["tgt"]] += e["weight_abs_sum"]
    dense, seen = matrix.value.toarray(), 0
    rows = [i.feature_id(D) for i in matrix.rows]
    columns = [i.feature_id(D) for i in matrix.columns]
    assert rows == sorted(rows) and columns == sorted(columns)
    for e in DRAWN["edges"]:
        if e["src"] < 2 * D and 3 * D <= e["tgt"] < 4 * D:
            value, seen = dense[rows.index(e["src"]), columns.index(e["tgt"])], seen + 1
            if weight == "signed_share":
                assert value == pytest.approx(e["weight_sum"] / entering[e["tgt"]], rel=1e-5, abs=1e-7)
            elif weight == "standard_error":
                assert np.isnan(value) == (e["count"] == 1)
            else:
                assert value == pytest.approx(e[weight], rel=1e-6)
    assert matrix.value.nnz == seen > 50


def test_matrix_refuses(a: atlas.Atlas) -> None:
    with pytest.raises(InputError, match="no edge between these selections"):
        a.edges("2_0", "2_1").matrix()
    for wrong in ("src_label", "nope", "count; SELECT 1"):
        with pytest.raises(InputError, match=r"no column .* use mean_weight, .* or signed_share"):
            a.edges().matrix(wrong)


@pytest.mark.parametrize("hops", [0, 1, 3])
def test_ego_as_a_drawable_graph(big: atlas.Atlas, hops: int) -> None:
    ego = big.ego([90, 91], hops=hops, top=2)
    graph = ego.to_subgraph()
    assert [n.key for n in graph.nodes if n.role == "source"] == ["L2/N10", "L2/N11"]
    ids = [(n.layer or 0) * D + (n.neuron or 0) for n in graph.nodes]
    assert ids == sorted(row["id"] for row in ego.nodes.rows()) and (len(ids) == 2) == (hops == 0)
    inside = strongest([e for e in DRAWN["edges"] if {e["src"], e["tgt"]} <= set(ids)])
    assert [(link.source, link.target) for link in graph.links] == [
        (f"L{s // D}/N{s % D}", f"L{t // D}/N{t % D}") for s, t in inside
    ]
    labels = {r["feature_id"]: r["label"] for r in DRAWN["neurons"]}
    assert [n.label for n in graph.nodes] == [labels[i] for i in ids]
    assert (graph.layers, graph.model, graph.title) == (5, "toy", f"{hops} hops around L2/N10 and 1 more")
    assert graph.facts == {"nodes": len(ids), "edges": len(inside), "edges not shown": 0}


def test_ego_three_hops_against_breadth_first_search(big: atlas.Atlas) -> None:
    out, into = defaultdict(list), defaultdict(list)
    for s, t in strongest(DRAWN["edges"]):
        out[s].append(t)
        into[t].append(s)
    hop, frontier = {90: 0}, {90}
    for step in (1, 2, 3):
        frontier = {n for node in frontier for n in out[node][:2] + into[node][:2]} - set(hop)
        hop |= dict.fromkeys(frontier, step)
    assert {r["id"]: r["hop"] for r in big.ego(90, hops=3, top=2).nodes.rows()} == hop


@pytest.mark.parametrize(
    ("options", "message"),
    [({"direction": "up"}, "unknown direction 'up'"), ({"hops": 4}, "0 to 3 hops, not 4"), ({"hops": -1}, "not -1"),
     ({"top": 0}, "at least 1 edge")],
)  # fmt: skip
def test_ego_refuses(a: atlas.Atlas, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        a.ego("1_2", **options)
