"""An atlas and a model of texts -> the same atlas with a vector of every distinct label, only new texts embedded.

Vectors are kept beside the atlas (ATLAS.embeddings, a file per 8,192 texts) until the atlas is written once, by copy,
change, check and rename: after a kill the same command goes on where it was.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from atlas.build.measurement import explain
from atlas.build.revision import revise
from atlas.errors import InputError
from atlas.ingest.label_embeddings import FIELDS, Stored, encode, missing_texts, store_embeddings
from atlas.models.text_embedder import TextEmbedder
from atlas.progress import Progress, Quiet
from atlas.query.atlas import Atlas
from atlas.store.connection import Limits, existing
from atlas.store.label_vectors import embedding_state

if TYPE_CHECKING:
    import pyarrow as pa

_AT_ONCE = 8192  # texts of a part: half a minute on one thread


@dataclass(frozen=True)
class Embedded:
    """What came of a run; `stored` is None when the atlas had everything."""

    missing: int
    resumed: int  # of them embedded by an earlier run that was stopped
    stored: Stored | None


def embed_atlas(
    file: Path,
    embedder: TextEmbedder,
    *,
    fields: Sequence[str] = FIELDS,
    limits: Limits | None = None,
    progress: Progress | None = None,
) -> Embedded:
    """Embed the texts that neurons show in the fields and that have no vector of this model yet; store them.

    InputError for an atlas without such texts. Memory: the missing texts, and DuckDB's limit.
    """
    limits, progress = limits or Limits(), progress or Quiet()
    parts = file.parent / f"{file.name}.embeddings"
    with Atlas(existing(file), limits=limits) as opened:
        found, d_mlp = _look(opened, embedder, fields, parts), opened.d_mlp
    if found.current:
        return Embedded(0, 0, None)
    try:
        _embed(found.missing, embedder, parts, progress)
        stored = revise(
            file,
            lambda con, fresh: store_embeddings(con, _read(parts, embedder), embedder=embedder, fields=fields),
            d_mlp=d_mlp,
            limits=limits,
            what="with these vectors the atlas",
        )
        shutil.rmtree(parts, ignore_errors=True)
    except OSError as error:
        raise explain(error, parts) from error
    return Embedded(len(found.missing) + found.resumed, found.resumed, stored)


@dataclass(frozen=True)
class _Found:
    missing: list[str]
    resumed: int
    current: bool


def _look(opened: Atlas, embedder: TextEmbedder, fields: Sequence[str], parts: Path) -> _Found:
    con = opened.con
    con.execute("CREATE TEMP TABLE embedded_texts (text VARCHAR)")
    for batch in _read(parts, embedder):
        con.register("incoming_part", batch.select(["text"]))
        con.execute("INSERT INTO embedded_texts FROM incoming_part")
    resumed = int(con.execute("SELECT count(*) FROM embedded_texts").fetchall()[0][0])
    missing = missing_texts(con, embedder, fields=fields)
    listed = ",".join(fields)
    if not missing and not resumed and not _any(con, fields):
        raise InputError(f'no neuron of {opened.name} shows a text in {listed}; "atlas label rules" makes labels')
    same = opened.metadata.get("label_embedding_fields") == listed and embedding_state(con) == "fresh"
    return _Found(missing, resumed, current=same and not missing and not resumed)


def _any(con: duckdb.DuckDBPyConnection, fields: Sequence[str]) -> bool:
    shown = ", ".join(fields)
    return bool(con.execute(f"SELECT 1 FROM neurons WHERE trim(concat({shown})) <> '' LIMIT 1").fetchall())


def _embed(texts: Sequence[str], embedder: TextEmbedder, parts: Path, progress: Progress) -> None:
    import pyarrow.parquet as pq

    if not texts:
        return
    parts.mkdir(exist_ok=True)
    with progress.task("texts embedded", len(texts), "texts") as task:
        for first in range(0, len(texts), _AT_ONCE):
            some = texts[first : first + _AT_ONCE]
            rows = encode(some, embedder.embed(some), dimension=embedder.dimension)
            target = parts / f"{_mark(embedder)}-{hashlib.sha256(some[0].encode()).hexdigest()[:16]}.parquet"
            draft = target.with_suffix(f".{os.getpid()}.part")
            pq.write_table(rows, draft)
            draft.replace(target)
            task.advance(len(some))


def _read(parts: Path, embedder: TextEmbedder) -> Iterator[pa.Table]:
    """Parts of this model, in the order of their names."""
    import pyarrow.parquet as pq

    for part in sorted(parts.glob(f"{_mark(embedder)}-*.parquet")):
        yield pq.read_table(part)


def _mark(embedder: TextEmbedder) -> str:
    return embedder.digest[:12]
