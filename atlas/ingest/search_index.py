"""Texts that neurons show -> the word index inside the atlas: vocabulary, stems, postings (see sql/schema/013).

The index is made by SQL, only the stems of the vocabulary (60,000 words in 3 s) by snowballstemmer; a search looks its
words up in that vocabulary and needs no Python. A mark of the texts in the metadata tells whether the index is theirs.
"""

from __future__ import annotations

import duckdb

from atlas.store.ledger import set_metadata
from atlas.store.search_state import State, index_state, mark_of_texts
from atlas.store.sqlfiles import sql_text
from atlas.store.write import append_from_query, replace_from_query

__all__ = ["State", "build_index", "index_state"]

_AT_ONCE = 200_000  # neurons whose words are counted together: 3M rows, 300 MB
_ROWS = 3_000_000  # postings that are sorted together
_TEMPORARY = ("search_counts", "search_stems", "search_occurrences")


def build_index(con: duckdb.DuckDBPyConnection) -> int:
    """Make the word index of the texts in `neurons`, in the place of an older one; the number of postings.

    Call it after the last change of labels. 1.64M labels of 116 characters take 30 s on one thread, and 1.2 GB (DuckDB
    spills beyond its limit).
    """
    for name in ("search_tokens", "search_counts"):
        con.execute(f"CREATE OR REPLACE TEMP TABLE {name} AS {sql_text('ingest', name)}")
    replace_from_query(con, "search_documents", sql_text("ingest", "search_documents"))
    replace_from_query(con, "search_fields", sql_text("ingest", "search_fields"))
    _stem(con)
    replace_from_query(con, "search_words", sql_text("ingest", "search_words"))
    _count(con)
    con.execute("DROP TABLE temp.search_tokens")
    rows = _sort(con)
    replace_from_query(con, "search_terms", sql_text("ingest", "search_terms"))
    for name in _TEMPORARY:
        con.execute(f"DROP TABLE temp.{name}")
    set_metadata(con, {"search_index": mark_of_texts(con)})
    return rows


def _stem(con: duckdb.DuckDBPyConnection) -> None:
    """Words -> temp table of their stems."""
    import pyarrow as pa
    import snowballstemmer

    words = [word for (word,) in con.execute("SELECT word FROM search_counts ORDER BY word").fetchall()]
    stems = snowballstemmer.stemmer("english").stemWords(words)
    con.register(
        "incoming_stems", pa.table({"word": pa.array(words, pa.string()), "stem": pa.array(stems, pa.string())})
    )
    con.execute("CREATE OR REPLACE TEMP TABLE search_stems AS FROM incoming_stems")
    con.unregister("incoming_stems")


def _count(con: duckdb.DuckDBPyConnection) -> None:
    """Words of the neurons -> temp table of occurrences, some neurons at a time."""
    statement = sql_text("ingest", "search_occurrences")
    last = con.execute("SELECT coalesce(max(document), 0) FROM search_documents").fetchall()[0][0]
    for first in range(0, last + 1, _AT_ONCE):
        start = "CREATE OR REPLACE TEMP TABLE search_occurrences AS" if first == 0 else "INSERT INTO search_occurrences"
        con.execute(f"{start} {statement}", {"document_from": first, "document_to": first + _AT_ONCE - 1})


def _sort(con: duckdb.DuckDBPyConnection) -> int:
    """Occurrences -> postings in order of term and document, some terms at a time."""
    con.execute("DELETE FROM search_postings")
    found = con.execute(
        "SELECT min(term), max(term) FROM (SELECT term, (sum(n) OVER (ORDER BY term)) // $rows AS part "
        "FROM (SELECT place >> 32 AS term, count(*) AS n FROM search_occurrences GROUP BY term)) "
        "GROUP BY part ORDER BY part",
        {"rows": _ROWS},
    ).fetchall()
    statement = sql_text("ingest", "search_postings")
    return sum(append_from_query(con, "search_postings", statement, {"term_from": a, "term_to": b}) for a, b in found)
