"""Enrichment of labels against plain counting, scipy's hypergeometric laws and shuffled labels."""

import random
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import hypergeom
from synthetic import drawn, random_tables, small, write_atlas  # noqa: F401

import atlas
from atlas.errors import InputError, StoreError
from atlas.query.enrichment import Counts, false_discovery, moments, odds_ratio, upper_tail


def tail_by_scipy(hits: int, n: list[int], k: list[int], size: list[int]) -> float:
    total = np.ones(1)
    for members, words, whole in zip(n, k, size, strict=True):
        total = np.convolve(total, hypergeom(whole, words, members).pmf(np.arange(min(members, words) + 1)))
    return float(total[hits:].sum())


def test_tails_are_those_of_convolved_hypergeometrics() -> None:
    dice = random.Random(3)
    for _ in range(40):
        size = [dice.randint(30, 25600) for _ in range(dice.choice([1, 3, 8]))]
        n = [dice.randint(0, 12) for _ in size]
        k = [dice.randint(1, 15) for _ in size]
        if not (most := sum(map(min, n, k))):
            continue
        hits = dice.randint(1, most)
        at = np.zeros((1, len(size)))
        at[0, 0] = hits
        p, exact = upper_tail(Counts(at, np.array([n], float), np.array([k], float), np.array(size, float)))
        expected = tail_by_scipy(hits, n, k, size)
        assert p[0] == pytest.approx(expected, rel=1e-6 if exact[0] else 0.05), (hits, n, k, size)
        assert exact[0] or expected > 0.04


def test_a_binomial_stands_in_closely_for_many_hits() -> None:
    n, k, size = [300] * 20, [250] * 20, [11008] * 20
    counts = Counts(np.array([[220.0] + [0.0] * 19]), *(np.array([v], float) for v in (n, k)), np.array(size, float))
    p, exact = upper_tail(counts)
    assert not exact[0] and p[0] == pytest.approx(tail_by_scipy(220, n, k, size), rel=0.02)


def test_odds_and_moments_by_hand() -> None:
    counts = Counts(np.array([[2.0, 1.0]]), np.array([[4.0, 2.0]]), np.array([[3.0, 5.0]]), np.array([10.0, 20.0]))
    top, bottom = 2 * 5 / 10 + 1 * 14 / 20, 2 * 1 / 10 + 1 * 4 / 20
    assert odds_ratio(counts)[0] == pytest.approx(top / bottom)
    mean, variance = moments(counts)
    assert mean[0] == pytest.approx(4 * 3 / 10 + 2 * 5 / 20)
    assert variance[0] == pytest.approx(hypergeom(10, 3, 4).var() + hypergeom(20, 5, 2).var())
    whole = Counts(np.array([[2.0]]), np.array([[2.0]]), np.array([[3.0]]), np.array([10.0]))  # no member without it
    assert odds_ratio(whole)[0] == pytest.approx(2.5 * 7.5 / (0.5 * 1.5))


def test_false_discovery_by_hand() -> None:
    assert false_discovery(np.array([0.03, 0.01, 0.02]), 4) == pytest.approx([0.04, 0.04, 0.04])
    assert false_discovery(np.array([0.5, 0.001]), 10) == pytest.approx([1.0, 0.01])


def test_counts_are_those_of_plain_python(drawn: Path) -> None:  # noqa: F811
    neurons = [n for n in random_tables(1)["neurons"] if n["label"]]
    words = {n["feature_id"]: set(re.findall(r"\w+", n["label"].lower())) for n in neurons}
    in_module = Counter((str(n["top_cluster"]), w) for n in neurons if n["top_cluster"] for w in words[n["feature_id"]])
    with atlas.open(drawn) as a:
        rows = a.enrich(limit=None).rows()
    assert {(r["module"], r["word"]): r["hits"] for r in rows} == {k: v for k, v in in_module.items() if v >= 2}
    for r in rows[:5]:
        n, k, size = ([sum(kept(x, r) for x in neurons if x["layer"] == at) for at in range(5)] for kept in (
            lambda x, r: str(x["top_cluster"]) == r["module"], lambda x, r: r["word"] in words[x["feature_id"]],
            lambda x, r: True))  # fmt: skip
        assert (sum(n), sum(k)) == (r["labelled"], r["background"])
        assert r["p"] == pytest.approx(tail_by_scipy(r["hits"], n, k, size), rel=1e-6 if r["exact"] else 0.05)


def test_a_planted_word_is_found_and_shuffled_labels_find_nothing(tmp_path: Path) -> None:
    tables = random_tables(4)
    members = [n for n in tables["neurons"] if n["top_cluster"] == 2 and n["label"]]
    for n in members[:12]:
        n["label"] += " planted"
    with atlas.open(write_atlas(tmp_path / "planted.duckdb", tables, layers=5, d_mlp=40)) as a:
        best = a.enrich().rows()[0]
        assert (best["module"], best["word"], best["hits"]) == ("2", "planted", 12) and best["fdr"] < 1e-4
        alone = a.enrich("cluster:2").rows()[0]
        assert alone["p"] == pytest.approx(best["p"], rel=1e-9) and alone["fdr"] < best["fdr"]  # fewer tests
        others = [r for r in a.enrich(min_hits=1, limit=None).rows() if r["word"] != "planted"]
    assert min(r["fdr"] for r in others) > 0.05
    assert sum(r["p"] < 0.05 for r in others) <= 0.15 * len(others)  # discrete p: at most the nominal 0.05, 40 tests


def test_p_values_are_calibrated_on_random_modules() -> None:
    rng = np.random.default_rng(5)
    size, n, k, trials = np.array([400.0, 300.0]), np.array([60.0, 40.0]), np.array([80.0, 90.0]), 2000
    hits = np.stack([rng.hypergeometric(int(k[i]), int(size[i] - k[i]), int(n[i]), trials) for i in (0, 1)], axis=1)
    p, _ = upper_tail(Counts(hits.astype(float), np.tile(n, (trials, 1)), np.tile(k, (trials, 1)), size))
    for level in (0.02, 0.1, 0.5):  # discrete: never above the level but for noise, and not far below
        assert 0.5 * level < (p <= level).mean() < level + 3 * np.sqrt(level / trials)


def test_refusals(small: Path, tmp_path: Path) -> None:  # noqa: F811
    with atlas.open(small) as a:
        for wrong in ({"field": "colour"}, {"min_hits": 0}, {"level": 7}):
            with pytest.raises(InputError):
                a.enrich(**wrong)
        with pytest.raises(InputError, match="empty list"):
            a.enrich([])
        assert a.enrich("L2/N0").rows() == []
    tables = random_tables(1)
    tables["clusters"] = []
    none = write_atlas(tmp_path / "none.duckdb", tables, layers=5, d_mlp=40)
    with atlas.open(none) as a, pytest.raises(StoreError, match="atlas cluster run"):
        a.enrich()
