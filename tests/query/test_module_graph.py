"""The graph of a module against its rows: members by flow, the edges among them, and what the limits cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from synthetic import drawn, random_tables, small, small_tables, write_atlas  # noqa: F401

import atlas
from atlas.errors import InputError
from atlas.query.module_graph import cluster_subgraph

TABLES = random_tables(1)


def members(path: str) -> list[dict[str, Any]]:
    """Neurons of a module and of its parts, by falling flow."""
    rows = [r for r in TABLES["neurons"] if r["cluster_path"] and (r["cluster_path"] + ".").startswith(path + ".")]
    return sorted(rows, key=lambda r: (-r["infomap_flow"], r["layer"], r["neuron"]))


@pytest.mark.parametrize("path", ["1", "3.2"])
@pytest.mark.parametrize("most", [None, 12])
def test_members_and_the_edges_among_them(drawn: Path, path: str, most: int | None) -> None:  # noqa: F811
    with atlas.open(drawn) as a:
        graph = cluster_subgraph(a, path, max_nodes=most)
    chosen = members(path)[:most]
    assert [n.key for n in graph.nodes] == sorted(
        (f"L{r['layer']}/N{r['neuron']}" for r in chosen), key=lambda k: [int(p[1:]) for p in k.split("/")]
    )
    assert {n.key: (n.label, n.cluster_path) for n in graph.nodes} == {
        f"L{r['layer']}/N{r['neuron']}": (r["label"], r["cluster_path"]) for r in chosen
    }
    ids = {r["feature_id"] for r in chosen}
    among = [e for e in TABLES["edges"] if e["src"] in ids and e["tgt"] in ids]
    wanted = {(key(e["src"]), key(e["tgt"])): e for e in among}
    assert len(graph.links) == len(wanted) and (wanted or most)
    for link in graph.links:
        edge = wanted[link.source, link.target]
        assert link.mean_weight == pytest.approx(edge["weight_sum"] / edge["count"], rel=1e-6)
        assert link.weight_abs_sum == pytest.approx(edge["weight_abs_sum"], rel=1e-6) and link.count == edge["count"]
    assert [e.weight_abs_sum for e in graph.links] == sorted((e.weight_abs_sum for e in graph.links), reverse=True)
    assert ("shown, by largest flow" in graph.facts) == (len(chosen) < len(members(path)))


def key(packed: int) -> str:
    return "L{}/N{}".format(*divmod(packed, 40))


def test_the_share_of_internal_weight_is_that_of_the_rows(drawn: Path) -> None:  # noqa: F811
    name = "share of the module's internal weight shown"
    ids = {r["feature_id"] for r in members("1")}
    strength = sorted(
        (e["weight_abs_sum"] / e["count"], e["weight_abs_sum"])
        for e in TABLES["edges"] if e["src"] in ids and e["tgt"] in ids
    )  # fmt: skip
    strongest = sorted(strength, key=lambda pair: -pair[1])[:7]
    with atlas.open(drawn) as a:
        assert cluster_subgraph(a, "1", max_nodes=None).facts[name] == pytest.approx(1.0)
        cut = cluster_subgraph(a, "1", max_nodes=None, max_links=7)
    assert len(cut.links) == 7
    assert cut.facts[name] == pytest.approx(sum(m for m, _ in strongest) / sum(m for m, _ in strength), rel=1e-5)


def test_bad_input_and_truncated_edges(tmp_path: Path, small: Path) -> None:  # noqa: F811
    with atlas.open(small) as a:
        with pytest.raises(InputError, match=r"77"):
            cluster_subgraph(a, "77")
        with pytest.raises(InputError, match="max_nodes is 0"):
            cluster_subgraph(a, "1", max_nodes=0)
        assert cluster_subgraph(a, "1").warnings == ()
    cut = write_atlas(tmp_path / "cut.duckdb", small_tables(), edge_truncation="top 100 a neuron")
    with atlas.open(cut) as a:
        assert "top 100" in " ".join(cluster_subgraph(a, "1").warnings)
