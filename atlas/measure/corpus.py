"""Corpus files -> documents -> contexts (token sequences that never mix two documents).

A document is one string of the file. It is tokenised without special tokens, cut into consecutive pieces that fit the
context length, and every piece starts with the model's BOS token when it has one (policy "auto").
"""

from __future__ import annotations

import json
from codecs import BOM_UTF8
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from atlas.errors import InputError
from atlas.measure.documents import column_of_parquet, pieces_of_file
from atlas.neuron import ModelSpec
from atlas.shards import file_sha256
from atlas.tables import CONTEXTS_PER_DOCUMENT

BosPolicy = Literal["auto", "never"]
DEFAULT_CONTEXT = 512  # longer contexts cost quadratic attention and change MLP activations little
_FORMS = "a JSON list, JSON lines, Parquet (each with a `text` field) or plain text"


@dataclass(frozen=True)
class Corpus:
    """The documents of one file, in file order; `sha256` is the hash of the whole file."""

    name: str
    documents: Sequence[str]
    sha256: str


@dataclass(frozen=True)
class Context:
    """One token sequence the model reads at once.

    `token_ids` includes BOS where there is one; `offset` is the index, within the document's tokens (BOS not counted),
    of the context's first document token.
    """

    context_id: int  # document * CONTEXTS_PER_DOCUMENT + index of the context within the document
    document: int
    offset: int
    token_ids: tuple[int, ...]


def read_corpus(path: str | Path, *, limit: int | None = None, whole_file: bool = False) -> Corpus:
    """Read the documents of a corpus file in file order; `limit` keeps the first so many.

    `.json` is a list of strings or of objects with "text"; `.jsonl` has one of these per line; `.parquet` has a string
    column `text` (NULL = empty document); any other file is UTF-8 text with blank lines between documents, or one
    document with `whole_file`. Empty JSON and Parquet documents stay, so that indices are those of the file. Texts are
    read when asked for (documents.py): 16 bytes a document are held, or a Parquet row group; but those of a JSON list,
    or of a whole file, are held once, twice while they are parsed. Raises InputError for a missing, empty, cut or
    undecodable file and for a missing text field.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no corpus file {path}; give {_FORMS}")
    if limit is not None and limit < 1:
        raise InputError(f"limit is {limit}; keep at least 1 document")
    documents = _documents(path, whole_file, limit)
    if not any(documents):
        raise InputError(f"{path} holds no text ({len(documents)} documents); give a corpus with text")
    return Corpus(path.stem, documents, file_sha256(path))


def context_length(spec: ModelSpec, asked: int | None) -> int:
    """Context length to use: `asked`, or the model's own up to 512; InputError when the model's is shorter."""
    if asked is None:
        return min(spec.context, DEFAULT_CONTEXT)
    if asked > spec.context:
        raise InputError(f"context length {asked} is longer than the {spec.context} of {spec.name}; use at most that")
    if asked < 2:
        raise InputError(f"context length {asked} is too short; use 2 to {spec.context}")
    return asked


def contexts(
    documents: Sequence[str],
    tokenizer: Any,
    *,
    first: int = 0,
    length: int,
    bos: BosPolicy = "auto",
) -> Iterator[Context]:
    """Tokenise documents and cut them into contexts of at most `length` tokens, in document order.

    `first` is the index of documents[0] in its corpus. A document without a token gives no context. Raises InputError
    when the model came without a tokenizer or a document needs more contexts than ids exist for.
    """
    if tokenizer is None:
        raise InputError("the model has no tokenizer, so text cannot be read; save one in its folder")
    start = () if bos == "never" or tokenizer.bos_token_id is None else (int(tokenizer.bos_token_id),)
    if not documents:
        return
    encoded = tokenizer(list(documents), add_special_tokens=False, verbose=False)["input_ids"]
    for index, token_ids in enumerate(encoded, start=first):
        yield from _cut(index, token_ids, start, length)


def _cut(document: int, token_ids: Sequence[int], start: tuple[int, ...], length: int) -> Iterator[Context]:
    step = length - len(start)
    if len(token_ids) > step * CONTEXTS_PER_DOCUMENT:
        raise InputError(
            f"document {document} has {len(token_ids)} tokens, more than {step * CONTEXTS_PER_DOCUMENT} "
            f"at context length {length}; split the document"
        )
    for chunk, offset in enumerate(range(0, len(token_ids), step)):
        yield Context(
            context_id=document * CONTEXTS_PER_DOCUMENT + chunk,
            document=document,
            offset=offset,
            token_ids=(*start, *token_ids[offset : offset + step]),
        )


def _documents(path: Path, whole_file: bool, limit: int | None) -> Sequence[str]:
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return _read_parquet(path, limit)
    if suffix == ".json":
        return _read_json(path, _decode(path))[:limit]
    if suffix in (".jsonl", ".ndjson"):
        return pieces_of_file(path, _lines(path), lambda raw: _line_text(path, raw, "a line"), limit)
    if whole_file:
        return [_decode(path)]
    return pieces_of_file(path, _paragraphs(path), lambda raw: raw.decode().rstrip("\r\n"), limit)


def _decode(path: Path) -> str:
    text = _utf8(path, path.read_bytes().removeprefix(BOM_UTF8), 0)
    if not text.strip():
        raise InputError(f"{path} is empty; give {_FORMS}")
    return text


def _utf8(path: Path, raw: bytes, start: int) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        bad = f"byte 0x{error.object[error.start]:02x} at position {start + error.start}"
        raise InputError(f"{path} is not UTF-8 text: {bad}; save it as UTF-8") from error


def _file_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Byte position and content of every line with its newline, after a byte order mark."""
    with path.open("rb") as file:
        start = len(BOM_UTF8) if file.read(len(BOM_UTF8)) == BOM_UTF8 else 0
        file.seek(start)
        for raw in file:
            yield start, raw
            start += len(raw)


def _lines(path: Path) -> Iterator[tuple[int, int]]:
    """Byte ranges of the lines of JSON, every one parsed once to refuse a damaged file."""
    empty = True
    for number, (start, raw) in enumerate(_file_lines(path), start=1):
        if _utf8(path, raw, start).strip():
            _line_text(path, raw, f"line {number}")
            yield start, start + len(raw)
            empty = False
    if empty:
        raise InputError(f"{path} is empty; give {_FORMS}")


def _line_text(path: Path, raw: bytes, where: str) -> str:
    return _text_of(path, _parse(path, raw.decode().rstrip("\n"), f"{where}: "), where)


def _paragraphs(path: Path) -> Iterator[tuple[int, int]]:
    """Byte ranges between blank lines; a form feed or a Unicode separator ends a line too."""
    first = end = -1
    for start, line in _text_lines(path):
        if line.strip():
            first, end = (start if first < 0 else first), start + len(line.encode())
        elif first >= 0:
            yield first, end
            first = -1
    if first >= 0:
        yield first, end
    elif end < 0:
        raise InputError(f"{path} is empty; give {_FORMS}")


def _text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Byte position and text of every line, as str.splitlines cuts them."""
    for begin, raw in _file_lines(path):
        position = begin
        for line in _utf8(path, raw, begin).splitlines(keepends=True):
            yield position, line
            position += len(line.encode())


def _read_json(path: Path, text: str) -> list[str]:
    found = _parse(path, text, "")
    if not isinstance(found, list):
        raise InputError(f"{path} holds a JSON {type(found).__name__}, expected a list of texts; give {_FORMS}")
    return [_text_of(path, item, f"document {i}") for i, item in enumerate(found)]


def _parse(path: Path, text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path} is not whole JSON: {where}{error.msg} at character {error.pos} of {len(text)}; "
            "if the file was cut, copy it again"
        ) from error


def _text_of(path: Path, item: Any, where: str) -> str:
    found = item.get("text") if isinstance(item, dict) else item
    if isinstance(found, str):
        return found
    has = f"an object with {', '.join(sorted(item)) or 'no field'}" if isinstance(item, dict) else type(item).__name__
    raise InputError(f'{path}, {where}: expected a string or an object with a string "text", found {has}')


def _read_parquet(path: Path, limit: int | None) -> Sequence[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path} is not a readable Parquet file ({error}); copy it again") from error
    if "text" not in schema.names:
        raise InputError(
            f"{path} has no column `text`, only {', '.join(schema.names)}; rename the text column to `text`"
        )
    kind = schema.field("text").type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise InputError(f"{path}: column `text` is {kind}, expected string; convert the column")
    return column_of_parquet(path, "text", limit)
