"""A tokenizer's inner pieces -> the text a person would see.

Three families of pieces exist: byte-level (every byte written as one printable character, space as U+0120), Metaspace
(space written as U+2581, odd bytes as <0x0A>) and plain words. Which one a tokenizer uses is read from its own
decoder, because each family may legitimately hold the other's marker as text.
"""

from __future__ import annotations

import json
import re
from typing import Any

from atlas.errors import InputError

_BYTE_PIECE = re.compile(r"^<0x([0-9A-Fa-f]{2})>$")
_METASPACE = "▁"


def token_texts(tokenizer: Any, vocab: int) -> list[str]:
    r"""Text of every token id 0 .. vocab - 1, in order.

    A leading space is kept where the token has one; a word-level tokenizer (no decoder) joins its words with spaces, so
    each of them has one: texts of consecutive tokens can be joined as they are. Bytes that are no UTF-8 on their own
    and control characters are written as "\xe2"; special tokens appear by name; ids without a piece (padding of the
    embedding, or no tokenizer) as "<token 511>".
    """
    if tokenizer is None:
        return [f"<token {i}>" for i in range(vocab)]
    special = {i: str(token.content) for i, token in tokenizer.added_tokens_decoder.items()}
    pieces = tokenizer.convert_ids_to_tokens(list(range(min(vocab, len(tokenizer)))))
    kinds = _decoder_kinds(tokenizer)
    space = " " if _joins_words(tokenizer) else ""
    texts = [
        special[i] if i in special else space + _visible(_piece_text(piece, i, kinds)) for i, piece in enumerate(pieces)
    ]
    return texts + [f"<token {i}>" for i in range(len(texts), vocab)]


def token_id(tokenizer: Any, text: str) -> int:
    """The token that a text is; InputError when it is none, several (with what it is cut into) or unknown."""
    if tokenizer is None:
        raise InputError("the model has no tokenizer, so tokens cannot be named; save one in its folder")
    found = tokenizer(text, add_special_tokens=False)["input_ids"]
    if len(found) == 1 and (found[0] != tokenizer.unk_token_id or text == tokenizer.unk_token):
        return int(found[0])
    if len(found) == 1:
        raise InputError(f"target {text!r} is not in the vocabulary ({tokenizer.unk_token}); choose a word that is")
    pieces = ", ".join(repr(tokenizer.decode([one])) for one in found)
    hint = "begin it with a space if it starts a word" if not text.startswith(" ") else "name its first token"
    raise InputError(f"target {text!r} is {len(found)} tokens ({pieces or 'none'}), a target is one; {hint}")


def _joins_words(tokenizer: Any) -> bool:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return backend is not None and json.loads(backend.to_str()).get("decoder") is None


def _decoder_kinds(tokenizer: Any) -> set[str]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:  # a slow tokenizer: only sentencepiece models are left without a fast form
        return {"Metaspace", "ByteFallback"}
    state = json.loads(backend.to_str())
    found: set[str] = set()
    for part in ("decoder", "pre_tokenizer", "normalizer"):
        _collect(state.get(part), found)
    return found


def _collect(node: Any, found: set[str]) -> None:
    if isinstance(node, list):
        for item in node:
            _collect(item, found)
    elif isinstance(node, dict):
        kind = node.get("type")
        if isinstance(kind, str):
            found.add("Metaspace" if kind == "Replace" and _METASPACE in json.dumps(node, ensure_ascii=False) else kind)
        for value in node.values():
            _collect(value, found)


def _piece_text(piece: str | None, token_id: int, kinds: set[str]) -> str:
    if piece is None:
        return f"<token {token_id}>"
    if "ByteLevel" in kinds:
        return _byte_level_text(piece)
    match = _BYTE_PIECE.match(piece) if "ByteFallback" in kinds else None
    if match:
        return bytes([int(match[1], 16)]).decode("utf-8", errors="backslashreplace")
    if "Metaspace" in kinds:
        return piece.replace(_METASPACE, " ")
    return piece.removesuffix("</w>") if "BPEDecoder" in kinds else piece


def _visible(text: str) -> str:
    # A NUL or an escape character would break terminals and CSV readers; tab and line breaks are ordinary text.
    return "".join(c if c >= " " or c in "\t\n\r" else f"\\x{ord(c):02x}" for c in text)


def _byte_level_text(piece: str) -> str:
    # A piece with a character outside the byte alphabet was added as plain text and is shown as it is.
    if any(char not in _BYTE_OF for char in piece):
        return piece
    return bytes(_BYTE_OF[char] for char in piece).decode("utf-8", errors="backslashreplace")


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's printable alphabet of the 256 bytes: visible Latin-1 as it is, the rest from U+0100 on."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {chr(b): b for b in visible} | {chr(256 + i): b for i, b in enumerate(hidden)}


_BYTE_OF = _byte_alphabet()
