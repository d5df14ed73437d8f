"""A list of sources -> one partial aggregate, piece by piece: the unit of work that can run anywhere, twice, or again.

A piece is a span of row groups of a shard, or a few graph files. Its files are written under their final names only
when they are whole, and its marker last, so a killed worker loses one piece. The partial's folder takes its name when
all pieces are there.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from atlas.errors import AtlasError, InputError
from atlas.ingest.edge_store.facts import DONE, Partial, Store, StoreFacts, open_store
from atlas.ingest.edge_store.gather import LARGEST_RUN, OBSERVATION_BYTES, Gatherer
from atlas.ingest.edge_store.sources import OBSERVATIONS, Given, without_name
from atlas.ingest.graph_files.source import Report, Units
from atlas.shards import MARKER, file_sha256, own_name, write_whole

BASE_MEMORY = 320 << 20  # of a process with numpy, pyarrow, numba and their code (measured 318 MB after a run)
SMALLEST_RUN = 1 << 14
BATCH = 1 << 16  # rows decoded at once
GROUP_BYTES = 64 << 20  # graph files read by one piece,
GROUP_FILES = 500
SHARD_TABLES = ("graphs", "graph_nodes", "graph_edges", "graph_token_edges")
SOURCES = pa.schema(
    [(name, pa.string()) for name in ("path", "name", "format", "edge_method", "sha256", "status", "reason")]
    + [(name, pa.int64()) for name in ("size", "observations", "graphs", "kept")]
    + [(name, pa.string()) for name in ("nodes", "links", "skipped", "notes")]
)


@dataclass(frozen=True)
class Work:
    """What one partial is made of and with; plain values, so that it can go to another machine."""

    id: str
    sources: tuple[Given, ...]
    memory: int  # bytes
    threads: int
    strict: bool = False
    tables: tuple[str, ...] = SHARD_TABLES  # of shards, that are read

    @property
    def capacity(self) -> int:
        """Observations of a run."""
        room = (self.memory - BASE_MEMORY) // self.threads // OBSERVATION_BYTES
        return max(SMALLEST_RUN, min(LARGEST_RUN, room))

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Work:
        """What `as_dict` gave."""
        sources = tuple(Given(**one) for one in values["sources"])
        return cls(**{**values, "sources": sources, "tables": tuple(values["tables"])})


@dataclass(frozen=True)
class Piece:
    """Part of a partial: rows of one table of a shard, or whole files."""

    index: int
    table: str  # graph_edges, graph_token_edges, graph_nodes, graphs, verify or files
    sources: tuple[int, ...]
    groups: tuple[int, int] = (0, 0)
    observations: int = 0


@dataclass
class Made:
    """What a piece made; its marker."""

    files: list[str] = field(default_factory=list)
    edges: int = 0
    observations: int = 0
    graphs: int = 0
    reports: dict[str, dict[str, Any]] = field(default_factory=dict)  # by index of the source


def make_partial(path: Path, work: Work, *, advance: Callable[[int], None] = lambda _: None) -> dict[str, Any]:
    """Make a partial of a store, or find it made; {"partial": ..., "rejected": [...], "bytes_read", "bytes_written"}.

    Memory: `work.memory` (a run of `work.capacity` observations a thread). Raises InputError for the first source that
    is rejected when `work.strict`; otherwise it is reported with its reason and left out.
    """
    store = open_store(path)
    final = store.folder(work.id)
    draft = store.draft(f"{work.id}-{work.capacity}")
    try:
        if not (final / DONE).exists():
            _make_all(store, work, draft, final, advance)
    except FileNotFoundError:
        if not (final / DONE).exists():  # else another worker has made the same partial and removed the draft
            raise
    finally:
        if (final / DONE).exists():  # of two workers at the draft the last one to leave it takes it away
            shutil.rmtree(draft, ignore_errors=True)
    found: dict[str, Any] = json.loads((final / DONE).read_text(encoding="utf-8"))
    if work.strict and found["rejected"]:  # a killed run that was not strict had left it out
        raise InputError("{name}: {reason}".format(**found["rejected"][0]))
    return {name: found[name] for name in ("partial", "rejected", "bytes_read", "bytes_written")}


def _make_all(store: Store, work: Work, draft: Path, final: Path, advance: Callable[[int], None]) -> None:
    draft.mkdir(parents=True, exist_ok=True)
    pieces = plan(work)
    with ThreadPoolExecutor(work.threads) as pool:
        made = list(pool.map(lambda piece: _piece(store, work, piece, draft, advance), pieces))
    whole = own_name(draft)
    whole.mkdir()
    try:
        _finish(draft, whole, work, pieces, made)
        whole.rename(final)
    except OSError:
        if not (final / DONE).exists():  # else another worker was first
            raise
    finally:
        shutil.rmtree(whole, ignore_errors=True)


def plan(work: Work) -> list[Piece]:
    """The pieces of a partial, the same for the same sources and memory."""
    pieces: list[Piece] = []
    files: list[int] = []
    for number, source in enumerate(work.sources):
        if source.kind == "shard":
            pieces += _shard_pieces(number, source, work)
        elif source.kind == "observations":
            pieces += _spans(number, Path(source.path), "graph_edges", work.capacity)
        elif source.kind == "statistics":
            pieces.append(Piece(0, "files", (number,), observations=source.observations))
        else:
            files.append(number)
    pieces += _groups(work, files)
    return [Piece(i, one.table, one.sources, one.groups, one.observations) for i, one in enumerate(pieces)]


def _shard_pieces(number: int, source: Given, work: Work) -> list[Piece]:
    folder = Path(source.path)
    pieces = [Piece(0, "verify", (number,))]
    if "graphs" in work.tables:
        pieces.append(Piece(0, "graphs", (number,)))
    for table, share in (("graph_edges", 1), ("graph_token_edges", 1), ("graph_nodes", 2)):
        if table in work.tables:
            pieces += _spans(number, folder / f"{table}.parquet", table, work.capacity // share)
    return pieces


def _spans(number: int, path: Path, table: str, capacity: int) -> list[Piece]:
    """Row groups of a file in spans of at most `capacity` rows (one group may have more) that split no graph."""
    meta = pq.read_metadata(path)
    cuts = _cuts(meta, meta.schema.names.index("graph_id"))
    pieces: list[Piece] = []
    start, rows = 0, 0
    for i in range(meta.num_row_groups):
        if rows and rows + meta.row_group(i).num_rows > capacity and cuts[i]:
            pieces.append(Piece(0, table, (number,), (start, i), rows if table == "graph_edges" else 0))
            start, rows = i, 0
        rows += meta.row_group(i).num_rows
    pieces.append(Piece(0, table, (number,), (start, meta.num_row_groups), rows if table == "graph_edges" else 0))
    return pieces


def _cuts(meta: Any, column: int) -> list[bool]:
    """Whether all graphs before each row group end before all that follow begin, by the file's statistics."""
    groups = [meta.row_group(i) for i in range(meta.num_row_groups)]
    found = [group.column(column).statistics for group in groups if group.num_rows]
    if not all(one and one.has_min_max for one in found):
        return [False] * len(groups)
    bounds = iter((one.min, one.max) for one in found)
    spans = [next(bounds) if group.num_rows else (float("inf"), float("-inf")) for group in groups]
    highest = accumulate((high for _, high in spans), max)
    lowest = [*accumulate((low for low, _ in reversed(spans)), min)][::-1]
    return [False, *(high < low for high, low in zip(highest, lowest[1:], strict=False))]


def _groups(work: Work, files: Sequence[int]) -> Iterator[Piece]:
    held: list[int] = []
    size = 0
    for number in files:
        if held and (size + work.sources[number].size > GROUP_BYTES or len(held) == GROUP_FILES):
            yield Piece(0, "files", tuple(held), observations=sum(work.sources[i].observations for i in held))
            held, size = [], 0
        held.append(number)
        size += work.sources[number].size
    if held:
        yield Piece(0, "files", tuple(held), observations=sum(work.sources[i].observations for i in held))


def _piece(store: Store, work: Work, piece: Piece, draft: Path, advance: Callable[[int], None]) -> Made:
    marker = draft / f"piece-{piece.index:05d}.json"
    if marker.exists():
        made = Made(**json.loads(marker.read_text(encoding="utf-8")))
    else:
        made = _make(store.facts, work, piece, draft)
        write_whole(marker, json.dumps(asdict(made)))
    advance(piece.observations)
    return made


def _make(facts: StoreFacts, work: Work, piece: Piece, draft: Path) -> Made:
    gatherer = Gatherer(draft, piece.index, facts, capacity=work.capacity)
    made = Made()
    if piece.table == "files":
        for number in piece.sources:
            made.reports[str(number)] = _take(work, number, partial(_read_file, facts, work.sources[number], gatherer))
    else:
        number = piece.sources[0]
        made.reports[str(number)] = _take(work, number, partial(_read_shard, work.sources[number], piece, gatherer))
    gatherer.close()
    made.files, made.edges = gatherer.files, gatherer.rows["edges"]
    made.observations, made.graphs = gatherer.observations, gatherer.graphs
    return made


def _take(work: Work, number: int, read: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Report of one source; a source that must not be used is reported with the reason."""
    try:
        return {"status": "in", **read()}
    except AtlasError as error:
        reason = without_name(str(error), work.sources[number].path)
        if work.strict:
            raise InputError(f"{work.sources[number].name}: {reason}") from error
        return {"status": "rejected", "reason": reason}


def _read_file(facts: StoreFacts, source: Given, gatherer: Gatherer) -> dict[str, Any]:
    """Read one foreign file; a graph file is whole in memory before any of it is used."""
    from atlas.ingest.graph_files.detect import open_source

    report, path = Report(), Path(source.path)
    reader = open_source(path)
    units = Units(facts.layers, facts.width, facts.unit_type)  # type: ignore[arg-type]
    batches = reader.read(units, report)
    before = gatherer.observations, gatherer.graphs
    if reader.kind == "graph":
        for batch in [*batches]:
            gatherer.graph(batch, source.origin, file=source.name, sha256=source.sha256)
    else:
        for batch in batches:
            for table, rows in batch.items():
                gatherer.statistics(table, rows)
    counts = {name: dict(getattr(report, name)) for name in ("nodes", "links", "skipped")}
    found = {"observations": gatherer.observations - before[0], "graphs": gatherer.graphs - before[1]}
    return {**counts, "notes": report.notes, "kept": report.kept, **found}


def _read_shard(source: Given, piece: Piece, gatherer: Gatherer) -> dict[str, Any]:
    folder = Path(source.path)
    path = folder if folder.is_file() else folder / f"{piece.table}.parquet"
    if piece.table == "verify":
        return _verified(folder)
    if piece.table == "graphs":
        gatherer.graph_rows(pq.read_table(path), source.origin, file=source.name, sha256=source.sha256)
        return {"graphs": gatherer.graphs}
    with pq.ParquetFile(path, buffer_size=1 << 18, pre_buffer=False) as file:
        groups = list(range(*piece.groups))
        if piece.table == "graph_nodes":
            gatherer.nodes(file.read_row_groups(groups, use_threads=False), source.origin)
            return {}
        take = gatherer.edges if piece.table == "graph_edges" else gatherer.tokens
        for rows in _by_graph(file, groups, OBSERVATIONS if piece.table == "graph_edges" else None):
            take(rows, source.origin)
    return {"observations": gatherer.observations, "kept": gatherer.observations}


def _by_graph(file: pq.ParquetFile, groups: list[int], columns: Sequence[str] | None) -> Iterator[Any]:
    """Rows in which every graph lies together: as they are in the file, or sorted when they are few enough."""
    ids = file.read_row_groups(groups, columns=["graph_id"], use_threads=False)["graph_id"].to_numpy()
    if (ids[1:] >= ids[:-1]).all():
        yield from file.iter_batches(BATCH, row_groups=groups, columns=columns, use_threads=False)
    elif len(ids) > LARGEST_RUN:
        raise InputError(
            f"{len(ids):,} rows are not in order of graph_id, so graphs cannot be counted; sort the file by graph_id"
        )
    else:
        rows = file.read_row_groups(groups, columns=columns, use_threads=False)
        yield rows.take(np.argsort(ids, kind="stable"))


def _verified(folder: Path) -> dict[str, Any]:
    marker = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    for table, expected in marker["sha256"].items():
        if file_sha256(folder / f"{table}.parquet") != expected:
            raise InputError(f"{table}.parquet has not the content that the shard's marker says; measure it again")
    return {}


def _finish(draft: Path, whole: Path, work: Work, pieces: Sequence[Piece], made: Sequence[Made]) -> None:
    """Put what does not belong to rejected sources into the folder `whole`, with the list of sources and the marker."""
    reports = _reports(work, made)
    out = {number for number, one in reports.items() if one["status"] != "in"}
    both = zip(pieces, made, strict=True)
    kept = [one for piece, one in both if not (len(piece.sources) == 1 and out & {*piece.sources})]
    names = {name for one in kept for name in one.files}
    for name in names:
        link_or_copy(draft / name, whole / name)
    rows = [_row(work.sources[number], one) for number, one in sorted(reports.items())]
    accepted = [row for row in rows if row["status"] == "in"]
    pq.write_table(pa.Table.from_pylist(accepted, schema=SOURCES), whole / "sources-00000.parquet")
    hashes = {path.name: file_sha256(path) for path in sorted(whole.iterdir())}
    written = sum(path.stat().st_size for path in whole.iterdir())
    summary = Partial(
        id=work.id,
        observations=sum(one.observations for one in kept),
        edges=sum(one.edges for one in kept),
        sources=len(accepted),
        graphs=sum(one.graphs for one in kept),
        runs=max(1, sum(name.startswith(("edges-", "token_edges-")) for name in names)),  # 0 is of a compacted one
        bytes=written,
    )
    facts = {
        "partial": asdict(summary),
        "rejected": [row for row in rows if row["status"] != "in"],
        "sha256": hashes,
        "bytes_read": sum(one.size for one in work.sources),
        "bytes_written": written,
    }
    write_whole(whole / DONE, json.dumps(facts))


def link_or_copy(source: Path | str, target: Path | str) -> None:
    """The same content under another name: a link where the file system has them, else a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _reports(work: Work, made: Sequence[Made]) -> dict[int, dict[str, Any]]:
    """One report a source from the pieces that read it; one rejection rejects it."""
    found: dict[int, dict[str, Any]] = {number: {"status": "in"} for number in range(len(work.sources))}
    for one in made:
        for index, report in one.reports.items():
            into = found[int(index)]
            if "rejected" in (into["status"], report["status"]):
                found[int(index)] = into if into["status"] == "rejected" else report
                continue
            for name in ("observations", "graphs", "kept"):
                into[name] = into.get(name, 0) + report.get(name, 0)
            into.update({name: report[name] for name in ("nodes", "links", "skipped", "notes") if name in report})
    return found


def _row(source: Given, report: dict[str, Any]) -> dict[str, Any]:
    texts = {name: json.dumps(report.get(name, {})) for name in ("nodes", "links", "skipped", "notes")}
    about = {name: getattr(source, name) for name in ("path", "name", "format", "edge_method", "sha256", "size")}
    return {
        **about,
        **{name: report.get(name) for name in ("observations", "graphs", "kept", "status", "reason")},
        **texts,
    }
