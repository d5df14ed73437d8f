"""Label files of other tools -> labels, and what they report of activations.

A file is read once, in batches: orjson decodes 350 MB/s of lines where json makes 160, and DuckDB takes a batch while
the next is read. What cannot be used is counted by reason, quoted with file and line, and never dropped in silence.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from atlas.errors import InputError
from atlas.ingest.label_formats.entries import Entry
from atlas.ingest.label_formats.formats import FORMATS
from atlas.ingest.label_formats.recognise import entries, known_formats, recognise
from atlas.ingest.label_formats.records import (
    OUT_OF_RANGE,
    PASSES,
    Fault,
    Plain,
    Row,
    Sizes,
    plain_of,
    reported_of,
    rows_of,
)
from atlas.store.write import append_from_arrow, append_from_query
from atlas.tables import TABLES

_NOTE = "with further labels in their list (the first is taken)"
_TWICE = "for a neuron that has an earlier line"
_BATCH = 20_000  # rows of about 300 bytes
_FOREIGN = 0.01  # a larger share of neurons out of range says that the file is of another model
_QUOTED = 3  # bad entries of each fault that are quoted, of this many characters
_SHORT = 100
_PLAIN_PASS = PASSES.index("autointerp") * 3 + 1  # of no sign


@dataclass(frozen=True)
class Imported:
    """What came of one file: its rows, and how many were refused for which fault."""

    rows_in: int
    rows_out: int
    rejected: dict[str, int] = field(default_factory=dict)  # fault -> rows, most frequent first
    first: str | None = None  # where the first refused row is
    notes: dict[str, int] = field(default_factory=dict)  # what was left out of rows that were taken
    quotes: tuple[str, ...] = ()  # "line 12: not JSON: {...", a few of each fault
    form: str = ""  # format that the file is in

    @property
    def rows_rejected(self) -> int:
        """Refused rows in all."""
        return sum(self.rejected.values())

    @property
    def reason(self) -> str | None:
        """Faults with their numbers, for the ledger; None when there is nothing to say."""
        parts = [f"{rows:,} {fault}" for fault, rows in {**self.rejected, **self.notes}.items()]
        return "; ".join(parts + [f"first {self.first}"] * bool(self.first)) or None


@dataclass(frozen=True)
class Reading:
    """How a label file is read: its format ("auto" = by content), its source's name, and who hears of bytes read."""

    form: str = "auto"
    source: str | None = None  # None = "import:<file name>"
    strict: bool = False
    said: Callable[[int], None] = lambda _: None


def source_of(file: Path) -> str:
    """What `labels.source` and `partitions.method` call a file."""
    return f"import:{file.name}"


def clear_labels(con: duckdb.DuckDBPyConnection) -> None:
    """Remove what label files brought; labels of other sources stay."""
    con.execute("DELETE FROM labels WHERE source LIKE 'import:%'")
    con.execute("DELETE FROM reported_activations")


def import_labels(
    con: duckdb.DuckDBPyConnection, file: Path, *, layers: int, d_mlp: int, how: Reading | None = None
) -> Imported:
    """Append the labels of one file (also .gz), or of all files of a folder, to `labels`.

    Call it inside a transaction. A neuron may have one entry per pass and sign in a file; an entry of two passes gives
    two rows. Activations that entries report are kept in `reported_activations`.
    Raises InputError for a file that is not there, in no known format or of another model (more than 1% of its neurons
    are out of range), and, when `how.strict`, for the first entry that cannot be used.
    """
    how = how or Reading()
    files = files_of(file)
    form = _form(files[0], how.form)
    source = how.source or source_of(file)
    with _Rows(con, source) as rows:
        found = _Reader(file, form, Sizes(layers, d_mlp), how).read(files, rows)
    _refuse_strangers(file, found, layers, d_mlp)
    return found


def files_of(file: Path) -> list[Path]:
    """The file itself, or all files of a folder, by name; InputError when there are none."""
    if file.is_dir():
        shown = (path for path in file.rglob("*") if not path.name.startswith(".") or path.suffix == ".txt")
        found = sorted(path for path in shown if path.is_file())  # Delphi's names may start with a dot: .model.layers.5
        if found:
            return found
        raise InputError(f"no files in {file}; give a label file or a folder of them")
    if not file.is_file():
        raise InputError(f"no label file at {file}; give a file or a folder of labels (atlas label import --help)")
    return [file]


def check_names(files: Iterable[Path]) -> None:
    """Refuse two files of one name: a label's source is its file's name."""
    names: Sequence[str] = [file.name for file in files]
    for name in sorted(set(names)):
        if names.count(name) > 1:
            raise InputError(f"two label files are called {name}; rename one: a label's source is its file's name")


def _form(file: Path, asked: str) -> str:
    if asked != "auto" and asked not in FORMATS:
        raise InputError(f"no label format {asked!r}; known: {known_formats()}")
    return recognise(file) if asked == "auto" else asked


def _refuse_strangers(file: Path, found: Imported, layers: int, d_mlp: int) -> None:
    strangers = found.rejected.get(OUT_OF_RANGE, 0)
    if strangers > _FOREIGN * found.rows_in:
        raise InputError(
            f"{file.name} is of another model: {strangers:,} of {found.rows_in:,} neurons are out of range "
            f"({layers} layers of {d_mlp}), first {found.first}; nothing is imported, give the labels of this model"
        )


class _Reader:
    """Entries of the files of one import -> rows, and a count of what is wrong with the others."""

    def __init__(self, file: Path, form: str, sizes: Sizes, how: Reading) -> None:
        self._file, self._form, self._sizes, self._how = file, form, sizes, how
        self._seen = bytearray(sizes.layers * sizes.d_mlp * len(PASSES) * 3)  # a byte a neuron, pass and sign
        self._faults: Counter[str] = Counter()
        self._quotes: dict[str, list[str]] = {}
        self._first: str | None = None
        self._entries = self._further = 0

    def read(self, files: list[Path], rows: _Rows) -> Imported:
        records, lines = FORMATS[self._form].records, self._form == "autointerp"
        for file in files:
            for entry in entries(file, self._form, self._how.said):
                self._entries += 1
                plain = plain_of(entry.value, self._sizes) if lines and entry.fault is None else None
                if plain and self._first_of(plain[0], plain[1], _PLAIN_PASS):
                    rows.add_plain(plain)
                    continue
                try:
                    self._take(entry, records(entry.value, file) if entry.fault is None else [], rows)
                except Fault as fault:
                    self._refuse(file, entry, str(fault))
        rejected = dict(sorted(self._faults.items(), key=lambda item: (-item[1], item[0])))
        notes = {_NOTE: self._further} if self._further else {}
        quotes = tuple(quote for fault in rejected for quote in self._quotes[fault])
        return Imported(self._entries, rows.count(), rejected, self._first, notes, quotes, self._form)

    def _take(self, entry: Entry, records: list[dict[str, Any]], rows: _Rows) -> None:
        if entry.fault is not None:
            raise Fault(entry.fault)
        fault, taken = None, 0
        for record in records:
            try:
                found = rows_of(record, self._sizes)
            except Fault as one:
                fault = fault or one
                continue
            fresh = [row for row in found if self._is_new(row)]
            taken += len(fresh)
            rows.add(fresh)
            told = reported_of(record) if fresh else None
            if told:
                rows.report(found[0], *told)
            listed = record.get("labels")
            self._further += bool(fresh) and isinstance(listed, list) and len(listed) > 1
        if not taken:
            raise fault or Fault(_TWICE)

    def _is_new(self, row: Row) -> bool:
        return self._first_of(row.layer, row.neuron, PASSES.index(row.which) * 3 + row.polarity + 1)

    def _first_of(self, layer: int, neuron: int, which: int) -> bool:
        """Whether it is the first label of a neuron's pass and sign, numbered together from 0."""
        place = (layer * self._sizes.d_mlp + neuron) * len(PASSES) * 3 + which
        known = self._seen[place]
        self._seen[place] = 1
        return not known

    def _refuse(self, file: Path, entry: Entry, fault: str) -> None:
        name = f"{file.relative_to(self._file)}, " if file != self._file else ""
        place = f"{name}line {entry.line:,}"
        if self._how.strict:
            raise InputError(f"{self._file.name}, {place}: {fault}{_quoted(entry)}; mend it, or import without strict")
        self._faults[fault] += 1
        self._first = self._first or f"at {place}"
        told = self._quotes.setdefault(fault, [])
        if len(told) < _QUOTED:
            told.append(f"{place}: {fault}{_quoted(entry)}")


def _quoted(entry: Entry) -> str:
    text = entry.raw[: 4 * _SHORT].decode(errors="replace").strip()
    shown = "".join(c if c.isprintable() else " " for c in text)
    return f": {shown[:_SHORT]}{'...' if len(text) > _SHORT or len(entry.raw) > 4 * _SHORT else ''}" if shown else ""


class _Rows:
    """Rows -> the tables, a batch at a time on a thread of its own: DuckDB works while the next lines are decoded."""

    def __init__(self, con: duckdb.DuckDBPyConnection, source: str) -> None:
        self._con, self._source = con, source
        self._rows: list[Row] = []
        self._plain: list[Plain] = []
        self._reports: dict[tuple[int, int], tuple[float | None, int | None]] = {}
        self._pool = ThreadPoolExecutor(1)
        self._pending: Future[None] | None = None
        self._written, self._last, self._ordered = 0, (-1, -1), True

    def __enter__(self) -> _Rows:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._flush()
                self._wait()
                if not self._ordered:
                    _sort(self._con, self._source)
        finally:
            self._pool.shutdown()

    def add(self, rows: list[Row]) -> None:
        if self._plain:
            self._flush()
        self._rows += rows
        if len(self._rows) >= _BATCH:
            self._flush()

    def add_plain(self, line: Plain) -> None:
        if self._rows:
            self._flush()
        self._plain.append(line)
        if len(self._plain) >= _BATCH:
            self._flush()

    def report(self, row: Row, strongest: float | None, shown: int | None) -> None:
        """Keep what an entry reports of a neuron: the largest counts."""
        key, known = (row.layer, row.neuron), (strongest, shown)
        if before := self._reports.get(key):
            known = _largest(before[0], strongest), _largest(before[1], shown)
        self._reports[key] = known

    def count(self) -> int:
        return self._written + len(self._rows) + len(self._plain)

    def _flush(self) -> None:
        rows, plain, reports = self._rows, self._plain, self._reports
        self._rows, self._plain, self._reports = [], [], {}
        self._written += len(rows) + len(plain)
        self._wait()
        self._pending = self._pool.submit(self._append, rows, plain, reports)

    def _wait(self) -> None:
        if self._pending is not None:
            self._pending.result()

    def _append(
        self, rows: list[Row], plain: list[Plain], reports: dict[tuple[int, int], tuple[float | None, int | None]]
    ) -> None:
        ids = [self._last, *(one[:2] for one in rows or plain)]
        self._ordered, self._last = self._ordered and ids == sorted(ids), ids[-1]
        if plain:
            _append_plain(self._con, plain, self._source)
        if rows:
            append_from_arrow(self._con, "labels", _labels(rows, self._source))
        if reports:
            append_from_arrow(self._con, "reported_activations", _reports(reports, self._source))


def _append_plain(con: duckdb.DuckDBPyConnection, lines: list[Plain], source: str) -> None:
    names = ("layer", "neuron", "label", "description", "max_activation", "num_exemplars")
    con.register("plain_lines", pa.table(dict(zip(names, zip(*lines, strict=True), strict=True))))
    same = "'autointerp' AS \"pass\", 0 AS polarity, 'ok' AS status, $1 AS source"
    try:
        append_from_query(con, "labels", f"SELECT layer, neuron, label, description, {same} FROM plain_lines", [source])
        append_from_query(
            con,
            "reported_activations",
            "SELECT layer, neuron, max_activation, num_exemplars, $1 AS source FROM plain_lines",
            [source],
        )
    finally:
        con.unregister("plain_lines")


def _labels(rows: list[Row], source: str) -> pa.Table:
    names = ["pass" if name == "which" else name for name in Row._fields]
    columns = dict(zip(names, zip(*rows, strict=True), strict=True))
    columns |= {"status": ("ok",) * len(rows), "source": (source,) * len(rows)}
    return pa.table(columns, schema=pa.schema([TABLES["labels"].field(name) for name in columns]))


def _reports(reports: dict[tuple[int, int], tuple[float | None, int | None]], source: str) -> pa.Table:
    rows: Iterator[tuple[Any, ...]] = ((*key, *told, source) for key, told in reports.items())
    schema = TABLES["reported_activations"]
    return pa.table(dict(zip(schema.names, zip(*rows, strict=True), strict=True)), schema=schema)


def _largest(one: Any, other: Any) -> Any:
    return max((value for value in (one, other) if value is not None), default=None)


def _sort(con: duckdb.DuckDBPyConnection, source: str) -> None:
    """Order a source's rows by neuron: a question about a neuron then reads one row group, not all."""
    con.execute("CREATE OR REPLACE TEMP TABLE unsorted_labels AS SELECT * FROM labels WHERE source = $1", [source])
    con.execute("DELETE FROM labels WHERE source = $1", [source])
    con.execute('INSERT INTO labels SELECT * FROM unsorted_labels ORDER BY layer, neuron, "pass", polarity')
    con.execute("DROP TABLE temp.unsorted_labels")
