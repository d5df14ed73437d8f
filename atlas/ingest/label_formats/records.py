"""One record of a label file -> rows of labels of one neuron, or the fault that it has.

A record names its neuron as feature_id, neuron_id or neuron ("L24/N5326"), layer and neuron, or feature_metadata{layer,
neuron}; when several are given they must agree. `label` or labels[0] is the main text; output_*, input_* and
autointerp_label are those passes. Without a `pass`, the main text of a record of both passes is its output label, any
other an autointerp label.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

OUT_OF_RANGE = "out of the model's range"
PASSES = ("output", "input", "autointerp", "manual")
LONGEST_LABEL, LONGEST_TEXT = 10_000, 1_000_000  # characters; real labels have 40-200, descriptions up to 2,000
_ID = re.compile(r"\s*[Ll]?(\d+)\s*[/_:,]\s*[Nn]?(\d+)(?:_\d+)?\s*")
_DIGITS = re.compile(r"\s*[LlNn]?(\d{1,18})(?:\.0+)?\s*")  # as pandas writes integers beside blanks: 12.0
_SIGNS = {"positive": 1, "pos": 1, "+": 1, "negative": -1, "neg": -1, "-": -1}
_TWO_PASS = frozenset(
    ["pass", "output_label", "output_function", "input_label", "input_function", "autointerp_label"]
)  # fmt: skip


Plain = tuple[int, int, str, str, float, int]  # layer, neuron, label, description, largest activation, exemplars


class Fault(Exception):
    """Why a record gives no label; the text continues "1,234 lines ..."."""


class Row(NamedTuple):
    """What a file says of one pass and sign of one neuron: columns of the table labels."""

    layer: int
    neuron: int
    which: str  # the pass
    polarity: int
    label: str
    short_label: str | None
    description: str | None
    type: str | None
    interpretability: str | None
    confidence: str | None
    model: str | None
    prompt_version: str | None
    prompt_hash: str | None
    run: str | None
    score: float | None
    created: str | None


class _Pass(NamedTuple):
    which: str
    label: str | None
    description: str | None = None
    type: str | None = None
    interpretability: str | None = None
    confidence: str | None = None


class Sizes(NamedTuple):
    """Of the model that the atlas is of."""

    layers: int
    d_mlp: int


def rows_of(record: Mapping[str, Any], sizes: Sizes) -> list[Row]:
    """Rows of one record, at least one; Fault when there is no label or no neuron in it."""
    layer, neuron = _neuron(record, sizes.d_mlp)
    if layer >= sizes.layers or neuron >= sizes.d_mlp:
        raise Fault(OUT_OF_RANGE)
    label, description = _main_text(record)
    passes = [] if record.keys().isdisjoint(_TWO_PASS) else _other_passes(record)
    which = _main_pass(record, passes)
    made: Any = [_text(record.get(key)) for key in ("model", "prompt_version", "prompt_hash", "run")]
    made += [_number(record.get("score")), _text(record.get("created"))]
    sign = _sign(record.get("polarity"))
    rows, short = [], _text(record.get("short_label"))
    if label:
        why = description or _text(record.get("output_function"))
        rows.append(Row(layer, neuron, which, sign, label, short, why, *_kind(record, ""), *made))
    for one in passes:
        if one.label and not (label and one.which == which):
            its = short if one.which == "output" and not label else None
            told = (one.type, one.interpretability, one.confidence)
            rows.append(Row(layer, neuron, one.which, sign, one.label, its, one.description, *told, *made))
    if not rows:
        raise Fault("without a label text")
    if any(len(row.label) > LONGEST_LABEL for row in rows):
        raise Fault(f"with a label of over {LONGEST_LABEL:,} characters")
    return rows


def plain_of(record: Any, sizes: Sizes) -> Plain | None:
    """What a line of autointerp's labels.jsonl says when nothing in it is unusual; None sends it to rows_of.

    1.5 microseconds where rows_of and reported_of take 12: of 1.6 million lines nearly all are plain. The texts must be
    free of halves of surrogate pairs, as orjson's are.
    """
    try:
        told, first = record["feature_metadata"], record["labels"][0]
        layer, neuron, label = told["layer"], told["neuron"], first["label"].strip()
        description = first["metadata"]["parsed_response"]["description"].strip()
        strongest, shown = told["max_activation"], told["num_exemplars"]
        packed = record["feature_id"]
    except (KeyError, IndexError, TypeError, AttributeError):
        return None
    if len(record) != 3 or len(record["labels"]) != 1 or type(strongest) is not float or type(shown) is not int:
        return None
    if type(layer) is not int or type(neuron) is not int or packed != layer * sizes.d_mlp + neuron:
        return None
    if not (
        0 <= layer < sizes.layers and 0 <= neuron < sizes.d_mlp and -1e38 < strongest < 1e38 and 0 <= shown < 2**31
    ):
        return None
    if not (0 < len(label) <= LONGEST_LABEL and 0 < len(description) <= LONGEST_TEXT) or "\0" in label + description:
        return None
    return layer, neuron, label, description, strongest, shown


def reported_of(record: Mapping[str, Any]) -> tuple[float | None, int | None] | None:
    """Largest activation and number of exemplars that a record reports; None without them."""
    told = record.get("feature_metadata")
    told = told if isinstance(told, dict) else {}
    strongest = _number(_first(record.get("max_activation"), told.get("max_activation")))
    shown = _number(_first(record.get("num_exemplars"), told.get("num_exemplars")))
    if strongest is not None and abs(strongest) >= 1e38:  # beyond 32 bits
        strongest = None
    count = int(shown) if shown is not None and 0 <= shown < 2**31 else None
    return None if strongest is None and count is None else (strongest, count)


def _neuron(record: Mapping[str, Any], d_mlp: int) -> tuple[int, int]:
    layer, neuron, told = record.get("layer"), record.get("neuron"), record.get("feature_metadata")
    found = [_packed(record[key], d_mlp) for key in ("feature_id", "neuron_id") if record.get(key) is not None]
    if neuron is not None and not (isinstance(neuron, str) and not _DIGITS.fullmatch(neuron)):
        found += [_pair(layer, neuron)] if layer is not None else []
    elif neuron is not None:
        found.append(_packed(neuron, d_mlp))
    if isinstance(told, dict) and told.get("layer") is not None and told.get("neuron") is not None:
        found.append(_pair(told["layer"], told["neuron"]))
    if not found:
        raise Fault("without a neuron id")
    if any(one != found[0] for one in found):
        raise Fault("with neuron ids that disagree")
    return found[0]


def _packed(value: Any, d_mlp: int) -> tuple[int, int]:
    if isinstance(value, str):
        match = _ID.fullmatch(value)
        if match:
            return _whole(match[1]), _whole(match[2])
    return divmod(_whole(value), d_mlp)


def _pair(layer: Any, neuron: Any) -> tuple[int, int]:
    return _whole(layer), _whole(neuron)


def _whole(value: Any) -> int:
    if type(value) is int and value >= 0:
        return value
    if isinstance(value, float) and value >= 0 and value.is_integer():
        return int(value)
    match = _DIGITS.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise Fault("with an unreadable neuron id")
    return int(match[1])


def _main_text(record: Mapping[str, Any]) -> tuple[str | None, str | None]:
    label, description = _text(record.get("label")), _text(record.get("description"))
    listed = record.get("labels")
    if isinstance(listed, list) and listed and isinstance(listed[0], dict) and not (label and description):
        first = listed[0]
        told = first.get("metadata")
        said = told.get("parsed_response") if isinstance(told, dict) else None
        said = said if isinstance(said, dict) else {}
        label = label or _text(first.get("label")) or _text(said.get("label"))
        description = description or _text(first.get("description")) or _text(said.get("description"))
    return label, description


def _other_passes(record: Mapping[str, Any]) -> list[_Pass]:
    """What a record says of the passes beside its main text."""
    found = [
        _Pass(
            which, _text(record.get(f"{which}_label")), _text(record.get(f"{which}_function")), *_kind(record, prefix)
        )
        for which, prefix in (("output", ""), ("input", "input_"))
    ]
    return [*found, _Pass("autointerp", _text(record.get("autointerp_label")))]


def _kind(record: Mapping[str, Any], prefix: str) -> tuple[str | None, str | None, str | None]:
    kind, clarity, confidence = (record.get(f"{prefix}{key}") for key in ("type", "interpretability", "confidence"))
    return _text(kind), _text(clarity), _text(confidence)


def _main_pass(record: Mapping[str, Any], passes: list[_Pass]) -> str:
    given = record.get("pass")
    if given is not None:
        which = str(given).strip().lower()
        if which not in PASSES:
            raise Fault("with an unknown pass")
        return which
    both = passes and not passes[0].label and (passes[0].description or passes[1].label or passes[1].description)
    return "output" if both else "autointerp"


def _sign(value: Any) -> int:
    if value is None or value == 0:
        return 0
    if isinstance(value, str):
        known = _SIGNS.get(value.strip().lower())
        if known is not None:
            return known
    found = _number(value)
    return 0 if not found else 1 if found > 0 else -1


def _text(value: Any) -> str | None:
    """Text without white space around it; numbers as text; None for blanks, lists and objects."""
    if not isinstance(value, str):
        return None if value is None or isinstance(value, (bool, list, dict)) else str(value)
    found = value.strip()
    if not found.isascii():
        try:
            found.encode()
        except UnicodeEncodeError as error:  # half of a surrogate pair, or bytes that were no text
            raise Fault("not UTF-8 text") from error
    if "\0" in found:
        found = found.replace("\0", "").strip()
    return found[:LONGEST_TEXT] or None


def _number(value: Any) -> float | None:
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)
