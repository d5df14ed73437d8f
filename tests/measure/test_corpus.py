"""Corpus files -> documents -> contexts, and every way in which a file can be wrong."""

from __future__ import annotations

import hashlib
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas.errors import InputError
from atlas.measure.batches import Reading, batches_of, shard_documents
from atlas.measure.corpus import Corpus, context_length, contexts, read_corpus
from atlas.neuron import ModelSpec
from atlas.shards import Shard
from atlas.tables import CONTEXTS_PER_DOCUMENT

SPEC = ModelSpec("m", "r", "a", 2, 4, 8, 30, 16, True, "pre")


class Words:
    """Tokens are decimal words."""

    def __init__(self, bos: int | None) -> None:
        self.bos_token_id = bos

    def __call__(self, texts: list[str], *, add_special_tokens: bool, verbose: bool) -> dict[str, Any]:
        assert not add_special_tokens
        return {"input_ids": [[int(word) for word in text.split()] for text in texts]}


def written(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("c.json", json.dumps(["one\n\ntwo", "", "drei ü"])),
        ("c.json", json.dumps([{"text": "one\n\ntwo"}, {"text": "", "id": 3}, {"text": "drei ü"}])),
        ("c.jsonl", '"one\\n\\ntwo"\n{"text": ""}\n\n{"text": "drei ü", "x": 1}\n'),
        ("c.jsonl", '"one\\n\\ntwo"\r\n{"text": ""}\r\n{"text": "drei ü\\u2028"}'.replace("\\u2028", "")),
    ],
)
def test_json_forms(tmp_path: Path, name: str, content: str) -> None:
    path = written(tmp_path, name, content)
    corpus = read_corpus(path)
    assert list(corpus.documents) == ["one\n\ntwo", "", "drei ü"]
    assert corpus.name == "c"
    assert corpus.sha256 == hashlib.sha256(content.encode()).hexdigest()
    assert list(read_corpus(path, limit=1).documents) == ["one\n\ntwo"]


def test_json_lines_may_hold_line_separators(tmp_path: Path) -> None:
    path = written(tmp_path, "c.jsonl", json.dumps({"text": "a\u2028b"}, ensure_ascii=False) + "\n")
    assert list(read_corpus(path).documents) == ["a\u2028b"]


def test_text_is_split_at_blank_lines_or_kept_whole(tmp_path: Path) -> None:
    path = written(tmp_path, "c.txt", "\ufeffa\nb\n\n \t\n  c\r\n\r\nd")
    assert list(read_corpus(path).documents) == ["a\nb", "  c", "d"]
    assert list(read_corpus(path, whole_file=True).documents) == ["a\nb\n\n \t\n  c\r\n\r\nd"]


def test_parquet(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": [1, 2], "text": ["a", None]}), tmp_path / "c.parquet")
    assert list(read_corpus(tmp_path / "c.parquet").documents) == ["a", ""]


def paragraphs(text: str) -> list[str]:
    """Blank lines separate documents: the whole text at once."""
    parts: list[list[str]] = [[]]
    for line in text.splitlines(keepends=True):
        if line.strip():
            parts[-1].append(line)
        elif parts[-1]:
            parts.append([])
    return ["".join(part).rstrip("\r\n") for part in parts if part]


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from("ab ü\n\n\n\r\t\x0c\u2028\x85"), max_size=40), st.booleans())
def test_text_read_on_demand_equals_text_read_at_once(
    tmp_path_factory: pytest.TempPathFactory, text: str, mark: bool
) -> None:
    path = tmp_path_factory.mktemp("t") / "c.txt"
    path.write_bytes(text.encode("utf-8-sig" if mark else "utf-8"))
    expected = paragraphs(text)
    if not expected:
        with pytest.raises(InputError, match="is empty"):
            read_corpus(path)
        return
    documents = read_corpus(path).documents
    assert list(documents) == expected
    assert [documents[i] for i in range(len(documents))] == expected
    assert documents[1:3] == expected[1:3] and documents[::-2] == expected[::-2] and documents[9:] == expected[9:]
    assert list(read_corpus(path, limit=2).documents) == expected[:2]


@pytest.mark.parametrize("limit", [None, 700, 50])
def test_parquet_is_read_by_row_groups(tmp_path: Path, limit: int | None) -> None:
    texts = [f"text {i}" if i % 7 else None for i in range(1000)]
    pq.write_table(pa.table({"text": texts, "id": range(1000)}), tmp_path / "c.parquet", row_group_size=300)
    documents = read_corpus(tmp_path / "c.parquet", limit=limit).documents
    expected = [text or "" for text in texts][:limit]
    assert list(documents) == expected
    for span in (slice(0, 5), slice(290, 310), slice(299, 300), slice(250, 900), slice(999, 1000), slice(3, 3)):
        assert documents[span] == expected[span]
    assert documents[-1] == expected[-1]


def test_a_file_that_changes_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, "c.jsonl", '"a"\n"b"\n')
    documents = read_corpus(path).documents
    assert documents[1] == "b"
    written(tmp_path, "c.jsonl", '"a"\n"bb"\n')
    with pytest.raises(InputError, match="has changed"):
        documents[1:]


def test_an_index_not_the_texts_is_held(tmp_path: Path) -> None:
    path = written(tmp_path, "c.jsonl", (json.dumps("x" * 1000) + "\n") * 20000)
    tracemalloc.start()
    documents = read_corpus(path).documents
    read = sum(len(text) for first in range(0, 20000, 100) for text in documents[first : first + 100])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert read == 20_000_000 and peak < 2_000_000


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("c.json", "", "is empty"),
        ("c.txt", " \n\n", "is empty"),
        ("c.json", "[]", "holds no text"),
        ("c.json", '["", ""]', "holds no text"),
        ("c.json", '["a", "b', "character 6 of 8"),
        ("c.jsonl", '"a"\n{"text": "b', "line 2: "),
        ("c.json", '{"text": "a"}', "JSON dict, expected a list"),
        ("c.json", '["a", {"body": "b"}]', "document 1: expected .* object with body"),
        ("c.jsonl", '"a"\n3', "line 2: .* found int"),
        ("c.json", '[{"text": null}]', "document 0"),
        ("c.txt", b"ab\xff\xfe", "byte 0xff at position 2"),
        ("c.parquet", b"no parquet", "not a readable Parquet"),
    ],
)
def test_wrong_files_are_named(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    path = written(tmp_path, name, content)
    with pytest.raises(InputError, match=message) as caught:
        read_corpus(path)
    assert str(path) in str(caught.value)


def test_wrong_parquet_columns(tmp_path: Path) -> None:
    pq.write_table(pa.table({"body": ["a"]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"text": [1]}), tmp_path / "b.parquet")
    with pytest.raises(InputError, match="no column `text`, only body"):
        read_corpus(tmp_path / "a.parquet")
    with pytest.raises(InputError, match="column `text` is int64"):
        read_corpus(tmp_path / "b.parquet")


def test_missing_file_limit_and_context_length(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no corpus file"):
        read_corpus(tmp_path / "none.json")
    with pytest.raises(InputError, match="limit is 0"):
        read_corpus(written(tmp_path, "c.txt", "a"), limit=0)
    assert context_length(SPEC, None) == 16
    with pytest.raises(InputError, match="context length 17 is longer than the 16 of m"):
        context_length(SPEC, 17)
    with pytest.raises(InputError, match="too short"):
        context_length(SPEC, 1)


def test_contexts_start_with_bos_and_never_mix_documents() -> None:
    texts = ["5 6 7 8 9", "", "10", "11 12"]
    found = list(contexts(texts, Words(1), first=40, length=3))
    assert [(c.document, c.offset, c.token_ids) for c in found] == [
        (40, 0, (1, 5, 6)),
        (40, 2, (1, 7, 8)),
        (40, 4, (1, 9)),
        (42, 0, (1, 10)),
        (43, 0, (1, 11, 12)),
    ]
    assert [c.context_id - c.document * CONTEXTS_PER_DOCUMENT for c in found] == [0, 1, 2, 0, 0]
    for plain in (contexts(texts, Words(None), length=3), contexts(texts, Words(1), length=3, bos="never")):
        assert [c.token_ids for c in plain] == [(5, 6, 7), (8, 9), (10,), (11, 12)]
    with pytest.raises(InputError, match="no tokenizer"):
        next(contexts(texts, None, length=3))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(1, 9), max_size=12), min_size=1, max_size=8), st.integers(1, 40), st.booleans())
def test_batches_hold_every_position_once(documents: list[list[int]], batch_tokens: int, skip: bool) -> None:
    found = list(contexts([" ".join(map(str, d)) for d in documents], Words(1), length=6))
    batches = list(batches_of(found, 1, Reading(6, batch_tokens, 4, skip)))
    expected = {
        (c.context_id, p, t) for c in found for p, t in enumerate(c.token_ids) if not skip or (p > 0 and t != 1)
    }
    seen = [
        key for b in batches for key in zip(b.context_id.tolist(), b.position.tolist(), b.token.tolist(), strict=True)
    ]
    assert sorted(seen) == sorted(expected)
    for batch in batches:
        assert batch.input_ids.size <= batch_tokens or len(batch.contexts) == 1
        assert (batch.input_ids.reshape(-1)[batch.rows] == batch.token).all()


@given(st.integers(1, 50), st.integers(1, 9), st.integers(1, 12))
def test_shards_are_whole_blocks_and_cover_the_corpus(documents: int, block: int, of: int) -> None:
    corpus = Corpus("c", ["x"] * documents, "0")
    spans = [shard_documents(corpus, Shard("f", i, of), Reading(6, 8, block, True)) for i in range(of)]
    assert [d for span in spans for d in span] == list(range(documents))
    assert all(span.start % block == 0 or not span for span in spans)
