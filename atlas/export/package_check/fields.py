"""A table of keys and kinds -> which values of an object are missing, null or of another type.

A kind is written as text: "numbers" may be absent but not null, "numbers?" may be null, "numbers!" must be there and
not null, "numbers!?" must be there and may be null.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any

from atlas.export.package_check.finding import At
from atlas.export.package_check.pointer import escaped

Fields = Mapping[str, str]
_SPOKEN = {
    "text": "text", "number": "a number", "integer": "a whole number", "whole": "a whole number",
    "flag": "true or false", "time": "a time like 2025-12-05T00:00:00Z",
    "stamp": "a time like 2025-12-05T00:00:00Z", "any": "a value", "texts": "a list of texts",
    "numbers": "a list of numbers", "integers": "a list of whole numbers", "objects": "a list of objects",
    "object": "an object",
}  # fmt: skip
_ABSENT = object()


@dataclass(frozen=True)
class _Asked:
    """A kind as it is written in a table."""

    kind: str
    required: bool
    nullable: bool
    holds: Callable[[Any], bool]  # surely; where not, the value is looked at again to say why


def check_fields(row: Mapping[str, Any], fields: Fields, at: At) -> frozenset[str]:
    """Report what is wrong with the values by type; returns the keys that no other rule should look at."""
    bad = []
    for name, written in fields.items():
        value, asked = row.get(name, _ABSENT), _asked(written)
        if value is _ABSENT:
            if asked.required:
                at.say("field-missing", f"the key {name}", "no such key", "/" + escaped(name))
                bad.append(name)
        elif value is None:
            if not asked.nullable:
                rule = "updated-null" if asked.kind == "stamp" else "field-null"
                at.say(rule, _SPOKEN[asked.kind], "null", "/" + escaped(name))
                bad.append(name)
        elif not asked.holds(value) and not _holds(value, asked.kind, at.under("/" + escaped(name))):
            bad.append(name)
    return frozenset(bad)


@cache
def _asked(written: str) -> _Asked:
    kind = written.rstrip("!?")
    return _Asked(kind, "!" in written, "?" in written, _SURELY.get(kind, lambda value: False))


def is_number(value: object) -> bool:
    """Whether a value is a finite number and no flag."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < math.inf


def is_time(text: str) -> bool:
    """Whether a text is a time as ISO 8601 writes it."""
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def same_length(row: Mapping[str, Any], names: Sequence[str], rule: str, at: At) -> None:
    """Report lists that should pair up and do not; absent and null lists count as empty."""
    sizes = {name: len(row.get(name) or ()) for name in names}
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"{name} {size:,}" for name, size in sizes.items())
        at.say(rule, "lists of one length", told, "/" + names[-1])


def _holds(value: Any, kind: str, at: At) -> bool:
    if kind in _LISTS:
        return _list_holds(value, kind, at)
    if kind in ("number", "integer") and isinstance(value, int | float) and not isinstance(value, bool):
        return _in_range(value, kind, at)
    if _ONE[kind](value):
        return True
    at.say("field-type", _SPOKEN[kind], value)
    return False


def _in_range(value: float, kind: str, at: At) -> bool:
    if kind == "integer" and isinstance(value, float):
        at.say("field-type", _SPOKEN[kind], value)
        return False
    most = 2**31 if kind == "integer" else math.inf
    if not -most <= value < most or not abs(value) < math.inf:
        at.say("number-range", "a whole number of 32 bits" if kind == "integer" else "a finite number", value)
        return False
    return True


def _list_holds(value: Any, kind: str, at: At) -> bool:
    if not isinstance(value, list):
        at.say("field-type", _SPOKEN[kind], value)
        return False
    types = _LISTS[kind]
    if not set(map(type, value)) <= types:
        place = next(i for i, one in enumerate(value) if type(one) not in types)
        at.say("field-type", _SPOKEN[kind], value[place], f"/{place}")
        return False
    if (kind in ("numbers", "integers") and not math.isfinite(sum(value))) or kind == "integers":
        return all([_in_range(one, kind[:-1], at.under(f"/{i}")) for i, one in enumerate(value)])
    return True


_LISTS: dict[str, frozenset[type]] = {
    "texts": frozenset({str}), "numbers": frozenset({int, float}), "integers": frozenset({int}),
    "objects": frozenset({dict}),
}  # fmt: skip
_ONE: dict[str, Callable[[Any], bool]] = {
    "text": lambda value: isinstance(value, str),
    "flag": lambda value: isinstance(value, bool),
    "object": lambda value: isinstance(value, dict),
    "number": lambda value: False,
    "integer": lambda value: False,
    "time": lambda value: isinstance(value, str) and is_time(value),
    "stamp": lambda value: isinstance(value, str) and is_time(value),
    "whole": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "any": lambda value: True,
}
# most values of most packages: one look at the type. Numbers that orjson read are finite: it refuses 1e999.
_SURELY: dict[str, Callable[[Any], bool]] = {
    "text": lambda value: type(value) is str,
    "flag": lambda value: type(value) is bool,
    "number": lambda value: type(value) is float and -math.inf < value < math.inf,
    "integer": lambda value: type(value) is int and -(2**31) <= value < 2**31,
    "texts": lambda value: type(value) is list and set(map(type, value)) <= _LISTS["texts"],
    "numbers": lambda value: type(value) is list and set(map(type, value)) <= _LISTS["numbers"],
}
