"""Rows of the bulk layout's three tables -> what breaks a batch of Neuronpedia's importer, or is shown wrongly.

The importer takes the columns from the first line, casts each value to its column's type, and inserts what does not
conflict: nothing is said of a row that it drops.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from atlas.export.package_check.feature_lists import STATISTICS, check_bin, check_place, check_statistics
from atlas.export.package_check.fields import Fields, check_fields, same_length
from atlas.export.package_check.finding import At

Row = Mapping[str, Any]
_PLACE: Fields = {"modelId": "text!", "layer": "text!", "index": "text!"}
# lists may be null: Postgres has them nullable, and the client reads null as an empty list
_LISTS: Fields = {name: kind if name == "frac_nonzero" else f"{kind}?" for name, kind in STATISTICS.items()}
FIELDS: dict[str, Fields] = {
    "features": {
        **_PLACE, **_LISTS, "sourceSetName": "text?", "creatorId": "text?", "createdAt": "stamp",
        "maxActApprox": "number?", "hasVector": "flag", "vector": "numbers?", "vectorLabel": "text?",
        "vectorDefaultSteerStrength": "number?", "hookName": "text?", "topkCosSimIndices": "integers?",
        "topkCosSimValues": "numbers?", "umap_cluster": "integer?", "umap_log_feature_sparsity": "number?",
        "umap_x": "number?", "umap_y": "number?",
    },
    "activations": {
        "id": "text!", **_PLACE, "creatorId": "text!", "maxValue": "number!", "minValue": "number!",
        "maxValueTokenIndex": "integer!", "tokens": "texts?", "values": "numbers?", "dataIndex": "text?",
        "dataSource": "text?", "dfaValues": "numbers?", "dfaTargetIndex": "integer?", "dfaMaxValue": "number?",
        "zQIndices": "integers?", "zKIndices": "integers?", "zIndices": "any?", "zValues": "numbers?",
        "createdAt": "stamp", "lossValues": "numbers?", "logitContributions": "text?", "binMin": "number?",
        "binMax": "number?", "binContains": "number?", "qualifyingTokenIndex": "integer?",
    },
    "explanations": {
        "id": "text!", **_PLACE, "authorId": "text!", "description": "text!", "embedding": "numbers?",
        "triggeredByUserId": "text?", "notes": "text?", "scoreV1": "number", "scoreV2": "number?", "umap_x": "number?",
        "umap_y": "number?", "umap_cluster": "integer?", "umap_log_feature_sparsity": "number?", "typeName": "text?",
        "explanationModelName": "text?", "createdAt": "stamp", "updatedAt": "stamp",
    },
}  # fmt: skip
_INDEX = re.compile(r"0|[1-9][0-9]*")
_HOOK_LAYER = re.compile(r"blocks\.(\d+)\.")
_CLOSE = 1e-4  # relative: values of a text may be rounded to 5 places, its largest not


def check_row(table: str, row: Row, source: tuple[str, str], at: At) -> frozenset[str]:
    """Apply a table's rules to one line; returns the keys whose values are not of their type.

    source: (model, source id) that the folders say.
    """
    fields = FIELDS[table]
    for name in row.keys() - fields.keys():
        at.say("row-key-unknown", f"columns of {table}", name, f"/{name}")
    bad = check_fields(row, fields, at)
    _check_place(row, bad, source, at)
    _CHECKS[table](row, bad, at)
    return bad


def _check_place(row: Row, bad: frozenset[str], source: tuple[str, str], at: At) -> None:
    model, layer = source
    if "modelId" not in bad and row["modelId"] != model.lower():
        at.say("model-id", f"{model.lower()}, the folder's name in lower case", row["modelId"], "/modelId")
    if "layer" not in bad and row["layer"] != layer:
        at.say("layer-source", f"{layer}, the folder's name", row["layer"], "/layer")
    if "index" not in bad and not _INDEX.fullmatch(row["index"]):
        at.say("index-text", 'a whole number as text, like "17"', row["index"], "/index")
    hook = row.get("hookName")
    if hook is not None and "hookName" not in bad:
        found = _HOOK_LAYER.match(hook)
        if not found or found[1] != layer.split("-")[0]:
            at.say("hook-layer", f"blocks.{layer.split('-')[0]}. and the hook's name", hook, "/hookName")
    for name in ("id", "creatorId", "authorId"):
        if name not in bad and row.get(name) is not None and not row[name].strip():
            at.say("id-text", "an id", row[name] or "empty text", f"/{name}")


def _check_feature(row: Row, bad: frozenset[str], at: At) -> None:
    check_statistics(row, bad, at)
    if not bad & {"hasVector", "vector"} and row.get("hasVector", False) != bool(row.get("vector")):
        told = f"hasVector {str(row.get('hasVector', False)).lower()}, {len(row.get('vector') or ()):,} values"
        at.say("vector", "hasVector where vector has values", told, "/hasVector")


def _check_activation(row: Row, bad: frozenset[str], at: At) -> None:
    tokens, values = row.get("tokens"), row.get("values")
    if bad & {"tokens", "values"}:
        return
    same_length(row, ("tokens", "values"), "activation-length", at)
    if not tokens or not values:
        at.say("activation-text", "tokens and values", "none", "/tokens")
    check_bin(row.get("binMin"), row.get("binMax"), row.get("binContains"), at)
    if "qualifyingTokenIndex" not in bad:
        check_place(row.get("qualifyingTokenIndex"), tokens, "/qualifyingTokenIndex", at)
    if values and not bad & {"maxValue", "minValue", "maxValueTokenIndex"}:
        _check_extremes(row, values, at)


def _check_extremes(row: Row, values: list[float], at: At) -> None:
    place, largest = row["maxValueTokenIndex"], max(values)
    if not _close(row["maxValue"], largest):
        at.say("activation-max", f"{largest}, the largest of values", row["maxValue"], "/maxValue")
    elif not 0 <= place < len(values) or not _close(values[place], largest):
        there = values[place] if 0 <= place < len(values) else "no value"
        told = f"{place}, where there is {there}"
        at.say("activation-max", f"{values.index(largest)}, the place of {largest}", told, "/maxValueTokenIndex")
    if not _close(row["minValue"], min(values)):
        at.say("activation-min", f"{min(values)}, the smallest of values", row["minValue"], "/minValue")


def _close(one: float, other: float) -> bool:
    return abs(one - other) <= _CLOSE * max(1.0, abs(other))


def _check_explanation(row: Row, bad: frozenset[str], at: At) -> None:
    embedding = row.get("embedding")
    if "embedding" not in bad and embedding is not None and len(embedding) != 256:
        at.say("embedding-256", "null or 256 numbers", f"{len(embedding):,} numbers", "/embedding")
    for name in ("typeName", "explanationModelName"):
        if name not in bad and row.get(name) is not None:
            at.say("type-null", "null", row[name], f"/{name}")
    if "description" not in bad and not row["description"].strip():
        at.say("explanation-text", "a description", "empty text", "/description")


_CHECKS: dict[str, Callable[[Row, frozenset[str], At], None]] = {
    "features": _check_feature,
    "activations": _check_activation,
    "explanations": _check_explanation,
}
