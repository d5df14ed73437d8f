"""Bytes of a line or a document -> the JSON value, or a finding that says why an importer cannot read it.

orjson reads almost everything; what it refuses is read again by the standard library, which tells the reasons apart.
"""

from __future__ import annotations

import json
import math
from typing import Any

import orjson

from atlas.export.package_check.finding import At

_NULL = b"\\u0000"


def parse_object(raw: bytes, at: At) -> dict[str, Any] | None:
    """The object, or None after a finding."""
    found, value = parse(raw, at)
    if not found:
        return None
    if not isinstance(value, dict):
        at.say("json-object", "a JSON object", value)
        return None
    return value


def parse(raw: bytes, at: At) -> tuple[bool, Any]:
    r"""(whether the text is JSON, its value); the six characters \u0000 are a finding, but the value is still told."""
    if _NULL in raw:
        escaped = raw[raw.index(_NULL) - 1 : raw.index(_NULL)] == b"\\"
        at.say("text-null", r"no \u0000", r"\\u0000: the six characters" if escaped else r"\u0000: a NUL character")
    try:
        return True, orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        return _diagnose(raw, at, error)


def _diagnose(raw: bytes, at: At, error: orjson.JSONDecodeError) -> tuple[bool, Any]:
    constants: list[str] = []
    huge: list[str] = []

    def real(text: str) -> float:
        if math.isinf(float(text)):
            huge.append(text)
        return float(text)

    try:
        text = raw.decode("utf-8")
        value = json.loads(text, parse_constant=constants.append, parse_float=real)
    except UnicodeDecodeError as wrong:
        at.say("text-utf8", "UTF-8", f"byte {raw[wrong.start]:#x} at byte {wrong.start + 1:,}")
        return False, None
    except RecursionError:
        at.say("json-invalid", "JSON", "values nested too deeply")
        return False, None
    except json.JSONDecodeError as wrong:
        line = f"line {wrong.lineno:,}, " if b"\n" in raw else ""
        at.say("json-invalid", "JSON", f"{wrong.msg} at {line}column {wrong.colno:,}: {text[wrong.pos :][:40]!r}")
        return False, None
    if constants:
        at.say("json-nan", "finite numbers", f"{constants[0]} ({len(constants):,} such values)")
    elif huge:
        at.say("number-range", "numbers below 1.8e308", f"{huge[0]} ({len(huge):,} such values)")
    elif _halved(value):
        at.say("text-surrogate", "text of whole characters", "half of a surrogate pair")
    else:
        at.say("json-invalid", "JSON", str(error))
    return False, None


def _halved(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False
