"""One JSON object or list of any size -> its members, good and bad, from a window of text.

Python's own decoder, in C, finds where each value ends. Behind a damaged member reading goes on at the next one whose
key is a neuron id.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from atlas.ingest.label_formats.entries import CUT, LONGEST, NOT_JSON, Entry, chunks

_NESTED = ("neurons", "labels", "profiles", "explanations", "data")  # keys at the top that hold the entries
_ABOUT = ("metadata", "meta", "config", "info", "model", "version", "stats", "statistics", "created")  # say no label
_KEY = re.compile(r'\s*("(?:[^"\\]|\\.)*")\s*:\s*')
_NEXT_ID = re.compile(r'"L?\d+[/_:]N?\d+"\s*:\s*\{')
_NEXT_ELEMENT = re.compile(r"\n\s*\{")
_SPACE = re.compile(r"\s*")
_QUOTED = 1000


class _Damaged(Exception):
    """The value at hand is no JSON; `cut`: because the file ends inside it."""

    def __init__(self, *, cut: bool) -> None:
        super().__init__()
        self.cut = cut


def members(path: Path, said: Callable[[int], None]) -> Iterator[Entry]:
    """Members of the top object as (key, value) and elements of a top list; a member such as "neurons" is opened."""
    window = _Window(path, said)
    yield from _elements(window) if window.peek() == "[" else _object(window, top=True)


class _Window:
    def __init__(self, path: Path, said: Callable[[int], None]) -> None:
        self._source = chunks(path, said)
        self._decode = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape").decode
        self._scan = json.JSONDecoder().raw_decode
        self.text, self.at, self.line = "", 0, 1

    def peek(self) -> str:
        """Return the next character that is no white space; '' at the end."""
        while True:
            found = _SPACE.match(self.text, self.at)
            self.step(found.end() if found else self.at)
            if self.at < len(self.text):
                return self.text[self.at]
            if not self.grow():
                return ""

    def step(self, at: int) -> None:
        self.line += self.text.count("\n", self.at, at)
        self.at = at

    def grow(self) -> bool:
        """Read on, at least as much as is at hand: what is decoded again and again then costs twice its length."""
        more, wanted = [self.text[self.at :]], max(len(self.text) - self.at, 1)
        while wanted > 0 and (chunk := next(self._source, None)):
            more.append(self._decode(chunk))
            wanted -= len(chunk)
        if len(more) > 1:
            self.text, self.at = "".join(more), 0
        return len(more) > 1

    def match(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        while True:
            found = pattern.match(self.text, self.at)
            if found and found.end() < len(self.text):
                return found
            if len(self.text) - self.at > LONGEST or not self.grow():
                return found

    def value(self) -> Any:
        """Decode the value at hand and step behind it; _Damaged leaves the place as it was."""
        while True:
            try:
                found, end = self._scan(self.text, self.at)
            except json.JSONDecodeError as error:
                inside = error.pos < len(self.text) - 16 and not error.msg.startswith("Unterminated")
                if inside or len(self.text) - self.at > LONGEST:
                    raise _Damaged(cut=False) from error
                if not self.grow():
                    raise _Damaged(cut=True) from error
                continue
            except (ValueError, RecursionError) as error:  # a number of 5,000 digits, lists 1,000 deep
                raise _Damaged(cut=False) from error
            if end + 2 >= len(self.text) and self.grow():
                continue  # a number may go on: "12" "." or "12.5" "e-"
            self.step(end)
            return found

    def quote(self) -> bytes:
        return self.text[self.at : self.at + _QUOTED].encode(errors="replace")

    def resume(self, pattern: re.Pattern[str]) -> bool:
        """Go on at the next place where the pattern stands; False when there is none."""
        self.step(min(self.at + 1, len(self.text)))
        while True:
            found = pattern.search(self.text, self.at)
            if found:
                self.step(found.start())
                return True
            self.step(max(self.at, len(self.text) - 200))  # a key may straddle the end of the window
            if not self.grow():
                return False


def _object(window: _Window, *, top: bool) -> Iterator[Entry]:
    window.peek()
    window.step(window.at + 1)
    while (mark := window.peek()) not in ("}", ""):
        if mark == ",":
            window.step(window.at + 1)
            continue
        line, found, quote = window.line, window.match(_KEY), window.quote()
        try:
            if found is None:
                raise _Damaged(cut=True)
            key = json.loads(found[1], strict=False)
            window.step(found.end())
            if top and key in _NESTED and window.peek() in "[{":
                yield from _elements(window) if window.peek() == "[" else _object(window, top=False)
                continue
            entry = Entry(line, (key, window.value()), quote)
            if not (top and key in _ABOUT):
                yield entry
        except (_Damaged, ValueError) as damage:
            cut = isinstance(damage, _Damaged) and damage.cut
            more = window.resume(_NEXT_ID)
            yield Entry(line, None, quote, CUT if cut and not more else NOT_JSON)
            if not more:
                return
    yield from _close(window, mark)


def _elements(window: _Window) -> Iterator[Entry]:
    window.peek()
    window.step(window.at + 1)
    while (mark := window.peek()) not in ("]", ""):
        if mark == ",":
            window.step(window.at + 1)
            continue
        line, quote = window.line, window.quote()
        try:
            yield Entry(line, window.value(), quote)
        except _Damaged as damage:
            more = window.resume(_NEXT_ELEMENT)
            yield Entry(line, None, quote, CUT if damage.cut and not more else NOT_JSON)
            if not more:
                return
    yield from _close(window, mark)


def _close(window: _Window, mark: str) -> Iterator[Entry]:
    if mark:
        window.step(window.at + 1)
    else:
        yield Entry(window.line, None, b"", CUT)
