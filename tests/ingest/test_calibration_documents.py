"""Which documents the scores were made on, and what a text to judge pruning on may be."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from synthetic import small, small_tables, write_atlas  # noqa: F401

from atlas.errors import InputError
from atlas.ingest import calibration
from atlas.ingest.calibration import fresh_documents, has_hashes, overlap, store_documents, text_sha256
from atlas.store.connection import open_reader, open_writer
from atlas.store.schema import apply_schema


@pytest.fixture
def con(tmp_path: Path):
    connection = open_writer(tmp_path / "calibration.duckdb")
    apply_schema(connection, d_mlp=4)
    yield connection
    connection.close()


def test_every_text_once_per_role_and_no_empty_one(con, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "_AT_ONCE", 2)  # three texts: a full chunk and a part
    rows = store_documents(con, {"activations": ["a", "ü", "", "a"], "gradients": ["a"]})
    expected = [("activations", hashlib.sha256(t.encode()).hexdigest()) for t in ("a", "ü")]
    expected.append(("gradients", hashlib.sha256(b"a").hexdigest()))
    assert con.execute("FROM calibration_documents").fetchall() == sorted(expected)
    assert rows == 3
    assert store_documents(con, {"gradients": ["b"]}) == 1  # replaced, not added
    assert con.execute("SELECT count(*) FROM calibration_documents").fetchall() == [(1,)]


def test_overlap_is_with_the_gradient_pass_where_there_was_one(con) -> None:
    asked = [text_sha256(text) for text in ("c", "b", "a", "b")]
    store_documents(con, {"activations": ["a", "b"], "gradients": ["b"]})
    assert overlap(con, asked) == [asked[1], asked[3]]
    store_documents(con, {"activations": ["a", "b"]})
    assert overlap(con, asked) == asked[1:]
    assert overlap(con, []) == []


def test_a_text_that_was_scored_on_is_refused_or_left_out(small: Path) -> None:  # noqa: F811
    con = open_reader(small)
    texts = ["the dog runs", "the cat runs", "new"]
    with pytest.raises(InputError, match=r"1 of 3 documents .*--skip-calibration"):
        fresh_documents(con, texts)
    assert fresh_documents(con, texts, skip=True) == (["the cat runs", "new"], 1)
    assert fresh_documents(con, ["new"]) == (["new"], 0)
    with pytest.raises(InputError, match="all 1 documents are calibration documents"):
        fresh_documents(con, ["the dog runs"], skip=True)
    with pytest.raises(InputError, match="--skip-calibration"):  # vouching does not undo what the atlas knows
        fresh_documents(con, texts, vouched=True)


def test_an_atlas_that_does_not_say_needs_somebody_who_vouches(tmp_path: Path) -> None:
    tables = {**small_tables(), "calibration_documents": []}
    con = open_reader(write_atlas(tmp_path / "a.duckdb", tables))
    assert not has_hashes(con) and overlap(con, [text_sha256("the dog runs")]) == []
    with pytest.raises(InputError, match="--fresh"):
        fresh_documents(con, ["the dog runs"])
    assert fresh_documents(con, ["the dog runs"], vouched=True) == (["the dog runs"], 0)
    con.close()


def test_a_file_of_an_older_schema_does_not_say(tmp_path: Path) -> None:
    con = open_writer(tmp_path / "old.duckdb")
    apply_schema(con, d_mlp=4)
    con.execute("DROP TABLE calibration_documents")
    assert not has_hashes(con) and overlap(con, ["00"]) == []
    con.close()
