"""The labels of an atlas -> a file or folder in the format of another tool.

Where a neuron has more labels than a format holds (label_forms.py), those that the atlas' precedence puts first are
written, and the report says how many are left out. What is written is imported again as it was, apart from what the
format has no room for, and from white space around a text, NUL characters and empty texts, which imports take for none.
"""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import orjson

from atlas.errors import InputError, ResourceError
from atlas.export.folder import new_folder
from atlas.export.label_forms import COLUMNS, FORMS, About, Form, Label, Piece
from atlas.ingest.label_choice import drop_choice, rank_labels, read_precedence
from atlas.ingest.label_formats.records import LONGEST_LABEL
from atlas.progress import Progress, Quiet, Task
from atlas.store.sqlfiles import sql_text

if TYPE_CHECKING:
    from atlas.query.atlas import Atlas

_COUNT = "SELECT count(*) FROM label_ranks WHERE $1 IS NULL OR source = $1 OR starts_with(source, $1 || ':')"
_ROWS = 50_000  # of a Parquet row group


@dataclass(frozen=True)
class Exported:
    """What was written, and how many labels the format has no room for."""

    neurons: int
    labels: int
    left_out: int
    files: int
    bytes: int


def export_labels(
    atlas: Atlas,
    target: Path,
    *,
    form: str,
    source: str | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Exported:
    """Write the labels, of one source or of all, in one of FORMS; a file that ends in .gz is packed.

    openai and delphi are folders with a file a neuron: a folder that is not empty is refused, unless `force` (then
    files of the same name are replaced, and all others stay). Memory is one layer. File and folder appear when they are
    whole. Labels that no import takes (blank, or of over 10,000 characters) are left out. Raises InputError for an
    unknown format or when there is no label to write.
    """
    if form not in FORMS:
        raise InputError(f"no writer for label format {form!r}; there are {', '.join(FORMS)}")
    with (progress or Quiet()).task(f"labels as {form}", atlas.layers, "layers") as task:
        pieces = _Pieces(atlas, FORMS[form], source, task)
        try:
            if FORMS[form].layout == "folder":
                _write_folder(target, pieces, force)
            else:
                _write_file(target, pieces)
        except OSError as error:
            said = error.strerror or error
            raise ResourceError(f"{target} cannot be written: {said}; give another file") from error
    return Exported(pieces.neurons, pieces.labels, pieces.known - pieces.labels, *pieces.size)


class _Pieces:
    """Labels -> what a format makes of them, neuron by neuron; counts what it takes and what there is."""

    def __init__(self, atlas: Atlas, form: Form, source: str | None, task: Task) -> None:
        self.form, self._atlas, self._source, self._task = form, atlas, source, task
        self.neurons = self.labels = self.known = 0
        self.size = (0, 0)  # files and bytes written

    def __iter__(self) -> Iterator[Piece]:
        about = About(self._atlas.metadata.get("model", ""), self._atlas.d_mlp)
        for labels in self._of_neurons():
            chosen = self.form.choose(labels)
            if chosen:
                self.neurons += 1
                self.labels += len(chosen)
                yield from self.form.shape(chosen, about)
        if not self.neurons:
            which = f" of source {self._source!r}" if self._source else ""
            raise InputError(f"no labels{which} in {self._atlas.name}; nothing is written")

    def _of_neurons(self) -> Iterator[list[Label]]:
        """Labels of one neuron after the other, the one it shows first; at most one a pass and sign."""
        con, order = self._atlas.cursor(), read_precedence(self._atlas.metadata.get("label_precedence", "").split(","))
        for layer in range(self._atlas.layers):
            rank_labels(con, layer, order)
            self.known += con.execute(_COUNT, [self._source]).fetchall()[0][0]
            found = con.execute(sql_text("ingest", "label_best"), {"source": self._source, "longest": LONGEST_LABEL})
            names = [column[0] for column in found.description]
            labels: list[Label] = []
            for row in found.fetchall():
                label = dict(zip(names, row, strict=True))
                if labels and labels[0]["neuron"] != label["neuron"]:
                    yield labels
                    labels = []
                labels.append(label)
            if labels:
                yield labels
            self._task.advance()
        drop_choice(con)


def _write_folder(target: Path, pieces: _Pieces, force: bool) -> None:
    files = size = 0
    with new_folder(target, force=force) as draft:
        for name, said in pieces:
            content = orjson.dumps(said)
            path = draft / name
            try:
                path.write_bytes(content)
            except FileNotFoundError:  # the first of its layer's folder
                path.parent.mkdir()
                path.write_bytes(content)
            files, size = files + 1, size + len(content)
    pieces.size = (files, size)


def _write_file(target: Path, pieces: _Pieces) -> None:
    part = target.with_name(f".{target.name}.part")
    try:
        if pieces.form.layout == "parquet":
            _write_parquet(part, pieces)
        else:
            with _open(part, packed=target.suffix == ".gz") as out:
                _TEXT[pieces.form.layout](out, pieces)
        size = part.stat().st_size
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    pieces.size = (1, size)


def _open(path: Path, *, packed: bool) -> IO[bytes]:
    return gzip.open(path, "wb") if packed else path.open("wb")  # type: ignore[return-value]


def _write_object(out: IO[bytes], pieces: _Pieces) -> None:
    """One JSON object, a line a neuron; in a combined file it stands under "neurons"."""
    combined = pieces.form.name == "combined"
    before = b'{"neurons": {\n' if combined else b"{\n"
    for name, said in pieces:
        out.write(before + orjson.dumps(name) + b": " + orjson.dumps(said))
        before = b",\n"
    out.write(b"\n}}\n" if combined else b"\n}\n")


def _write_lines(out: IO[bytes], pieces: _Pieces) -> None:
    for _, said in pieces:
        out.write(orjson.dumps(said) + b"\n")


def _write_csv(out: IO[bytes], pieces: _Pieces) -> None:
    text = io.TextIOWrapper(out, "utf-8", newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(said.values() for _, said in pieces)
    text.detach()


def _write_parquet(part: Path, pieces: _Pieces) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from atlas.tables import TABLES

    schema = pa.schema([TABLES["labels"].field(name) for name in COLUMNS])
    with pq.ParquetWriter(part, schema, compression="zstd") as writer:
        for rows in _batches((said for _, said in pieces), _ROWS):
            writer.write_table(pa.Table.from_pylist(rows, schema))


def _batches(records: Iterable[Label], size: int) -> Iterator[list[Label]]:
    rows: list[Label] = []
    for one in records:
        rows.append(one)
        if len(rows) == size:
            yield rows
            rows = []
    yield rows


_TEXT: dict[str, Callable[[IO[bytes], _Pieces], Any]] = {
    "object": _write_object,
    "lines": _write_lines,
    "csv": _write_csv,
}
