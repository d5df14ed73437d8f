"""Vectors of texts -> label_texts and label_text_uses: 432 bytes a text, searched in SQL (label_semantic).

The signs of 384 coordinates find the nearest few hundred texts by popcount, a code of 91 levels a coordinate (one
character each: DuckDB reads some hundred strings among 1.6M five times as fast as lists) puts them in order. A mark of
the texts in the metadata tells whether the vectors are of what neurons show now.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import duckdb

from atlas.errors import InputError, StoreError
from atlas.store.ledger import get_metadata, set_metadata
from atlas.store.search_state import text_mark
from atlas.store.sqlfiles import sql_text
from atlas.store.write import append_from_query, replace_from_query, transaction

if TYPE_CHECKING:
    import numpy.typing as npt
    import pyarrow as pa

FIELDS = ("label", "input_label", "output_label")  # descriptions are three times as long and repeat the label
WORDS = 6  # 64-bit words of signs
LEVELS = 45  # of a coordinate on either side of 0: printable characters around "P"
_ZERO = 80  # "P"


class Embedder(Protocol):
    """What is kept of a model of texts; atlas.models.text_embedder has it in full."""

    @property
    def name(self) -> str:
        """The model."""

    @property
    def dimension(self) -> int:
        """Numbers in a vector."""

    @property
    def digest(self) -> str:
        """SHA-256 of the weights."""

    def embed(self, texts: Sequence[str]) -> npt.NDArray[Any]:
        """Float32 [texts, dimension], rows of length 1."""


@dataclass(frozen=True)
class Stored:
    """What the atlas holds now."""

    texts: int
    uses: int
    added: int


def embed_labels(con: duckdb.DuckDBPyConnection, embedder: Embedder, *, fields: Sequence[str] = FIELDS) -> Stored:
    """Embed what has no vector yet, and store it: for atlases of thousands of labels (more: atlas.build.embedding)."""
    texts = missing_texts(con, embedder, fields=fields)
    found = [encode(texts, embedder.embed(texts), dimension=embedder.dimension)] if texts else []
    return store_embeddings(con, found, embedder=embedder, fields=fields)


def missing_texts(con: duckdb.DuckDBPyConnection, embedder: Embedder, *, fields: Sequence[str] = FIELDS) -> list[str]:
    """Distinct texts without a vector of this model, by the alphabet; texts of temp.embedded_texts are passed over."""
    _require(fields)
    con.execute("CREATE TEMP TABLE IF NOT EXISTS embedded_texts (text VARCHAR)")
    values = {"fields": list(fields), "kept": _of_model(con, embedder)}
    return [text for (text,) in con.execute(sql_text("ingest", "label_texts_missing"), values).fetchall()]


def encode(texts: Sequence[str], vectors: npt.NDArray[Any], *, dimension: int) -> pa.Table:
    """Vectors [texts, dimension] -> rows of label_texts without text_id; StoreError when they are no such vectors."""
    import numpy as np
    import pyarrow as pa

    if vectors.shape != (len(texts), dimension) or not np.isfinite(vectors).all() or not vectors.any(axis=1).all():
        raise StoreError(
            f"the embedder gave {vectors.shape} numbers for {len(texts)} texts, expected {dimension} finite ones each, "
            "not all zero; report it to who made the model"
        )
    unit = vectors / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    code = np.rint(unit * (LEVELS / np.abs(unit).max(axis=1, keepdims=True)))
    letters = (code + _ZERO).astype(np.uint8)
    return pa.table(
        {
            "text": pa.array(texts, pa.string()),
            "factor": pa.array(1 / (code * unit).sum(axis=1), pa.float32()),
            "code": pa.array([row.tobytes().decode("ascii") for row in letters], pa.string()),
        }
        | {f"signs_{place}": word for place, word in enumerate(sign_words(unit))}
    )


def sign_words(vectors: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
    """The signs of 384 coordinates of each vector as six int64, the first coordinate in the highest bit."""
    import numpy as np

    signs = np.zeros((len(vectors), 64 * WORDS), bool)
    width = min(vectors.shape[1], signs.shape[1])
    signs[:, :width] = vectors[:, :width] >= 0
    packed = np.packbits(signs, axis=1).reshape(len(vectors), WORDS, 8)
    return [packed[:, place].copy().view(">i8")[:, 0].astype(np.int64) for place in range(WORDS)]


def store_embeddings(
    con: duckdb.DuckDBPyConnection,
    rows: Iterable[pa.Table],
    *,
    embedder: Embedder,
    fields: Sequence[str] = FIELDS,
) -> Stored:
    """Add rows of encode, drop texts that no neuron shows, and note the model; StoreError if a text has no vector."""
    with transaction(con):
        if not _of_model(con, embedder):
            con.execute("DELETE FROM label_texts")
        added = sum(_append(con, batch) for batch in rows)
        uses = replace_from_query(
            con, "label_text_uses", sql_text("ingest", "label_text_uses"), {"fields": list(fields)}
        )
        con.execute("DELETE FROM label_texts WHERE text_id NOT IN (SELECT text_id FROM label_text_uses)")
        set_metadata(con, _facts(embedder, fields) | {"label_embedding_texts": text_mark(con)})
        if left := missing_texts(con, embedder, fields=fields):
            raise StoreError(f"{len(left):,} texts have no vector, first {left[0][:60]!r}: labels changed meanwhile")
        texts = int(con.execute("SELECT count(*) FROM label_texts").fetchall()[0][0])
    return Stored(texts, uses, added)


def _require(fields: Sequence[str]) -> None:
    known = (*FIELDS, "description")
    if unknown := [field for field in fields if field not in known]:
        raise InputError(f"no field {unknown[0]!r} to embed; use {', '.join(known[:-1])} or {known[-1]}")
    if not fields:
        raise InputError(f"no field to embed; use some of {', '.join(known)}")


def _of_model(con: duckdb.DuckDBPyConnection, embedder: Embedder) -> bool:
    """Whether the stored vectors are this model's."""
    stored = get_metadata(con)
    return (stored.get("label_embedding_sha256"), stored.get("label_embedding_dimension")) == (
        embedder.digest,
        str(embedder.dimension),
    )


def _append(con: duckdb.DuckDBPyConnection, batch: pa.Table) -> int:
    """Texts that are there already are passed over: a stopped run may have stored them."""
    con.register("incoming_texts", batch)
    added = append_from_query(
        con,
        "label_texts",
        "SELECT *, (row_number() OVER (ORDER BY text) + (SELECT coalesce(max(text_id), -1) FROM label_texts))::INTEGER "
        "AS text_id FROM incoming_texts AS i "
        "WHERE NOT EXISTS (FROM label_texts AS t WHERE t.text = i.text) ORDER BY text",
    )
    con.unregister("incoming_texts")
    return added


def _facts(embedder: Embedder, fields: Sequence[str]) -> dict[str, object]:
    return {
        "label_embedding_model": embedder.name,
        "label_embedding_dimension": embedder.dimension,
        "label_embedding_sha256": embedder.digest,
        "label_embedding_fields": ",".join(fields),
    }
