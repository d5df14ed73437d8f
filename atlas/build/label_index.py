"""An atlas -> the same atlas with word index and macros made anew: copied, changed, checked, renamed over it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import duckdb

from atlas.build.revision import revise
from atlas.build.rule_labels import sizes
from atlas.ingest.search_index import build_index
from atlas.store.connection import Limits, existing
from atlas.store.schema import store_macros
from atlas.store.write import transaction


@dataclass(frozen=True)
class Indexed:
    """Sizes of a word index."""

    texts: int
    words: int
    postings: int


def reindex(file: Path, *, limits: Limits) -> Indexed:
    """Make the word index of an atlas, whatever it has; InputError without an atlas, StoreError without its sizes."""

    def change(con: duckdb.DuckDBPyConnection, fresh: bool) -> Indexed:
        with transaction(con):
            postings = build_index(con)
            store_macros(con)
        texts, words = con.execute(
            "SELECT (SELECT count(*) FROM search_documents), (SELECT count(*) FROM search_words)"
        ).fetchall()[0]
        return Indexed(texts, words, postings)

    _, d_mlp = sizes(existing(file), limits)
    return revise(file, change, d_mlp=d_mlp, limits=limits, what="with this word index the atlas")
