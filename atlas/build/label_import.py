"""Label files of other tools -> the labels of an atlas that exists: read, chosen from and indexed on a copy.

A file is a source, "import:<its name>". What an earlier import of that source brought is replaced; every other label
stays, and what neurons show is chosen anew by the precedence.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import duckdb

from atlas.build.revision import revise
from atlas.errors import InputError
from atlas.ingest.label_choice import Coverage, choose_labels, read_precedence
from atlas.ingest.label_formats.recognise import recognise
from atlas.ingest.labels import Imported, Reading, check_names, files_of, import_labels, source_of
from atlas.ingest.search_index import build_index
from atlas.progress import Progress, Quiet
from atlas.query.atlas import Atlas
from atlas.store.connection import Limits, existing
from atlas.store.ledger import Ingested, now, record
from atlas.store.sqlfiles import sql_text
from atlas.store.write import transaction

_LIMITS = Limits("256MiB", 2)  # 3.5 GB of 1.64M labels, chosen and indexed, peak at 990 MiB; more is no faster
_INCOMING = "manual:incoming"  # source of hand-written labels until they have replaced those of the same neurons


@dataclass(frozen=True)
class ImportedLabels:
    """What came of each file, by its source, how many labels it replaced, and what the neurons now show."""

    files: dict[str, Imported]
    replaced: dict[str, int]
    coverage: Coverage


def import_label_files(
    file: Path,
    label_files: Sequence[Path],
    *,
    how: Reading | None = None,
    precedence: Sequence[str] | None = None,
    limits: Limits | None = None,
    progress: Progress | None = None,
) -> ImportedLabels:
    """Put the labels of some files or folders into an atlas; `how.source` names the source of a single one.

    The source "manual" is for labels written by hand: it replaces those of the same neuron, pass and sign only.
    Raises InputError, and leaves the atlas as it is, for a file that is not there, is in no known format, is of another
    model or holds no label that can be used.
    """
    how, shown = how or Reading(), progress or Quiet()
    _check(label_files, how, precedence)
    with Atlas(existing(file)) as opened:
        layers, d_mlp = opened.layers, opened.d_mlp

    def change(con: duckdb.DuckDBPyConnection, fresh: bool) -> ImportedLabels:
        with transaction(con):
            found, replaced = {}, {}
            for one in label_files:
                source = how.source or source_of(one)
                replaced[source] = _make_room(con, source)
                found[source] = _read(con, one, (layers, d_mlp), how, shown)
                replaced[source] += _settle_manual(con) if source == "manual" else 0
            shown.note("choosing the labels that neurons show")
            con.execute(sql_text("ingest", "neurons_reported"))
            covered = choose_labels(con, precedence=precedence)
        with transaction(con):
            shown.note("indexing the words")
            build_index(con)
        shown.note("checking the atlas")
        return ImportedLabels(found, replaced, covered)

    return revise(file, change, d_mlp=d_mlp, limits=limits or _LIMITS, what="with these labels the atlas")


def source_named(name: str | None) -> str | None:
    """The source that a person's name for it stands for: "manual" itself, else "import:<name>"."""
    if name is None or name == "manual" or name.startswith("import:"):
        return name
    if not name.strip() or not name.isprintable() or name == "llm" or name.startswith(("rule:", "run:")):
        raise InputError(f"a source of imported labels cannot be called {name!r}; give another --source, or manual")
    return f"import:{name}"


def _check(files: Sequence[Path], how: Reading, precedence: Sequence[str] | None) -> None:
    """Refuse what can be refused before the atlas is copied."""
    if precedence is not None:
        read_precedence(precedence)
    if how.source is not None and len(files) != 1:
        raise InputError(f"{len(files)} files for the source {how.source!r}; import them one by one, or as one folder")
    check_names(files)
    for one in files:
        first = files_of(one)[0]
        if how.form == "auto":
            recognise(first)


def _make_room(con: duckdb.DuckDBPyConnection, source: str) -> int:
    if source == "manual":
        return 0
    con.execute("DELETE FROM reported_activations WHERE source = $1", [source])
    return int(con.execute("DELETE FROM labels WHERE source = $1", [source]).fetchall()[0][0])


def _read(
    con: duckdb.DuckDBPyConnection, file: Path, sizes: tuple[int, int], how: Reading, progress: Progress
) -> Imported:
    started, source = now(), how.source or source_of(file)
    to = _INCOMING if source == "manual" else source
    size = sum(one.stat().st_size for one in files_of(file))
    with ThreadPoolExecutor(1) as pool, progress.task(f"reading {file.name}", size, "bytes") as task:
        key = pool.submit(_digest, file)
        found = import_labels(
            con, file, layers=sizes[0], d_mlp=sizes[1], how=replace(how, source=to, said=task.advance)
        )
    if not found.rows_out:
        raise InputError(
            f"{file.name} has no label that can be used ({found.reason or 'it is empty'}); nothing is imported"
        )
    record(con, _ledger(file, found, size, key), started=started)
    return found


def _ledger(file: Path, found: Imported, size: int, key: Future[str]) -> Ingested:
    counts = (found.rows_out, found.rows_in, found.rows_rejected, found.reason)
    return Ingested(f"labels:{file.name}", key.result(), *counts, file.name, size, key.result())


def _digest(file: Path) -> str:
    """Hash of a file; of a folder that of its files' hashes."""
    hashes = []
    for one in files_of(file):
        with one.open("rb") as handle:
            hashes.append(hashlib.file_digest(handle, "sha256").hexdigest())
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def _settle_manual(con: duckdb.DuckDBPyConnection) -> int:
    """Labels that came by hand take the place of those of the same neuron, pass and sign; how many they replace."""
    replaced = con.execute(
        "DELETE FROM labels USING (SELECT * FROM labels WHERE source = $1) AS new WHERE labels.source = 'manual' "
        'AND (labels.layer, labels.neuron, labels."pass", labels.polarity) = '
        '(new.layer, new.neuron, new."pass", new.polarity)',
        [_INCOMING],
    ).fetchall()[0][0]
    con.execute("UPDATE labels SET source = 'manual' WHERE source = $1", [_INCOMING])
    con.execute("DELETE FROM reported_activations WHERE source = $1", [_INCOMING])
    return int(replaced)
