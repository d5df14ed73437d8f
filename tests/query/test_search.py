"""Search by words against a plain Python BM25 over the same texts; filters, pages, phrases, typos, stale index."""

import math
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import duckdb
import pytest
import snowballstemmer
from synthetic import drawn, random_tables, small, small_tables, write_atlas  # noqa: F401

import atlas
from atlas import InputError, StoreError
from atlas.ingest.search_index import build_index, index_state
from atlas.query.search import TEXTS, Where, explain, search_many
from atlas.store.connection import open_writer
from atlas.store.sqlfiles import sql_text

NEURONS = random_tables(1)["neurons"]
STEM = snowballstemmer.stemmer("english").stemWord
MACROS = ("label_search", "label_search_explain", "label_search_many")


def words(text: str | None) -> list[str]:
    return re.findall(r"[^\W_]+", (text or "").lower())


def bm25(query: str, weights: dict[str, float]) -> dict[int, float]:
    """Weighted sums of counts and lengths over the fields; a prefix is one term."""
    documents = {r["feature_id"]: {f: words(r[f]) for f in TEXTS if weights[f]} for r in NEURONS}
    documents = {key: texts for key, texts in documents.items() if any(texts.values())}
    size = {key: sum(weights[f] * len(t) for f, t in texts.items()) for key, texts in documents.items()}
    mean = sum(size.values()) / len(documents)
    scores: dict[int, float] = defaultdict(float)
    for term in {w if w.endswith("*") else STEM(w) for w in query.lower().split()}:
        tf = {key: sum(weights[f] * _count(t, term) for f, t in texts.items()) for key, texts in documents.items()}
        df = sum(n > 0 for n in tf.values())
        idf = math.log(1 + (len(documents) - df + 0.5) / (df + 0.5))
        for key, n in tf.items():
            if n:
                scores[key] += idf * n * 2.2 / (n + 1.2 * (0.25 + 0.75 * size[key] / mean))
    return scores


def _count(text: list[str], term: str) -> int:
    return sum(w.startswith(term[:-1]) if term.endswith("*") else STEM(w) == term for w in text)


def ranked(scores: dict[int, float]) -> list[tuple[int, float]]:
    return sorted(((k, round(s, 8)) for k, s in scores.items()), key=lambda item: (-item[1], item[0]))


def found(answer: Any) -> list[tuple[int, float]]:
    return [(r["feature_id"], round(r["score"], 8)) for r in answer.rows()]


EVEN = dict.fromkeys(TEXTS, 1.0)


@pytest.mark.parametrize(
    "query", ["dog", "dogs", "drugs verb", "French digit comma", "promoted", "d* noun", "about", "co*"]
)
@pytest.mark.parametrize("limit", [1, 3, 20, None])
def test_the_best_are_those_of_plain_bm25(drawn: Path, query: str, limit: int | None) -> None:  # noqa: F811
    with atlas.open(drawn) as a:
        assert found(a.search(query, limit=limit)) == ranked(bm25(query, EVEN))[:limit]


@pytest.mark.parametrize("weights", [{"label": 3.0}, {"label": 0.0, "description": 2.5}])
def test_weights_and_single_fields(drawn: Path, weights: dict[str, float]) -> None:  # noqa: F811
    with atlas.open(drawn) as a:
        one = {f: float(f == "description") for f in TEXTS}
        assert found(a.search("dog verb", field="description", limit=None)) == ranked(bm25("dog verb", one))
        # the size of the corpus and the idf are of all fields whatever their weights
        got = dict(found(a.search("dog verb", field=weights, limit=None)))
        if weights["label"]:
            assert got == pytest.approx(dict(ranked(bm25("dog verb", {**EVEN, **weights}))))
        parts = explain(a, "dog verb", field=weights).rows()
        sums: dict[int, float] = defaultdict(float)
        for row in parts:
            sums[row["feature_id"]] += row["score"]
        assert got == pytest.approx(dict(sums), abs=1e-7)


def test_many_queries_are_answered_as_one_by_one(drawn: Path) -> None:  # noqa: F811
    queries = ["dog", "zzz", "drug verb noun", "c* digit", "dog"]
    with atlas.open(drawn) as a:
        for mode in ("words", "fuzzy"):
            got: dict[int, list[Any]] = defaultdict(list)
            for row in search_many(a, queries, mode=mode, limit=4).rows():
                got[row["asked"]].append((row["feature_id"], round(row["score"], 8)))
            expected = {i: found(a.search(q, mode=mode, limit=4)) for i, q in enumerate(queries, start=1)}
            assert got == {i: rows for i, rows in expected.items() if rows}
        with pytest.raises(InputError, match="query 2: a phrase"):
            search_many(a, ["dog", '"dog cat"'])
        with pytest.raises(InputError, match="one by one"):
            search_many(a, ["dog"], mode="regex")


def test_phrases_prefixes_and_inflections(small: Path) -> None:  # noqa: F811
    with atlas.open(small) as a:
        ids = lambda query, **more: [(r["layer"], r["neuron"]) for r in a.search(query, **more).rows()]  # noqa: E731
        assert ids('"dog words"') == [(0, 0)] and ids('"words dog"') == [] and ids('"dog, words"') == [(0, 0)]
        assert ids('"fires on dog" "the word"') == [(0, 0)]
        assert ids('"words fires"') == []  # not across two fields
        assert ids("dogs") == ids("dog") and ids("promoting") == ids("promotes") != []
        assert (1, 2) in ids("aspir*") and ids("spirin*") == []
        assert ids("asprin", mode="fuzzy") == ids("aspirni", mode="fuzzy") == [(1, 2)] and ids("asprin") == []
        assert ids("SPIRI", mode="substring") == [(1, 2)] and ids("%", mode="substring") == []
        assert ids("'; DROP TABLE neurons; --", mode="substring") == [] and len(ids("dog'; DROP TABLE neurons")) == 4
        assert ids("(a+)+$" + "b" * 40, mode="regex") == []  # RE2 needs linear time
        assert ids('"') if False else ids('dog "') == ids("dog")


def test_pages_scores_and_filters(small: Path) -> None:  # noqa: F811
    with atlas.open(small) as a:
        whole = found(a.search("dog"))
        pages = [found(a.search("dog", where=Where(skip=skip), limit=2)) for skip in (0, 2, 4)]
        assert pages[0] + pages[1] + pages[2] == whole and a.search("dog", where=Where(skip=2), limit=1).total == 4
        least = whole[1][1]
        assert found(a.search("dog", where=Where(min_score=least - 1e-7))) == whole[:2]
        assert found(a.search("dog", where=Where(interpretability="high"))) == whole
        assert found(a.search("dog", where=Where(interpretability="low"))) == []
        both = Where(type="token-pattern", source="rule")  # of one label, not of two
        assert found(a.search("aspirin", where=both)) == []


@pytest.mark.parametrize(
    ("query", "options", "message"),
    [
        ("dog " * 2_500, {}, "a query of 10,000 characters"),
        ("dog", {"field": {"labels": 1}}, "cannot weigh by labels=1"),
        ("((a{100}){100}){100}", {"mode": "regex"}, "not a regular expression"),
        ("[", {"mode": "regex"}, "not a regular expression"),
        ("¿?", {}, "no letter or digit"),
    ],
)
def test_bad_queries_are_one_line(small: Path, query: str, options: Any, message: str) -> None:  # noqa: F811
    with atlas.open(small) as a, pytest.raises(InputError, match=re.escape(message)) as error:
        a.search(query, **options)
    assert "\n" not in str(error.value)


def test_a_stale_index_is_not_used(tmp_path: Path) -> None:
    path = write_atlas(tmp_path / "a.duckdb", small_tables())
    con = open_writer(path)
    assert index_state(con) == "fresh"
    con.execute("UPDATE neurons SET label = 'heron words' WHERE layer = 2 AND neuron = 0")
    assert index_state(con) == "stale"
    con.close()
    with atlas.open(path) as a:
        answer = a.search("heron")
        assert [(r["layer"], r["neuron"]) for r in answer.rows()] == [(2, 0)]
        assert (
            "changed since its word index was made" in answer.warnings[0] and "atlas label index" in answer.warnings[0]
        )
        for mode, query in (("fuzzy", "herom"), ("words", '"heron words"')):
            with pytest.raises(StoreError, match="atlas label index"):
                a.search(query, mode=mode)
    con = open_writer(path)
    build_index(con)
    assert index_state(con) == "fresh"
    con.close()
    with atlas.open(path) as a:
        assert len(a.search("herom", mode="fuzzy")) == 1 and a.search("heron").warnings == ()


def test_an_atlas_without_index_is_scanned(tmp_path: Path, small: Path) -> None:  # noqa: F811
    path = tmp_path / "old.duckdb"
    con = duckdb.connect(str(path))
    con.execute(f"ATTACH '{small}' AS ours (READ_ONLY)")
    con.execute("CREATE TABLE neurons AS FROM ours.neurons")
    con.close()
    with atlas.open(path) as a:
        answer = a.search("aspirin")
        assert "no word index" in answer.warnings[0] and len(answer) == 1
        assert len(a.search("spir", mode="substring")) == 1 and len(a.search("^dog", mode="regex")) == 2


def test_the_index_does_not_depend_on_how_often_it_is_made(tmp_path: Path) -> None:
    con = open_writer(write_atlas(tmp_path / "a.duckdb", small_tables()))
    tables = ("search_words", "search_terms", "search_postings", "search_documents", "search_fields")
    before = [con.execute(f"FROM {table}").fetchall() for table in tables]
    build_index(con)
    assert before == [con.execute(f"FROM {table}").fetchall() for table in tables] and all(before)


def test_the_macros_read_a_query_alike() -> None:
    """A macro cannot call another: what they share is the same text in each."""
    for first, last in (
        ("bases AS (", "FROM bases"),
        ("near AS (", "GROUP BY word, term"),
        ("postings AS NOT", "tf > 0"),
    ):
        parts = {text[text.index(first) : text.index(last)] for text in (sql_text("queries", m) for m in MACROS)}
        assert len(parts) == 1, first
