"""A JSON pointer and the text of a document -> the line where the value stands.

The text is walked down the pointer; values beside the way are skipped by the standard decoder.
"""

from __future__ import annotations

import json
import re

_SPACE = re.compile(r"[ \t\r\n,]*")


def line_of(text: bytes, pointer: str) -> int | None:
    r"""Line, from 1, of the value at `pointer`; of the nearest value above it where it is absent; None for no JSON.

    >>> line_of(b'{\n "a": [1,\n 2]}', "/a/1")
    3
    """
    try:
        whole = text.decode("utf-8", "surrogatepass")
        at = _start(whole, 0)
        for part in pointer.split("/")[1:]:
            below = _child(whole, at, part.replace("~1", "/").replace("~0", "~"))
            if below is None:
                break
            at = below
    except (ValueError, IndexError, RecursionError):
        return None
    return whole.count("\n", 0, at) + 1


def escaped(key: str) -> str:
    """A key as a part of a pointer."""
    return key.replace("~", "~0").replace("/", "~1")


def _start(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _child(text: str, at: int, part: str) -> int | None:
    """Where the member or item `part` of the container at `at` starts."""
    decoder = json.JSONDecoder()
    if text[at] not in "{[":
        return None
    close, number = "}" if text[at] == "{" else "]", 0
    at = _start(text, at + 1)
    while text[at] != close:
        name = str(number)
        if close == "}":
            name, at = decoder.raw_decode(text, at)
            at = _start(text, text.index(":", at) + 1)
        if name == part:
            return at
        at, number = _start(text, decoder.raw_decode(text, at)[1]), number + 1
    return None
