"""Hybrid search: its scores by hand from the three searches, filters, pages, and what it needs."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from synthetic import WordEmbedder, drawn, small  # noqa: F401

import atlas
from atlas.errors import StoreError
from atlas.query import semantic as module
from atlas.query.atlas import Atlas
from atlas.query.search import Where
from atlas.store.connection import open_writer

QUERY = "dog French brakcet"


@pytest.fixture(autouse=True)
def embedder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_embedder", lambda name: WordEmbedder())


@pytest.fixture
def a(drawn: Path) -> Iterator[Atlas]:  # noqa: F811
    with atlas.open(drawn) as opened:
        yield opened


def by_hand(a: Atlas, query: str, where: Where | None = None) -> list[tuple[int, float]]:
    """meaning + 0.3 max(words, 0.8 fuzzy); words and fuzzy over their best, times the square of the share of words."""
    rows = {mode: a.search(query, mode=mode, where=where, limit=None).rows() for mode in ("words", "fuzzy", "semantic")}
    words = len(query.split())
    part: dict[str, dict[int, float]] = {}
    for mode in ("words", "fuzzy"):
        best = max((row["score"] for row in rows[mode]), default=1)
        part[mode] = {
            row["feature_id"]: row["score"] / best * min(1, row["n_terms"] / words) ** 2 for row in rows[mode]
        }
    meaning = {row["feature_id"]: row["score"] for row in rows["semantic"]}
    least = min(meaning.values())
    found = {}
    for key in meaning.keys() | part["words"].keys() | part["fuzzy"].keys():
        extra = max(part["words"].get(key, 0), 0.8 * part["fuzzy"].get(key, 0))
        found[key] = meaning.get(key, least) + 0.3 * extra
    return sorted(found.items(), key=lambda item: (-round(item[1], 6), item[0]))


@pytest.mark.parametrize("where", [None, Where(layers=(1, 3)), Where(cluster="2")], ids=str)
def test_the_score_is_the_sum_of_its_parts(a: Atlas, where: Where | None) -> None:
    expected = by_hand(a, QUERY, where)
    found = a.search(QUERY, mode="hybrid", where=where, limit=None).rows()
    assert {row["feature_id"] for row in found} == {key for key, _ in expected}
    for row, (_, score) in zip(found, expected, strict=True):
        assert row["score"] == pytest.approx(score, abs=2e-6)
        extra = max(row["words"], 0.8 * row["fuzzy"])
        assert row["score"] == pytest.approx(row["meaning"] + 0.3 * extra, abs=2e-6)


def test_words_that_match_add_to_the_meaning(a: Atlas) -> None:
    first = a.search("French", mode="hybrid", limit=1).rows()[0]
    assert first["words"] == 1 and "French" in f"{first['label']} {first['description']} {first['output_label']}"
    typo = a.search("Frnech", mode="hybrid", limit=1).rows()[0]
    assert typo["fuzzy"] > 0.5 and "French" in f"{typo['label']} {typo['description']} {typo['output_label']}"


def test_pages_and_lowest_scores(a: Atlas) -> None:
    whole = a.search(QUERY, mode="hybrid", limit=30).rows()
    assert a.search(QUERY, mode="hybrid", where=Where(skip=10), limit=5).rows() == whole[10:15]
    bound = whole[9]["score"]
    some: list[Any] = a.search(QUERY, mode="hybrid", where=Where(min_score=bound), limit=None).rows()
    assert [row["feature_id"] for row in some][:10] == [row["feature_id"] for row in whole][:10]
    assert all(row["score"] >= bound for row in some)


def test_it_needs_the_word_index_and_the_vectors(small: Path, tmp_path: Path) -> None:  # noqa: F811
    for key, says in (("search_index", "atlas label index"), ("label_embedding_texts", "atlas label embed")):
        file = Path(shutil.copyfile(small, tmp_path / f"{key}.duckdb"))
        con = open_writer(file)
        con.execute("DELETE FROM metadata WHERE key = $1", [key])
        con.close()
        with atlas.open(file) as opened, pytest.raises(StoreError, match=says):
            opened.search("dog", mode="hybrid")
