"""Documents that pruning scores were made on -> their hashes in the atlas; texts to judge pruning on -> are they fresh?

A verdict on text that the scores were chosen on is too kind. Texts are told apart by the SHA-256 of their UTF-8 bytes:
a document that was cut, joined or respaced counts as another one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

import duckdb

from atlas.errors import InputError

_AT_ONCE = 1 << 16  # hashes of 64 characters: 8 MB as Python strings


def text_sha256(text: str) -> str:
    """SHA-256 of a text's UTF-8 bytes, 64 hex digits.

    >>> text_sha256("a")[:8]
    'ca978112'
    """
    return hashlib.sha256(text.encode()).hexdigest()


def store_documents(con: duckdb.DuckDBPyConnection, read: Mapping[str, Sequence[str]]) -> int:
    """Replace calibration_documents by the documents of each role; returns the rows, equal texts counted once.

    Texts are read one by one and empty ones left out. Memory: DuckDB's, 80 bytes a document. Call it inside a
    transaction.
    """
    con.execute("DELETE FROM calibration_documents")
    con.execute("CREATE OR REPLACE TEMP TABLE read_documents (role VARCHAR, sha256 VARCHAR)")
    for role, documents in read.items():
        hashes = _hashes(documents)
        while some := list(islice(hashes, _AT_ONCE)):
            con.execute("INSERT INTO read_documents SELECT $role, unnest($some)", {"role": role, "some": some})
    rows = con.execute(
        "INSERT INTO calibration_documents SELECT DISTINCT role, sha256 FROM read_documents ORDER BY role, sha256"
    ).fetchall()
    con.execute("DROP TABLE read_documents")
    return int(rows[0][0])


def has_hashes(con: duckdb.DuckDBPyConnection) -> bool:
    """Whether the atlas says which documents it was made on: not one of a version before schema 19, nor an assembly."""
    tables = con.execute("SELECT count(*) FROM duckdb_tables() WHERE table_name = 'calibration_documents'").fetchall()
    return bool(tables[0][0]) and bool(con.execute("SELECT 1 FROM calibration_documents LIMIT 1").fetchall())


def overlap(con: duckdb.DuckDBPyConnection, sha256s: Sequence[str]) -> list[str]:
    """Those of `sha256s`, in their order, that the pruning scores (and ablation means) of the atlas were made on.

    These are the documents of the gradient pass, or of the activation pass in an atlas without gradients. [] for an
    atlas that does not say (see has_hashes).
    """
    if not has_hashes(con):
        return []
    rows = con.execute(
        "SELECT sha256 FROM calibration_documents WHERE sha256 IN (SELECT unnest($asked)) AND role = "
        "(SELECT max(role) FROM calibration_documents)",  # 'gradients' sorts after 'activations'
        {"asked": list(sha256s)},
    ).fetchall()
    found = {row[0] for row in rows}
    return [one for one in sha256s if one in found]


def fresh_documents(
    con: duckdb.DuckDBPyConnection, documents: Sequence[str], *, skip: bool = False, vouched: bool = False
) -> tuple[list[str], int]:
    """The documents that pruning may be judged on, and how many were left out as calibration documents.

    Raises InputError when some are calibration documents and `skip` (--skip-calibration) does not leave them out, when
    nothing is left, and when the atlas does not say what it was made on and nobody vouches for the text (--fresh).
    """
    if not has_hashes(con) and not vouched:
        raise InputError(
            "this atlas does not say which documents its scores were made on (built before schema 19); rebuild it, or "
            "add --fresh if you know that none of these texts was among them"
        )
    known = set(overlap(con, [text_sha256(text) for text in documents]))
    if known and not skip:
        raise InputError(
            f"{len(known)} of {len(documents)} documents are calibration documents, on which the scores were made; "
            "give other text, or leave them out with --skip-calibration"
        )
    kept = [text for text in documents if text_sha256(text) not in known]
    if known and not kept:
        raise InputError(f"all {len(documents)} documents are calibration documents; give other text")
    return kept, len(documents) - len(kept)


def _hashes(documents: Sequence[str]) -> Iterator[str]:
    return (text_sha256(text) for text in documents if text)
