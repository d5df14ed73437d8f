"""Any text -> text that can be drawn: nothing invisible, cut to a width.

No font is known here, so widths are those of DejaVu Sans, the widest of the usual sans-serif fonts: text that fits by
them fits in Helvetica, Arial and Liberation Sans as well.
"""

from __future__ import annotations

import math
import re
import unicodedata
from typing import Any

from atlas.query.subgraph import Node

_NARROW, _WIDE = set("ijl.,:;'|!I()[]{}/\\`"), set("mwMW@%—…")
# Control characters, lone surrogates, marks that turn or hide text (bidi controls, zero widths), non-characters.
_INVISIBLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufffe\uffff\ud800-\udfff]"
)
_SHARES = re.compile("share|kept|explained|fraction|part|influence|budget|from")  # names of shares in [-1, 1]

# What a circuit's facts are called; "" where the counts of nodes and edges say it.
_PHRASES = {
    "influence": "{} of the target's input stems from the source",
    "signed_influence": "{} with signs",
    "budget": "{} of the influence asked for",
    "share_kept": "{} of the influence is kept",
    "signed_kept": "{} kept with signs",
    "nodes_kept": "",
    "edges_kept": "",
    "nodes_on_paths": "of {} nodes on paths",
    "edges_on_paths": "of {} edges on paths",
    "target_from_embeddings": "{} of the target's input comes straight from embeddings",
    "target_from_neurons": "{} from neurons",
    "explained_median": "the median graph explains {} of its metric",
    "min_count": "edges of at least {} observations",
    "min_edge_count": "the atlas keeps edges of at least {}",
    "edges_cut": "{} edges were cut from the atlas",
    "embeddings_shown": "{} embeddings shown",
    "embeddings_there": "of {}",
    "embeddings_share": "they bring {} of what enters",
}


def visible(text: str) -> str:
    r"""Text on one line in which nothing is invisible; XML allows every character that is left.

    >>> visible("a\nb\x00")
    'a\\nb\\x00'
    """
    return _INVISIBLE.sub(lambda match: _spelled(match[0]), text)


def quoted_token(text: str) -> str:
    """A token in quotes, its spaces as ␣.

    >>> quoted_token(" doctor")
    '“␣doctor”'
    """
    return f"“{visible(text).replace(' ', '␣')}”"


def caption(node: Node) -> str:
    """What a node is called: its label, its token in quotes, else its key."""
    if node.token is not None:
        return quoted_token(node.token)
    return visible(node.label).strip() if node.label and node.label.strip() else name(node)


def name(node: Node) -> str:
    """What a node is: "L3/N17", "token 1234" or "logit 1234"."""
    if node.kind == "neuron":
        return f"L{node.layer}/N{node.neuron}"
    return f"{'token' if node.kind == 'embedding' else 'logit'} {node.token_id}"


def width_of(text: str, size: float) -> float:
    """Most that a line of text takes, in the unit of `size`."""
    return sum(map(_advance, text)) * size


def wrapped(text: str, width: float, *, size: float, lines: int) -> tuple[str, ...]:
    """Lines no wider than `width`, the last one ending in an ellipsis where the text goes on; at least one."""
    found: list[str] = []
    rest = text
    while rest and len(found) < lines:
        if width_of(rest, size) <= width:
            return (*found, rest)
        at = _break(rest, width, size) if len(found) < lines - 1 else 0
        found.append(rest[:at].rstrip() if at else _cut(rest, width, size))
        rest = rest[at:].lstrip() if at else ""
    return tuple(found) or ("",)


def number(value: Any) -> str:
    """A number for reading: three figures, thousands apart; "" for none."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "" if value is None else str(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return visible(str(value))
    if isinstance(value, int) or (abs(value) >= 1000 and float(value).is_integer()):
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def percent(value: float) -> str:
    """A share in percent, of two figures below 10.

    >>> percent(0.0341), percent(0.8123), percent(1e-9)
    ('3.4%', '81%', '<0.1%')
    """
    if 0 < abs(value) < 0.001:
        return "<0.1%"
    return f"{value:.0%}" if abs(value) >= 0.0995 or value == 0 else f"{value * 100:.2g}%"


def in_words(facts: dict[str, Any]) -> list[str]:
    """Facts as phrases, shares in percent; those without a value, or told by the drawing, are left out.

    >>> in_words({"share_kept": 0.8, "nodes_cut": 1204, "nodes_kept": 7, "budget": None})
    ['80% of the influence is kept', 'nodes cut 1,204']
    """
    known = {visible(str(key)): value for key, value in facts.items() if value is not None}
    phrases = [(_PHRASES.get(key, f"{key.replace('_', ' ')} {{}}"), _fact(key, value)) for key, value in known.items()]
    return [phrase.replace("{}", text) for phrase, text in phrases if phrase]


def _fact(key: str, value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(in_words(value))
    if isinstance(value, list | tuple):
        return ", ".join(map(number, value)) or "none"
    if not (isinstance(value, float) and abs(value) <= 1 and _SHARES.search(key)):
        return number(value)
    signed = "+" if key.startswith("signed") and value > 0 else ""
    return signed + (f"{value:.0%}" if abs(value) >= 0.0995 or value == 0 else f"{value * 100:.2g}%")


def _spelled(character: str) -> str:
    return {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(character) or (
        f"\\x{ord(character):02x}" if ord(character) < 256 else f"\\u{ord(character):04x}"
    )


def _advance(character: str) -> float:
    if character in _NARROW:
        return 0.38
    if character in _WIDE or character.isupper():
        return 1.0 if character in _WIDE else 0.7
    if unicodedata.combining(character):
        return 0.0
    if character == " ":
        return 0.32
    return 1.05 if unicodedata.east_asian_width(character) in "WF" or ord(character) > 0xFFFF else 0.62


def _break(text: str, width: float, size: float) -> int:
    """Where to break the first line: after the last word that fits; 0 where no word does."""
    used, at = 0.0, 0
    for i, character in enumerate(text):
        used += _advance(character) * size
        if used > width:
            return at
        if character in " -/":
            at = i + 1
    return len(text)


def _cut(text: str, width: float, size: float) -> str:
    left = width - _advance("…") * size
    for i, character in enumerate(text):
        left -= _advance(character) * size
        if left < 0:
            return text[:i].rstrip() + "…"
    return text
