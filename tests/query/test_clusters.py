"""The module card and the quotient graph against plain Python, and chance against shuffled edges."""

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from synthetic import drawn, edge_sums, random_tables, small, small_tables, write_atlas  # noqa: F401

import atlas
from atlas.errors import InputError, StoreError
from atlas.query.quotient import sums


def top_of(tables: dict) -> dict:
    return {n["feature_id"]: str(n["top_cluster"]) if n["top_cluster"] else None for n in tables["neurons"]}


def test_quotient_adds_up_to_the_modules_weights(drawn: Path) -> None:  # noqa: F811
    tables = random_tables(1)
    with atlas.open(drawn) as a:
        rows = a.quotient(limit=None).rows()
        between = a.quotient(between=True, limit=None).rows()
    place, weight = top_of(tables), defaultdict(float)
    for e in tables["edges"]:
        weight[place[e["src"]], place[e["tgt"]]] += e["weight_abs_sum"] / e["count"]
    assert {(r["src_cluster"], r["tgt_cluster"]): pytest.approx(r["weight"], rel=1e-5) for r in rows} == weight
    assert between == [r for r in rows if r["src_cluster"] != r["tgt_cluster"]]
    for c in (c for c in tables["clusters"] if c["level"] == 1):
        path = c["cluster_path"]
        sent = [r["weight"] for r in rows if r["src_cluster"] == path]
        inside = next(r["weight"] for r in rows if r["src_cluster"] == r["tgt_cluster"] == path)
        assert inside == pytest.approx(c["internal_weight"], rel=1e-6)
        assert sum(sent) - inside == pytest.approx(c["outgoing_weight"], rel=1e-6)
        assert sum(r["expected"] for r in rows if r["src_cluster"] == path) == pytest.approx(sum(sent), rel=1e-9)


def test_matrix_holds_the_same_numbers(drawn: Path) -> None:  # noqa: F811
    with atlas.open(drawn) as a:
        found = a.quotient(limit=None)
        for value in ("weight", "expected", "z", "n_edges"):
            m = found.matrix(value)
            for r in found.rows():
                at = m.rows.index(r["src_cluster"]), m.columns.index(r["tgt_cluster"])
                assert m.value[at] == pytest.approx(r[value], rel=1e-9)
        with pytest.raises(InputError, match="expected, z"):
            found.matrix("colour")


def test_the_macros_and_the_compiled_pass_give_the_same(drawn: Path) -> None:  # noqa: F811
    pytest.importorskip("numba")
    with atlas.open(drawn) as a:
        for level in (1, 2):
            macro = a.ask("quotient", {"of_level": level, "with_inside": True, "max_rows": None}).fetchall()
            asked, passed = (sums(a, level, compile_from=least) for least in (10**9, 0))
            assert asked.names == passed.names
            for name, values in passed.with_chance().items():
                np.testing.assert_allclose(values, asked.with_chance()[name], rtol=1e-9, atol=1e-12)
            assert np.array_equal(asked.columns["weight"], passed.columns["weight"])  # whole numbers: to the last digit
            rows = a.quotient(level=level, limit=None)
            assert len(rows) == len(macro) > 10
            for row, same in zip(rows, macro, strict=True):
                assert row[:8] == same[:8]
                assert row[8:] == tuple(x if x is None else pytest.approx(x, rel=1e-9, abs=1e-12) for x in same[8:])
            assert rows.sql.startswith(f"FROM quotient(of_level := {level}")


def test_z_is_that_of_shuffled_targets(tmp_path: Path) -> None:
    """Equal weights: the null is exactly the shuffle of targets within a pair of layers."""
    tables = random_tables(2)
    for e in tables["edges"]:
        e.update(edge_sums([0.5]))
    with atlas.open(write_atlas(tmp_path / "equal.duckdb", tables, layers=5, d_mlp=40)) as a:
        rows = a.quotient(limit=None).rows()
    place, rng = top_of(tables), np.random.default_rng(0)
    names = sorted({r["src_cluster"] for r in rows}, key=str)
    src = np.array([names.index(place[e["src"]]) for e in tables["edges"]])
    tgt = np.array([names.index(place[e["tgt"]]) for e in tables["edges"]])
    block = np.array([e["src"] // 40 * 8 + e["tgt"] // 40 for e in tables["edges"]])
    draws = np.zeros((2000, len(names), len(names)))
    for draw in draws:
        mixed = tgt.copy()
        for b in np.unique(block):
            mixed[block == b] = rng.permutation(tgt[block == b])
        np.add.at(draw, (src, mixed), 0.5)
    mean, spread = draws.mean(axis=0), draws.std(axis=0)
    for r in rows:
        at = names.index(r["src_cluster"]), names.index(r["tgt_cluster"])
        assert r["expected"] == pytest.approx(mean[at], abs=5 * spread[at] / 2000**0.5)
        assert r["z"] == pytest.approx((r["weight"] - mean[at]) / spread[at], rel=0.1, abs=0.1)


def test_a_card_counts_what_its_members_are(drawn: Path) -> None:  # noqa: F811
    tables = random_tables(1)
    members = [n for n in tables["neurons"] if (n["cluster_path"] or "").startswith("2.")]
    ids = {n["feature_id"] for n in members}
    inner = [e for e in tables["edges"] if e["src"] in ids and e["tgt"] in ids]
    with atlas.open(drawn) as a:
        card = a.cluster("2", k=None, words=True)
        layers = {r["layer"]: r["members"] for r in card.layers.rows()}
        assert layers == {at: sum(n["layer"] == at for n in members) for at in layers} and sum(layers.values()) == len(
            ids
        )
        assert {(r["src"], r["tgt"]) for r in card.edges.rows()} == {(e["src"], e["tgt"]) for e in inner}
        about, near = card.about, card.neighbours.rows()
        assert sum(r["weight_out"] for r in near) == pytest.approx(about["outgoing_weight"], rel=1e-6)
        assert sum(r["weight_in"] for r in near) == pytest.approx(about["incoming_weight"], rel=1e-6)
        assert set(card.lists()) >= {"tokens", "words"} and "parts_list" in card.to_dict()


def test_unknown_modules_and_atlases_without_them(small: Path, tmp_path: Path) -> None:  # noqa: F811
    with atlas.open(small) as a:
        with pytest.raises(InputError, match=r"'1\.1' exists"):
            a.cluster("1.1.9")
        with pytest.raises(InputError, match="shows all"):
            a.cluster("77")
        with pytest.raises(InputError, match="levels 1 to 2"):
            a.quotient(level=5)
    tables = small_tables()
    tables["clusters"] = []
    with atlas.open(write_atlas(tmp_path / "none.duckdb", tables)) as a:
        for ask in (lambda: a.cluster("1"), a.quotient):
            with pytest.raises(StoreError, match="atlas cluster run"):
                ask()


def test_edges_within_a_layer_are_flagged_by_one_check_and_answered(tmp_path: Path) -> None:
    tables = small_tables()
    tables["edges"].append({"src": 0, "tgt": 1, "src_layer": 0, "src_neuron": 0, **edge_sums([0.1])})
    tables["edges"].append({"src": 10, "tgt": 0, "src_layer": 1, "src_neuron": 2, **edge_sums([0.1])})  # a cycle
    tables["edges"].sort(key=lambda e: (e["src"], e["tgt"]))
    with atlas.open(write_atlas(tmp_path / "cycle.duckdb", tables)) as a:
        faults = [r for r in a.check() if not r.healthy]
        assert [r.name for r in faults] == ["edges_range"] and faults[0].bad_rows == 2
        assert a.quotient().rows() and a.cluster("1").edges.rows()
