"""JSON Schemas of the pruning documents (tests/export/*.schema.json) and the part of JSON Schema that they use."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

_KINDS = {
    "object": dict, "array": list, "string": str, "number": (int, float), "integer": int, "boolean": bool,
    "null": type(None),
}  # fmt: skip


def weight_schema() -> dict[str, Any]:
    return _read("weight_analysis")


def impact_schema() -> dict[str, Any]:
    return _read("impact_analysis")


def schema_faults(value: Any, schema: dict[str, Any], where: str = "$") -> list[str]:
    """What is wrong with a value, with its place; empty when nothing is."""
    if "const" in schema:
        return [] if value is schema["const"] else [f"{where}: {value!r} is not {schema['const']!r}"]
    kinds = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
    if not any(_is(value, kind) for kind in kinds):
        return [f"{where}: {value!r} is no {' or '.join(kinds)}"]
    faults: list[str] = []
    if isinstance(value, dict):
        faults += [f"{where}.{key} is missing" for key in schema.get("required", ()) if key not in value]
        known, rest = schema.get("properties", {}), schema.get("additionalProperties", True)
        for key, item in value.items():
            inner = known.get(key, rest)
            if inner is False:
                faults.append(f"{where}.{key} is unknown")
            elif isinstance(inner, dict):
                faults += schema_faults(item, inner, f"{where}.{key}")
    if isinstance(value, list):
        for i, item in enumerate(value):
            faults += schema_faults(item, schema["items"], f"{where}[{i}]")
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        low, high = schema.get("minimum", -math.inf), schema.get("maximum", math.inf)
        faults += [] if low <= value <= high else [f"{where}: {value} is outside {low}..{high}"]
    return faults


def _is(value: Any, kind: str) -> bool:
    return isinstance(value, _KINDS[kind]) and (kind == "boolean" or not isinstance(value, bool))


def _read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((Path(__file__).parent / "export" / f"{name}.schema.json").read_text())
    return found
