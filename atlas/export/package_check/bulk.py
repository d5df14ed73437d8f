"""Neuronpedia's bulk layout -> findings: {model}/{source}/ with four metadata files and folders of gzipped rows.

Features are read first; of them only their indices are kept, of activations and explanations 12 bytes a row.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from atlas.export.package_check.bulk_metadata import FILES, Known, check_metadata
from atlas.export.package_check.bulk_rows import check_row
from atlas.export.package_check.finding import At
from atlas.export.package_check.job import Job, Names
from atlas.export.package_check.json_text import parse_object
from atlas.export.package_check.package import read_lines

TABLES = ("features", "activations", "explanations")
MOST_FILES = 1000
MOST_BYTES = 150_000_000
MOST_FEATURES = 1024
_READ = 10 * MOST_BYTES  # of one file: what is packed 1,000 to 1 does not take hours
_META = re.compile(rf"(?P<folder>(?:.*/)?)(?:{'|'.join(FILES)})\.jsonl(?:\.gz)?")
_ROWS = re.compile(rf"(?P<folder>(?:.*/)?)(?:{'|'.join(TABLES)})/[^/]*\.jsonl(?:\.gz)?")
_BATCH = re.compile(r"batch-(\d+)\.jsonl\.gz")

_UNKNOWN = Known(None, None, None)


@dataclass
class _Source:
    """What is known of one source while its files are read."""

    folder: str  # ends with /, or empty
    name: tuple[str, str]  # model, source id
    known: Known = _UNKNOWN
    vector: int = 0  # length of the first
    indices: set[str] = field(default_factory=set)
    complete: bool = True  # whether every feature could be read
    keys: list[str] | None = None  # of the table's first line, where it holds for all files


def source_folders(names: Iterator[str] | list[str]) -> list[str]:
    """Folders of a package that hold a source of the bulk layout, each with / at its end."""
    found = (_META.fullmatch(name) or _ROWS.fullmatch(name) for name in names)
    return sorted({one["folder"] for one in found if one})


def check_bulk(job: Job) -> None:
    """All sources of the package; rows are unique over all of them."""
    ids = {table: Names() for table in ("activations", "explanations")}
    for folder in source_folders(list(job.package.members)):
        parts = job.package.parts(folder)
        model, layer = (parts[-2], parts[-1]) if len(parts) > 1 else ("", parts[-1] if parts else "")
        at = job.at(folder or ".")
        if not model or model != model.lower():
            at.say("bulk-place", "{modelId}/{sourceId}/, in lower case", f"{model}/{layer}/")
        job.counts["sources"] += 1
        source = _Source(folder, (model, layer))
        source.known = check_metadata(job, folder, source.name)
        _check_layer(at, source)
        _check_source(job, source, ids)
    for names in ids.values():
        for (file, line), first in names.repeated():
            job.at(file, line).say("id-unique", "an id of its own", f"the id of {first[0]}:{first[1]}", "/id")


def _check_source(job: Job, source: _Source, ids: dict[str, Names]) -> None:
    features = Names()
    before = dict(job.counts)
    for table in TABLES:
        source.keys = None
        files = _files(job, source, table)
        for file in files:
            _check_file(job, source, table, file, names=features if table == "features" else ids[table])
    for (file, line), first in features.repeated():
        job.at(file, line).say("index-unique", "an index of its own", f"the index of {first[0]}:{first[1]}", "/index")
    if not job.package.single:
        _check_there(job, source, {table: job.counts[table] - before.get(table, 0) for table in TABLES})


def _check_there(job: Job, source: _Source, rows: dict[str, int]) -> None:
    """Say which tables have no rows."""
    codes = {"features": "bulk-no-features", "activations": "bulk-no-activations",
             "explanations": "bulk-no-explanations"}  # fmt: skip
    for table, code in codes.items():
        if not rows[table] and source.complete:
            job.at(f"{source.folder}{table}").say(code, f"files of {table}", "no rows")


def _files(job: Job, source: _Source, table: str) -> list[str]:
    """Row files of a table in the order of their numbers; others are reported."""
    inside = f"{source.folder}{table}/"
    named = []
    for name in (one for one in job.package.members if one.startswith(inside)):
        found = _BATCH.fullmatch(name[len(inside) :])
        if found:
            named.append((int(found[1]), name))
        else:
            job.at(name).say("bulk-row-name", f"{table}/batch-N.jsonl.gz", PurePosixPath(name).name)
            source.complete = False
    if len(named) > MOST_FILES:
        job.at(inside).say("bulk-files", f"at most {MOST_FILES:,} files", f"{len(named):,} files")
    return [name for _, name in sorted(named)]


def _check_file(job: Job, source: _Source, table: str, file: str, *, names: Names) -> None:
    job.task.advance()
    job.counts["files"] += 1
    size = lines = rows = 0
    damaged = job.findings.damaged
    if table != "explanations":
        source.keys = None
    for number, raw in read_lines(job.package, file, job.findings):
        size, lines = size + len(raw) + 1, number
        if size > _READ:
            at = job.at(file, number)
            at.say("json-size", f"at most {_READ / 1e9:g} GB to be read", "more: the rest was not read")
            break
        at = job.at(file, number)
        row = _row(at, raw, source)
        rows += bool(raw.strip())
        if row is not None:
            _check_line(source, table, row, at, names=names)
        elif table == "features":
            source.complete = False
    job.counts[table] += rows
    job.counts["bytes"] += size
    if job.findings.damaged > damaged:
        source.complete &= table != "features"
    elif not lines:
        job.at(file).say("file-empty", "rows", "no line")
    _check_size(job.at(file), table, (size, lines))


def _check_size(at: At, table: str, sizes: tuple[int, int]) -> None:
    size, lines = sizes
    if size > MOST_BYTES:
        at.say("bulk-size", "at most 150 MB uncompressed", f"{size / 1e6:,.1f} MB")
    if table == "features" and lines > MOST_FEATURES:
        at.on(MOST_FEATURES + 1).say("bulk-batch", f"at most {MOST_FEATURES:,} lines", f"{lines:,} lines")


def _row(at: At, raw: bytes, source: _Source) -> dict[str, Any] | None:
    if not raw.strip():
        at.say("blank-line", "a JSON object", "a blank line")
        return None
    row = parse_object(raw, at)
    if row is not None:
        if source.keys is None:
            source.keys = list(row)
        elif row.keys() != set(source.keys):
            more, less = row.keys() - set(source.keys), set(source.keys) - row.keys()
            told = "; ".join(filter(None, (_listed("more: ", more), _listed("missing: ", less))))
            at.say("keys-differ", f"the {len(source.keys)} keys of the first line", told)
    return row


def _listed(what: str, keys: set[str]) -> str:
    return what + ", ".join(sorted(keys)) if keys else ""


def _check_line(source: _Source, table: str, row: dict[str, Any], at: At, *, names: Names) -> None:
    bad = check_row(table, row, source.name, at)
    assert at.line is not None
    if table == "features":
        if "index" in bad:
            source.complete = False
            return
        source.indices.add(row["index"])
        names.add(row["index"], at.file, at.line)
        _check_feature(source, row, bad, at)
        return
    if "id" not in bad:
        names.add(row["id"], at.file, at.line)
    known = source.complete and source.indices
    if known and "index" not in bad and row["index"] not in source.indices:
        at.say("reference", "a feature of the package", f"index {row['index']}", "/index")


def _check_layer(at: At, source: _Source) -> None:
    layer = source.name[1].split("-")[0]
    if source.known.layers is not None and layer.isdecimal() and int(layer) >= source.known.layers:
        at.say("index-range", f"a layer below {source.known.layers}, as in model.jsonl", layer)


def _check_feature(source: _Source, row: dict[str, Any], bad: frozenset[str], at: At) -> None:
    """What a feature shares with its source."""
    name, known = row.get("sourceSetName"), source.known
    if name is None and "sourceSetName" not in bad:
        at.say("bulk-feature-set", "the set of sourceset.jsonl", "none", "/sourceSetName")
    elif isinstance(name, str) and known.set_name is not None and name != known.set_name:
        at.say("bulk-metadata-link", f"{known.set_name}, the set of sourceset.jsonl", name, "/sourceSetName")
    index, neurons = row["index"], known.neurons if known.set_name == "neurons" else None
    if neurons is not None and index.isdecimal() and int(index) >= neurons:
        at.say("index-range", f"below {neurons}, the model's neuronsPerLayer", index, "/index")
    size = len(row.get("vector") or ()) if "vector" not in bad else 0
    source.vector = source.vector or size
    if size not in (0, source.vector):
        at.say("vector-length", f"{source.vector:,} values, as in the first", f"{size:,}", "/vector")
