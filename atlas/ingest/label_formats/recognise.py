"""A label file -> its format by content, and its entries in that format.

What a file is called counts only for Delphi, whose files hold nothing but a text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from atlas.errors import InputError
from atlas.ingest.label_formats.entries import Entry, csv_rows, document, head_of, json_lines, parquet_rows
from atlas.ingest.label_formats.formats import DELPHI, FORMATS
from atlas.ingest.label_formats.members import members

_ID_KEY = re.compile(rb'\{\s*"L?\d+[/_:]N?\d+"\s*:')
_NESTED = re.compile(rb'"(neurons|labels|explanations|data)"\s*:\s*\{\s*"L?\d+[/_:]N?\d+"\s*:|"profiles"\s*:\s*\[')
_OBJECT_LINE = re.compile(rb"^\s*[{\[]", re.MULTILINE)
_IDS = {b"neuron_id", b"feature_id"}
_NEURONS = {b"neuron", b"neuron_index", b"neuron_idx", b"index"}
_LAYERS = {b"layer", b"layer_index", b"layer_idx"}
_LABELS = {b"label", b"description", b"explanation", b"text", b"output_label", b"input_label", b"autointerp_label"}
_BY_KEYS = (  # format, names of which all stand in its first entry, names of which none does; the first that fits
    ("openai", {b"scored_explanations"}, set[bytes]()),
    ("openai", {b"layer_index", b"neuron_index", b"neuron_id"}, set[bytes]()),
    ("neuronpedia", {b"modelId", b"index"}, set[bytes]()),
    ("transluce", {b"explanations", b"positive"}, set[bytes]()),
    ("transluce", {b"explanations", b"negative"}, set[bytes]()),
    ("transluce", {b"polarity", b"description"}, {b"label", b"labels", b"pass"}),
    *(("autointerp", {name}, set[bytes]()) for name in (b"feature_id", b"neuron_id", b"feature_metadata", b"neuron")),
)


def known_formats() -> str:
    """List the formats for a message, one after the other."""
    return "; ".join(f"{one.name} ({one.looks})" for one in FORMATS.values())


def recognise(file: Path) -> str:
    """Name of a file's format by its content; InputError that lists the known ones."""
    head = head_of(file).lstrip()
    found = _by_content(head, file)
    if found is None:
        said = f"it starts with {head[:60].decode(errors='replace')!r}" if head else "it is empty"
        raise InputError(f"{file.name} is in no known label format ({said}); known: {known_formats()}")
    return found


def entries(file: Path, form: str, said: Callable[[int], None]) -> Iterator[Entry]:
    """Entries of one file in the format named; `said` is told the bytes of content that were read."""
    head = head_of(file).lstrip()
    if head.startswith(b"PAR1"):
        return parquet_rows(file, said)
    if form == "delphi":
        return document(file, said)
    if head[:1] == b"[" or _is_dict(head):
        return members(file, said)
    if head[:1] != b"{" and form in ("csv", "parquet", "transluce"):
        return csv_rows(file, said)
    whole = form in ("openai", "transluce") and not head.partition(b"\n")[0].rstrip().endswith(b"}")
    return document(file, said) if whole else json_lines(file, said)


def _is_dict(head: bytes) -> bool:
    """Whether it is one object that holds all neurons, rather than an object a line."""
    return bool(_ID_KEY.match(head)) or (head[:1] == b"{" and bool(_NESTED.search(head)))


def _by_content(head: bytes, file: Path) -> str | None:
    if head.startswith(b"PAR1"):
        return "parquet"
    if file.suffix == ".txt" and DELPHI.match(file.name.removesuffix(".txt")):
        return "delphi"
    names = {name.strip(b' "\r') for name in re.split(rb"[,;\t]", head.partition(b"\n")[0].lower())}
    if head[:1] not in (b"{", b"[") and names & _LABELS and (names & _IDS or (names & _LAYERS and names & _NEURONS)):
        return "csv"
    found = _OBJECT_LINE.search(head)
    return _by_keys(head[found.end() - 1 :]) if found else None


def _by_keys(head: bytes) -> str | None:
    if _is_dict(head):
        return "combined" if _NESTED.search(head) or b'"function_label"' in head else "two-pass"
    names = set(re.findall(rb'"(\w+)"\s*:', head))
    return next((form for form, need, without in _BY_KEYS if need <= names and not without & names), None)
