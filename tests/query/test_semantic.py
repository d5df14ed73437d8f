"""Search by meaning against brute force over the vectors, with every filter; what is said without vectors."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic import WordEmbedder, drawn, random_tables, small  # noqa: F401

import atlas
from atlas.errors import InputError, StoreError
from atlas.ingest.label_embeddings import embed_labels
from atlas.query import semantic as module
from atlas.query.atlas import Atlas
from atlas.query.search import Where
from atlas.query.semantic import like, semantic
from atlas.store.connection import open_writer
from atlas.store.sqlfiles import sql_text

EMBEDDED = ("label", "input_label", "output_label")


@pytest.fixture(autouse=True)
def embedder(monkeypatch: pytest.MonkeyPatch) -> WordEmbedder:
    monkeypatch.setattr(module, "_embedder", lambda name: WordEmbedder())
    return WordEmbedder()


@pytest.fixture
def a(drawn: Path) -> Iterator[Atlas]:  # noqa: F811
    with atlas.open(drawn) as opened:
        yield opened


def texts_of(row: dict[str, Any], field: str) -> list[str]:
    return [row[name] for name in EMBEDDED if row[name] and field in ("all", name)]


def brute(query: str, *, field: str = "all", keep: Any = lambda row: True) -> dict[tuple[int, int], float]:
    """Cosine of the best text of every neuron that passes, by the vectors themselves."""
    asked = WordEmbedder().embed([query])[0]
    found = {}
    for row in random_tables(1)["neurons"]:
        if (texts := texts_of(row, field)) and keep(row):
            found[row["layer"], row["neuron"]] = float((WordEmbedder().embed(texts) @ asked).max())
    return found


def scores(answer: Any) -> dict[tuple[int, int], float]:
    return {(row["layer"], row["neuron"]): row["score"] for row in answer.rows()}


FILTERS = [
    (Where(), lambda row: True),
    (Where(layers=(1, 2)), lambda row: row["layer"] in (1, 2)),
    (Where(cluster="2"), lambda row: (row["cluster_path"] or "").split(".")[0] == "2"),
    (Where(cluster="2.1", layers=(0, 3)), lambda row: row["cluster_path"] == "2.1" and row["layer"] < 4),
]


@pytest.mark.parametrize(("where", "keep"), FILTERS, ids=["all", "layers", "cluster", "cluster and layers"])
@pytest.mark.parametrize("field", ["all", "label", "output_label"])
def test_scores_are_the_cosines_of_the_vectors(a: Atlas, where: Where, keep: Any, field: str) -> None:
    expected = brute("dog and French cat", field=field, keep=keep)
    found = scores(semantic(a, "dog and French cat", field=field, where=where, limit=None))
    assert found.keys() == expected.keys() and found
    for key, cosine in expected.items():
        assert found[key] == pytest.approx(cosine, abs=0.01)  # 91 levels a coordinate


def test_a_limit_takes_the_first_of_the_whole_order(a: Atlas) -> None:
    whole = semantic(a, "digit comma", limit=None).rows()
    order = [(-row["score"], row["layer"], row["neuron"]) for row in whole]
    assert order == sorted(order)
    assert semantic(a, "digit comma", limit=7).rows() == whole[:7]
    assert semantic(a, "digit comma", limit=7).total == len(whole)


def test_the_matching_field_is_named(a: Atlas) -> None:
    for row in semantic(a, "promotes verb", limit=5).rows():
        best = WordEmbedder().embed([row[row["field"]]])[0] @ WordEmbedder().embed(["promotes verb"])[0]
        assert row["score"] == pytest.approx(float(best), abs=0.01)


def test_label_types_and_sources_filter(small: Path) -> None:  # noqa: F811
    with atlas.open(small) as opened:
        assert scores(semantic(opened, "drugs", where=Where(source="llm"))).keys() == {(1, 2)}
        assert scores(semantic(opened, "drugs", where=Where(type="token-pattern"))).keys() == {(1, 2)}
        assert len(scores(semantic(opened, "drugs", where=Where(source="rule")))) == 6
        assert scores(semantic(opened, "drugs", where=Where(source="manual"))) == {}


def test_at_least_score_and_the_pool(a: Atlas) -> None:
    vector = WordEmbedder().embed(["dog"])[0].tolist()
    whole = a.ask("label_semantic", {"of_vector": vector, "max_rows": None}).rows()
    some = a.ask("label_semantic", {"of_vector": vector, "max_rows": None, "at_least_score": 0.5}).rows()
    assert some == [row for row in whole if row["score"] >= 0.5] != []
    pooled = a.ask("label_semantic", {"of_vector": vector, "max_rows": 3, "of_pool": 6}).rows()
    assert len(pooled) == 3 and pooled[0]["score"] <= whole[0]["score"]


def test_the_sign_words_in_sql_are_those_in_the_file(a: Atlas) -> None:
    """Among all texts the one with no differing sign is the text itself."""
    text, vector = a.sql("FROM label_vector(0, 1)").fetchall()[0][1:]
    assert WordEmbedder().embed([text])[0] == pytest.approx(vector, abs=0.01)
    found = a.ask("label_semantic", {"of_vector": vector, "of_pool": 1, "max_rows": 1}).rows()
    assert text in (found[0]["label"], found[0]["input_label"], found[0]["output_label"])


def test_like_is_the_search_with_the_stored_vector_without_the_neuron(a: Atlas) -> None:
    key = next(key for key in brute("x"))
    vector = a.ask("label_vector", {"of_layer": key[0], "of_neuron": key[1]}).rows()[0]["vector"]
    whole = a.ask("label_semantic", {"of_vector": vector, "max_rows": None}).rows()
    found = like(a, key, limit=None).rows()
    assert found == [row for row in whole if (row["layer"], row["neuron"]) != key]
    assert len(found) == len(whole) - 1


def test_like_and_semantic_are_one_search() -> None:
    """What follows the vector is the same text in both macros, but for the neuron that is left out."""

    def rest(name: str) -> list[str]:
        return sql_text("queries", name).split("), signs AS MATERIALIZED (")[1].splitlines()

    assert [line for line in rest("label_like") if "IS DISTINCT FROM (of_layer" not in line] == rest("label_semantic")


def test_a_plain_client_asks_without_this_package(small: Path) -> None:  # noqa: F811
    import duckdb

    con = duckdb.connect(str(small), read_only=True)
    assert con.execute("SELECT label FROM label_like(0, 0)").fetchall()[0] == ("dog dog dog",)
    moved = "SELECT list_transform(list_zip(a.vector, b.vector), lambda p: p[1] - p[2]) FROM label_vector(0, 0) AS a, "
    assert con.execute(f"FROM label_semantic(({moved} label_vector(0, 1) AS b))").fetchall()
    con.close()


def test_bad_input(a: Atlas) -> None:
    with pytest.raises(InputError, match="empty query"):
        semantic(a, "  ")
    with pytest.raises(InputError, match="has vectors of label, input_label, output_label, not of 'description'"):
        semantic(a, "dog", field="description")
    unlabelled = next((r["layer"], r["neuron"]) for r in random_tables(1)["neurons"] if not r["label"])
    with pytest.raises(InputError, match="has no label to be like"):
        like(a, unlabelled)
    with pytest.raises(InputError):
        like(a, "L99/N0")
    assert len(semantic(a, "'; DROP TABLE neurons; -- " * 400, limit=3)) == 3  # 10,000 characters


def change(source: Path, target: Path, *statements: str) -> Path:
    shutil.copyfile(source, target)
    con = open_writer(target)
    for statement in statements:
        con.execute(statement)
    con.close()
    return target


def test_vectors_of_other_texts_are_never_used(small: Path, tmp_path: Path) -> None:  # noqa: F811
    stale = change(small, tmp_path / "stale.duckdb", "UPDATE neurons SET label = 'new words' WHERE feature_id = 0")
    with atlas.open(stale) as opened:
        with pytest.raises(StoreError, match="changed since they were embedded"):
            semantic(opened, "dog")
        with pytest.raises(StoreError, match=r"atlas label embed .*stale.duckdb"):
            like(opened, (0, 1))
    con = open_writer(stale)
    embed_labels(con, WordEmbedder())
    con.close()
    with atlas.open(stale) as opened:
        assert semantic(opened, "new words").rows()[0]["label"] == "new words"


def test_an_atlas_without_vectors_says_how_to_make_them(small: Path, tmp_path: Path) -> None:  # noqa: F811
    bare = change(small, tmp_path / "bare.duckdb", "DELETE FROM metadata WHERE key LIKE 'label_embedding%'")
    with (
        atlas.open(bare) as opened,
        pytest.raises(StoreError, match=r'has no vectors of its labels.*"atlas label embed'),
    ):
        semantic(opened, "dog")
    old = change(small, tmp_path / "old.duckdb", "DROP TABLE label_texts", "UPDATE metadata SET value = '11' "
                 "WHERE key = 'schema_version'")  # fmt: skip
    with atlas.open(old) as opened, pytest.raises(StoreError, match="has no vectors of its labels"):
        like(opened, (0, 0))


def test_a_query_by_another_model_is_refused(a: Atlas, monkeypatch: pytest.MonkeyPatch) -> None:
    other = WordEmbedder()
    monkeypatch.setattr(other, "digest", "1" * 64, raising=False)
    monkeypatch.setattr(module, "_embedder", lambda name: other)
    with pytest.raises(StoreError, match="other weights of words"):
        semantic(a, "dog")


def test_the_nearest_ten_among_many_are_those_of_exact_cosine(tmp_path: Path) -> None:
    """Recall of the signs and of the codes on 4,000 drawn texts of 384 coordinates in clumps, as labels are."""
    from atlas.ingest.label_embeddings import encode, store_embeddings

    dice = np.random.default_rng(0)

    class Clumps:
        name, dimension, digest = "clumps", 384, "2" * 64

        def embed(self, texts: Any) -> Any:
            raise NotImplementedError

    vectors = dice.standard_normal((100, 384))[dice.integers(0, 100, 4000)] + 0.7 * dice.standard_normal((4000, 384))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    con = _many(file := tmp_path / "many.duckdb", 4000)
    store_embeddings(con, [encode([f"text {i}" for i in range(4000)], vectors, dimension=384)], embedder=Clumps())
    con.close()
    hits = 0
    with atlas.open(file) as opened:
        for probe in range(0, 4000, 200):
            exact = np.argsort(-(vectors @ vectors[probe]), kind="stable")[:10].tolist()
            rows = opened.ask("label_semantic", {"of_vector": vectors[probe].tolist(), "max_rows": 10}).rows()
            hits += len(set(exact) & {row["neuron"] for row in rows})
    assert hits / 200 >= 0.95


def _many(file: Path, count: int) -> Any:
    from atlas.store.ledger import set_metadata
    from atlas.store.schema import apply_schema

    con = open_writer(file)
    apply_schema(con, d_mlp=count)
    set_metadata(con, {"num_layers": 1, "neurons_per_layer": count, "model": "toy"})
    con.execute(
        "INSERT INTO neurons BY NAME SELECT 0 AS layer, range::INT AS neuron, range AS feature_id, "
        f"'text ' || range AS label FROM range({count})"
    )
    return con
