"""Texts as stored -> texts that no importer trips over, and counts of all that was altered or left out.

Postgres takes no NUL, and the importer mistakes the six characters that JSON writes for one; both become the visible
four characters that the vocabulary uses for bytes without a text.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

_BAD = re.compile(r"\x00|\\u0000|[\ud800-\udfff]")
ELLIPSIS = "…"


@dataclass
class Tally:
    """What a package holds, what was altered in it and what was left out of it, counted by reason."""

    counts: Counter[str] = field(default_factory=Counter)
    altered: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)

    def text(self, text: str) -> str:
        """A text that can be published; altering it is counted."""
        made = visible(text)
        if made != text:
            self.altered["texts with NUL, its escape or half a character: made visible"] += 1
        return made

    def add(self, other: Mapping[str, Mapping[str, int]]) -> None:
        """Add the counts of a document."""
        self.counts.update(other["counts"])
        self.altered.update(other["altered"])
        self.left_out.update(other["left_out"])

    def document(self) -> dict[str, dict[str, int]]:
        """The counts by reason, sorted."""
        return {
            name: {key: count for key, count in sorted(getattr(self, name).items()) if count}
            for name in ("counts", "altered", "left_out")
        }


def visible(text: str) -> str:
    r"""Replace what an importer cannot store.

    >>> visible("a\x00b"), visible("a" + chr(92) + "u0000"), visible("\ud800")
    ('a\\x00b', 'a\\x00', '\ufffd')
    """
    return _BAD.sub(lambda found: "\ufffd" if "\ud800" <= found[0] <= "\udfff" else "\\x00", text)
