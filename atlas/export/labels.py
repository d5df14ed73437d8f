"""The labels of an atlas -> a file in the format of another tool: one label a neuron, or one a neuron, pass and sign.

Where a neuron has several, the one that the atlas' precedence puts first is written; the report says how many are left
out. What is written can be imported again and gives the same labels.
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
from atlas.ingest.label_choice import drop_choice, rank_labels, read_precedence
from atlas.neuron import NeuronId
from atlas.store.sqlfiles import sql_text

if TYPE_CHECKING:
    from atlas.query.atlas import Atlas

Record = dict[str, Any]
WRITTEN = ("two-pass", "autointerp", "neuronpedia", "csv", "parquet")
_COLUMNS = (
    "layer", "neuron", "pass", "polarity", "label", "short_label", "description", "type", "interpretability",
    "confidence", "source", "model", "prompt_version", "prompt_hash", "run", "score", "created",
)  # fmt: skip
_MADE = ("model", "run", "created")


@dataclass(frozen=True)
class Exported:
    """What was written, and how many labels the format has no room for."""

    neurons: int
    labels: int
    left_out: int


def export_labels(atlas: Atlas, file: Path, *, form: str, source: str | None = None) -> Exported:
    """Write the labels, of one source or of all, in one of the formats WRITTEN; a file that ends in .gz is packed.

    Memory is one layer. The file appears when it is whole. Raises InputError for an unknown format or when there is no
    label to write.
    """
    if form not in WRITTEN:
        raise InputError(f"no writer for label format {form!r}; there are {', '.join(WRITTEN)}")
    part = file.with_name(f".{file.name}.part")
    counted = _Counted(_neurons(atlas, source))
    try:
        if form == "parquet":
            _write_parquet(part, counted)
        else:
            with _open(part, packed=file.suffix == ".gz") as out:
                _TEXT[form](out, counted, atlas)
        if not counted.neurons:
            raise InputError(
                f"no labels{f' of source {source!r}' if source else ''} in {atlas.name}; nothing is written"
            )
        part.replace(file)
    except OSError as error:
        raise ResourceError(f"{file} cannot be written: {error.strerror or error}; give another file") from error
    finally:
        part.unlink(missing_ok=True)
    return Exported(counted.neurons, counted.written, counted.labels - counted.written)


class _Counted:
    """Labels by neuron, counted as they pass; a writer says how many of a neuron it wrote."""

    def __init__(self, neurons: Iterator[list[Record]]) -> None:
        self._neurons = neurons
        self.neurons = self.labels = self.written = 0

    def __iter__(self) -> Iterator[list[Record]]:
        for labels in self._neurons:
            self.neurons += 1
            self.labels += len(labels)
            yield labels


def _neurons(atlas: Atlas, source: str | None) -> Iterator[list[Record]]:
    """Labels of one neuron after the other, the one it shows first; at most one a pass and sign."""
    con, order = atlas.cursor(), read_precedence(atlas.metadata.get("label_precedence", "").split(","))
    for layer in range(atlas.layers):
        rank_labels(con, layer, order)
        found = con.execute(sql_text("ingest", "label_best"), {"source": source})
        names = [column[0] for column in found.description]
        labels: list[Record] = []
        for row in found.fetchall():
            record = dict(zip(names, row, strict=True))
            if labels and labels[0]["neuron"] != record["neuron"]:
                yield labels
                labels = []
            labels.append(record)
        if labels:
            yield labels
    drop_choice(con)


def _open(path: Path, *, packed: bool) -> IO[bytes]:
    return gzip.open(path, "wb") if packed else path.open("wb")  # type: ignore[return-value]


def _write_two_pass(out: IO[bytes], neurons: _Counted, atlas: Atlas) -> None:
    """One JSON object, {"L31/N0": {...}}, a line a neuron."""
    before = b"{\n"
    for labels in neurons:
        best: dict[str, Record] = {}
        for one in labels:
            best.setdefault(one["pass"], one)
        said = _two_pass(best)
        neurons.written += sum(name in best for name in ("output", "input", "autointerp"))
        if said:
            key = str(NeuronId(labels[0]["layer"], labels[0]["neuron"]))
            out.write(before + orjson.dumps(key) + b": " + orjson.dumps(said))
            before = b",\n"
    out.write(b"\n}\n" if before != b"{\n" else b"{}\n")


def _two_pass(best: dict[str, Record]) -> Record:
    said: Record = {}
    if one := best.get("output"):
        said |= {name: one[name] for name in ("label", "short_label")} | {"output_function": one["description"]}
        said |= {name: one[name] for name in ("type", "interpretability", "confidence")}
    if one := best.get("input"):
        said |= {"input_label": one["label"], "input_function": one["description"]}
        said |= {f"input_{name}": one[name] for name in ("type", "interpretability", "confidence")}
    if one := best.get("autointerp"):
        said["autointerp_label"] = one["label"]
    made = next((best[name] for name in ("output", "input", "autointerp") if name in best), None)
    said |= {name: made[name] for name in _MADE} if made else {}
    return {name: value for name, value in said.items() if value is not None}


def _write_autointerp(out: IO[bytes], neurons: _Counted, atlas: Atlas) -> None:
    """A line a neuron, with the label that it shows; pass and sign stand there where they are not the usual ones."""
    for one in _shown(neurons):
        told = {"label": one["label"], "description": one["description"]}
        place = {"layer": one["layer"], "neuron": one["neuron"]}
        seen = {"num_exemplars": one["num_exemplars"], "max_activation": one["max_activation"]}
        line: Record = {
            "feature_id": one["layer"] * atlas.d_mlp + one["neuron"],
            "labels": [{"label": one["label"], "metadata": {"parsed_response": told}}],
            "feature_metadata": place | {name: value for name, value in seen.items() if value is not None},
        }
        line |= {"pass": one["pass"]} if one["pass"] != "autointerp" else {}
        line |= {"polarity": one["polarity"]} if one["polarity"] else {}
        names = ("short_label", "type", "interpretability", "confidence", "score", *_MADE)
        out.write(orjson.dumps(line | {name: one[name] for name in names if one[name] is not None}) + b"\n")


def _write_neuronpedia(out: IO[bytes], neurons: _Counted, atlas: Atlas) -> None:
    """A line a neuron, as in Neuronpedia's exports of explanations: layer and index are texts."""
    for one in _shown(neurons):
        line = {
            "modelId": atlas.metadata.get("model", ""), "layer": str(one["layer"]), "index": str(one["neuron"]),
            "description": one["label"], "typeName": one["run"] or one["source"],
            "explanationModelName": one["model"], "createdAt": one["created"],
        }  # fmt: skip
        line |= {"scores": [{"value": one["score"]}]} if one["score"] is not None else {}
        out.write(orjson.dumps({name: value for name, value in line.items() if value is not None}) + b"\n")


def _shown(neurons: _Counted) -> Iterator[Record]:
    for labels in neurons:
        neurons.written += 1
        yield labels[0]


def _write_csv(out: IO[bytes], neurons: _Counted, atlas: Atlas) -> None:
    """A row a neuron, pass and sign, with every column of the table labels."""
    text = io.TextIOWrapper(out, "utf-8", newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    writer.writerows([one[name] for name in _COLUMNS] for one in _all(neurons))
    text.detach()


def _write_parquet(part: Path, neurons: _Counted) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from atlas.tables import TABLES

    schema = pa.schema([TABLES["labels"].field(name) for name in _COLUMNS])
    with pq.ParquetWriter(part, schema, compression="zstd") as writer:
        for rows in _batches(_all(neurons), 50_000):
            writer.write_table(pa.Table.from_pylist([{name: one[name] for name in _COLUMNS} for one in rows], schema))


def _all(neurons: _Counted) -> Iterator[Record]:
    for labels in neurons:
        neurons.written += len(labels)
        yield from sorted(labels, key=lambda one: (one["pass"], one["polarity"]))


def _batches(records: Iterable[Record], size: int) -> Iterator[list[Record]]:
    rows: list[Record] = []
    for one in records:
        rows.append(one)
        if len(rows) == size:
            yield rows
            rows = []
    yield rows


_TEXT: dict[str, Callable[[IO[bytes], _Counted, Atlas], None]] = {
    "two-pass": _write_two_pass,
    "autointerp": _write_autointerp,
    "neuronpedia": _write_neuronpedia,
    "csv": _write_csv,
}
