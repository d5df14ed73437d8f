"""JSON files of a known shape: values -> stable text, and text -> checked values.

A shape is written as the JSON itself: {"layer": INTEGER, "clusters": [{...}]}. `Maybe(shape)` marks a field that
may be absent or null; fields that a shape does not name are allowed, because other tools add their own.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atlas.errors import InputError


@dataclass(frozen=True)
class Kind:
    """A scalar: the Python types it may have; `empty` allows null."""

    name: str
    types: tuple[type, ...]
    empty: bool = False


@dataclass(frozen=True)
class Maybe:
    """A field that may be absent or null."""

    shape: Any


@dataclass(frozen=True)
class Named:
    """An object whose keys are free and whose values have one shape."""

    shape: Any


INTEGER = Kind("an integer", (int,))
NUMBER = Kind("a number or null", (int, float), empty=True)  # not-a-number is written as null
TEXT = Kind("a text", (str,))
FLAG = Kind("true or false", (bool,))


def json_text(value: Any) -> str:
    """Value -> text with one line per innermost object or list, keys in their order, floats as shortest round trip.

    Floats that are not finite become null. Ends with a line break.
    """
    return _lines(value, "", top=True) + "\n"


def read_shaped(path: str | Path, shape: Any) -> Any:
    """Read a JSON file and check it; InputError names the file, the place, what was expected and what was found."""
    file = Path(path)
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f'no file {file}; write one with "atlas export seed-json"') from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file} is not whole JSON ({error}); copy or export it again") from error
    fault = _fault(value, shape, "")
    if fault:
        raise InputError(f"{file}: {fault}; mend the file or export it again")
    return value


def finite(value: float | None) -> float | None:
    """Give the number, or None when it is not finite."""
    return value if value is not None and math.isfinite(value) else None


def _lines(value: Any, indent: str, *, top: bool = False) -> str:
    inner = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    if not inner or not (top or any(isinstance(v, dict | list) for v in inner)):
        return json.dumps(_flat(value), ensure_ascii=False, allow_nan=False)
    below = indent + "  "
    if isinstance(value, dict):
        parts = [f"{below}{json.dumps(k, ensure_ascii=False)}: {_lines(v, below)}" for k, v in value.items()]
        return "{\n" + ",\n".join(parts) + f"\n{indent}}}"
    return "[\n" + ",\n".join(below + _lines(v, below) for v in value) + f"\n{indent}]"


def _flat(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _flat(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_flat(v) for v in value]
    return finite(value) if isinstance(value, float) else value


def _fault(value: Any, shape: Any, where: str) -> str | None:
    if isinstance(shape, Kind):
        return _scalar_fault(value, shape, where)
    if isinstance(shape, Maybe):
        return None if value is None else _fault(value, shape.shape, where)
    return _list_fault(value, shape, where) if isinstance(shape, list) else _object_fault(value, shape, where)


def _list_fault(value: Any, shape: list[Any], where: str) -> str | None:
    if not isinstance(value, list):
        return _mismatch("a list", value, where)
    return _first(_fault(item, shape[0], f"{where}[{i}]") for i, item in enumerate(value))


def _object_fault(value: Any, shape: Any, where: str) -> str | None:
    if not isinstance(value, dict):
        return _mismatch("an object", value, where)
    if isinstance(shape, Named):
        return _first(_fault(item, shape.shape, f"{where}.{key}") for key, item in value.items())
    return _first(_field_fault(value, key, inner, where) for key, inner in shape.items())


def _field_fault(value: dict[str, Any], key: str, shape: Any, where: str) -> str | None:
    if key not in value:
        present = ", ".join(sorted(value)) or "nothing"
        return None if isinstance(shape, Maybe) else f"{where or 'top level'} lacks {key!r} (it has {present})"
    return _fault(value[key], shape, f"{where}.{key}")


def _scalar_fault(value: Any, kind: Kind, where: str) -> str | None:
    right = type(value) in kind.types or (value is None and kind.empty)
    return None if right else _mismatch(kind.name, value, where)


def _mismatch(expected: str, value: Any, where: str) -> str:
    found = json.dumps(value, ensure_ascii=False)
    return f"{where or 'top level'} must be {expected}, found {found if len(found) <= 60 else found[:57] + '...'}"


def _first(faults: Any) -> str | None:
    return next((fault for fault in faults if fault), None)
