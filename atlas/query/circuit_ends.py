"""What a person names as an end of a circuit -> neurons, or tokens: "embedding: doctor", "logit: she", "logit:#1234".

The text of a token is taken as it stands, with its leading space; without one it may still mean the only token of that
spelling.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from atlas.errors import InputError, StoreError
from atlas.neuron import NeuronId
from atlas.query.selector import N, Selection, select

if TYPE_CHECKING:
    from atlas.query.atlas import Atlas

TokenKind = Literal["embedding", "logit"]


@dataclass(frozen=True)
class End:
    """Packed ids of neurons (ascending) and tokens by id; one of the two may be empty."""

    neurons: tuple[int, ...]
    tokens: dict[int, str]
    text: str


def read_end(atlas: Atlas, given: Selection, kind: TokenKind) -> End:
    """A selection of neurons, tokens of one kind, or a list that holds both; InputError for the other kind."""
    items = list(given) if isinstance(given, list) else [given]
    words = [item for item in items if _is_token(item)]
    others = [item for item in items if not _is_token(item)]
    if items and not others:
        neurons: list[int] = []
    else:
        neurons = select(atlas, others if isinstance(given, list) else given)
    tokens: dict[int, str] = {}
    for word in words:
        tokens |= _token(atlas, str(word), kind)
    return End(tuple(neurons), tokens, _text(atlas, given, neurons, {i: f"{kind} {t!r}" for i, t in tokens.items()}))


def name_token(atlas: Atlas, ids: list[int]) -> dict[int, str]:
    """Texts of tokens by id; "#1234" for those that the vocabulary lacks."""
    rows = atlas.cursor().execute(
        "SELECT token_id, token FROM vocab WHERE token_id IN (SELECT unnest($ids))", {"ids": ids}
    )
    return {i: f"#{i}" for i in ids} | {i: text for i, text in rows.fetchall() if text is not None}


def _is_token(item: object) -> bool:
    return isinstance(item, str) and item.partition(":")[0] in ("embedding", "logit") and ":" in item


def _token(atlas: Atlas, word: str, kind: TokenKind) -> dict[int, str]:
    given, _, text = word.partition(":")
    if given != kind:
        side = "source" if given == "logit" else "target"
        raise InputError(
            f'{word!r} cannot be a {side}: a circuit runs from neurons or "embedding:..." to neurons or "logit:..."'
        )
    if atlas.require("token_edges"):
        raise StoreError(f"no token edges in {atlas.name}: {word!r} is joined to no neuron; see atlas info")
    if text[:1] == "#" and text[1:].isdigit():
        return _by_id(atlas, int(text[1:]), kind)
    return _by_text(atlas, text, kind)


def _by_id(atlas: Atlas, token: int, kind: TokenKind) -> dict[int, str]:
    known = name_token(atlas, [token])
    if known[token] == f"#{token}":
        found = atlas.cursor().execute(
            "SELECT 1 FROM token_edges WHERE kind = $kind AND token_id = $token LIMIT 1", {"kind": kind, "token": token}
        )
        if not found.fetchall():
            raise InputError(f"no token #{token} in {atlas.name}; ids are those of the table vocab")
    return known


def _by_text(atlas: Atlas, text: str, kind: TokenKind) -> dict[int, str]:
    text = text[1:-1] if len(text) > 2 and text[0] == text[-1] and text[0] in "'\"" else text
    rows = [(i, t) for _, i, t, _ in atlas.ask("matching_tokens", {"of_tokens": [text]}).fetchall()]
    found = [(i, t) for i, t in rows if t == text] or rows
    if len(found) == 1:
        return dict(found)
    if found:
        several = ", ".join(f"{kind}:#{i} {t!r}" for i, t in found)
        raise InputError(f"{text!r} may be several tokens ({several}); give one of these ids")
    near = [repr(token) for _, token, _ in atlas.ask("near_tokens", {"of_token": text, "max_rows": 5})]
    hint = f"nearest: {', '.join(near)}" if near else "none is spelled like it"
    raise InputError(f"no token {text!r} in the vocabulary ({hint}); a word may be several tokens: try a part")


def _text(atlas: Atlas, given: Selection, neurons: list[int], tokens: dict[int, str]) -> str:
    words = list(tokens.values())
    if isinstance(given, list) and len(given) == 1:  # as the command line has it
        given = given[0]  # type: ignore[assignment]
    if isinstance(given, str | N) and len(neurons) > 1:
        words.append(f"{given} ({len(neurons)} neurons)")
    elif len(neurons) > 3:
        words.append(f"{len(neurons)} neurons")
    else:
        words += [str(NeuronId.of_feature(i, atlas.d_mlp)) for i in neurons]
    return ", ".join(words)
