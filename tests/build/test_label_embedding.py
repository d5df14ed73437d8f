"""`atlas label embed`: only new texts, each once; goes on after a stop; leaves the atlas whole when something fails."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from synthetic import LABELS, WordEmbedder, small_tables, write_atlas

import atlas
from atlas.build import label_embedding
from atlas.build.label_embedding import embed_atlas
from atlas.build.revision import stamp
from atlas.errors import InputError, StoreError
from atlas.ingest.label_embeddings import encode
from atlas.store.connection import open_writer

SHOWN = {text for texts in LABELS.values() for text in (texts[0], *texts[2:]) if text}


class Other(WordEmbedder):
    """Another model, which remembers what it was asked."""

    digest = "1" * 64

    def __init__(self) -> None:
        self.asked: list[str] = []

    def embed(self, texts: Sequence[str]) -> Any:
        self.asked += texts
        return super().embed(texts)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_atlas(tmp_path / "toy.duckdb", small_tables())


def rows(file: Path, query: str) -> list[tuple[Any, ...]]:
    with atlas.open(file) as opened:
        return opened.sql(query).fetchall()


def change(file: Path, statement: str) -> None:
    con = open_writer(file)
    con.execute(statement)
    con.close()


def test_each_distinct_text_is_embedded_once(file: Path) -> None:
    model = Other()
    done = embed_atlas(file, model)
    assert sorted(model.asked) == sorted(SHOWN)
    assert done.stored and done.missing == done.stored.texts == len(SHOWN)
    used = {(field, layer, neuron, text) for field, layer, neuron, text in rows(
        file, "SELECT field, layer, neuron, text FROM label_text_uses JOIN label_texts USING (text_id)")}  # fmt: skip
    fields = ("label", "description", "input_label", "output_label")
    expected = {(f, *key, text) for key, texts in LABELS.items() for f, text in zip(fields, texts, strict=True) if text}
    assert used == {row for row in expected if row[0] != "description"}
    assert not file.with_name("toy.duckdb.embeddings").exists()


def test_a_second_run_has_nothing_to_do_and_does_not_write(file: Path) -> None:
    embed_atlas(file, Other())
    before, again = stamp(file), Other()
    assert embed_atlas(file, again).stored is None
    assert again.asked == [] and stamp(file) == before


def test_only_new_texts_are_embedded_and_unused_ones_go(file: Path) -> None:
    embed_atlas(file, Other())
    change(file, "UPDATE neurons SET label = 'brackets' WHERE label = 'cat words'")
    model = Other()
    done = embed_atlas(file, model)
    assert model.asked == ["brackets"] and done.missing == 1
    texts = {text for (text,) in rows(file, "SELECT text FROM label_texts")}
    assert texts == SHOWN - {"cat words"} | {"brackets"}


def test_another_model_embeds_everything_anew(file: Path) -> None:
    with atlas.open(file) as opened:
        assert opened.metadata["label_embedding_model"] == "words"
    model = Other()
    embed_atlas(file, model)
    with atlas.open(file) as opened:
        assert opened.metadata["label_embedding_sha256"] == model.digest
    assert len(model.asked) == len(SHOWN)


def test_more_fields_on_request(file: Path) -> None:
    embed_atlas(file, Other())
    model = Other()
    embed_atlas(file, model, fields=("label", "input_label", "output_label", "description"))
    assert sorted(model.asked) == sorted({texts[1] for texts in LABELS.values() if texts[1]})
    with pytest.raises(InputError, match="no field 'name' to embed"):
        embed_atlas(file, model, fields=("name",))


def test_a_stopped_run_goes_on_where_it_was(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_embedding, "_AT_ONCE", 4)

    class Stopped(Other):
        def embed(self, texts: Sequence[str]) -> Any:
            if len(self.asked) >= 8:
                raise KeyboardInterrupt
            return super().embed(texts)

    first = Stopped()
    with pytest.raises(KeyboardInterrupt):
        embed_atlas(file, first)
    assert rows(file, "SELECT value FROM metadata WHERE key = 'label_embedding_sha256'") == [("0" * 64,)]
    second = Other()
    done = embed_atlas(file, second)
    assert len(first.asked) == 8 and set(first.asked).isdisjoint(second.asked)
    assert sorted(first.asked + second.asked) == sorted(SHOWN)
    assert done.resumed == 8 and done.stored and done.stored.texts == len(SHOWN)


def test_parts_that_were_stored_before_the_kill_are_not_stored_twice(file: Path) -> None:
    parts = file.with_name("toy.duckdb.embeddings")
    embed_atlas(file, Other())
    import pyarrow.parquet as pq

    parts.mkdir()
    texts = sorted(SHOWN)
    pq.write_table(encode(texts, Other().embed(texts), dimension=96), parts / f"{Other.digest[:12]}-x.parquet")
    embed_atlas(file, Other())
    assert rows(file, "SELECT count(*), count(DISTINCT text) FROM label_texts") == [(len(SHOWN), len(SHOWN))]
    assert not parts.exists()


@pytest.mark.parametrize("spoil", [lambda v: v * float("nan"), lambda v: v[:, :5], lambda v: v * 0])
def test_vectors_that_are_none_are_refused(file: Path, spoil: Callable[[Any], Any]) -> None:
    class Broken(Other):
        def embed(self, texts: Sequence[str]) -> Any:
            return spoil(super().embed(texts))

    before = file.read_bytes()
    with pytest.raises(StoreError, match="the embedder gave"):
        embed_atlas(file, Broken())
    assert file.read_bytes() == before


def test_an_atlas_without_labels_is_refused(file: Path) -> None:
    change(file, "UPDATE neurons SET label = NULL, input_label = ' ', output_label = NULL")
    with pytest.raises(InputError, match=r'no neuron of toy.duckdb shows a text.*"atlas label'):
        embed_atlas(file, Other())
    with pytest.raises(InputError, match="no atlas at"):
        embed_atlas(file.with_name("none.duckdb"), Other())
