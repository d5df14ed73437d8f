"""The layout of the export document -> where metadata.json, features, explanations and weights disagree.

No importer of the field reads it; the readers are people's own scripts, which follow the document.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from atlas.export.package_check.feature_lists import check_density
from atlas.export.package_check.fields import Fields, check_fields
from atlas.export.package_check.finding import At
from atlas.export.package_check.job import Job
from atlas.export.package_check.json_text import parse
from atlas.export.package_check.package import read_document
from atlas.export.package_check.saelens import check_folder, saelens_folders

_INCLUDES = ("logit_lens", "histograms", "top_tokens", "explanations", "saelens_weights")
_METADATA: Fields = {
    "sae_id": "text!", "sae_name": "text!", "model_name": "text!", "layer": "integer!", "d_in": "integer!",
    "d_sae": "integer!", "architecture": "text!", "export_date": "time!", "feature_count": "integer!",
    "includes": "object!",
}  # fmt: skip
_FEATURE: Fields = {
    "feature_index": "integer!", "label": "text!?", "category": "text!?", "statistics": "object!",
    "logit_lens": "object?", "histogram": "object?", "top_tokens": "objects?", "activations": "objects!",
}  # fmt: skip
_STATISTICS: Fields = {"activation_frequency": "number!?", "max_activation": "number!?", "mean_activation": "number!?"}
_TOKEN: Fields = {"token": "text!", "value": "number!"}
_LENS: Fields = {"top_positive": "objects!", "top_negative": "objects!"}
_TOP: Fields = {"token": "text!", "count": "integer!", "mean_activation": "number?"}
_HISTOGRAM: Fields = {"bin_edges": "numbers!", "counts": "numbers!"}
_ACTIVATION: Fields = {"token": "text!", "value": "number!", "context_before": "text!", "context_after": "text!"}
_PLACE = re.compile(r"(?P<folder>(?:.*/)?)(?:features/[^/]+\.json|explanations/explanations\.json)")
_NAME = re.compile(r"(\d+)\.json")
_Row = dict[str, Any]


@dataclass
class _Seen:
    """What the features of one package hold."""

    labels: dict[int, str | None] = field(default_factory=dict)
    files: dict[int, str] = field(default_factory=dict)
    includes: set[str] = field(default_factory=set)
    unread: int = 0


def check_prd(job: Job) -> None:
    """All packages of this layout inside, and their weights."""
    found = (_PLACE.fullmatch(name) for name in job.package.members)
    for folder in sorted({one["folder"] for one in found if one}):
        _check_one(job, folder)


def _check_one(job: Job, folder: str) -> None:
    name = f"{folder}metadata.json"
    if name not in job.package.members:
        job.at(name).say("prd-metadata", "the file metadata.json", "no such file")
    found = job.document(name) if name in job.package.members else None
    metadata, at = found or ({}, job.at(name))
    bad = check_fields(metadata, _METADATA, at) if found else _METADATA.keys()
    for key in ("d_in", "d_sae"):
        if key not in bad and metadata[key] < 1:
            at.say("prd-metadata", "a size over 0", metadata[key], f"/{key}")
    seen = _Seen()
    for file in _features(job, folder):
        _read_feature(job, file, seen, most=metadata.get("d_sae") if "d_sae" not in bad else None)
    many = len(seen.labels) + seen.unread
    if "feature_count" not in bad and metadata["feature_count"] != many:
        at.say("prd-feature-count", f"{many:,}, the files in features/", metadata["feature_count"], "/feature_count")
    _check_explanations(job, folder, seen)
    for weights in saelens_folders(job):
        if weights.startswith(folder):
            seen.includes.add("saelens_weights")
            features = job.counts["features"]
            check_folder(job, weights)
            job.counts["features"] = features
    if "includes" not in bad:
        _check_includes(metadata["includes"], seen, at.under("/includes"))


def _features(job: Job, folder: str) -> Iterator[str]:
    inside = f"{folder}features/"
    return (name for name in job.package.members if name.startswith(inside))


def _read_feature(job: Job, file: str, seen: _Seen, *, most: Any) -> None:
    found = job.document(file)
    if found is None:
        seen.unread += 1
        return
    row, at = found
    bad = check_fields(row, _FEATURE, at)
    job.counts["features"] += 1
    _check_parts(row, bad, at, seen)
    number = _NAME.fullmatch(file.rsplit("/", 1)[-1])
    if "feature_index" in bad:
        seen.unread += 1
        return
    index = row["feature_index"]
    if not number or int(number[1]) != index:
        at.say("prd-feature-name", f"features/{index}.json", file.rsplit("/", 1)[-1], "/feature_index")
    if isinstance(most, int) and not 0 <= index < most:
        at.say("prd-index", f"0 to {most - 1:,}", index, "/feature_index")
    seen.labels[index] = row.get("label") if "label" not in bad else None
    seen.files[index] = file


def _check_parts(row: _Row, bad: frozenset[str], at: At, seen: _Seen) -> None:
    """The parts of a feature, and which of them it has."""
    if "statistics" not in bad:
        below = at.under("/statistics")
        wrong = check_fields(row["statistics"], _STATISTICS, below)
        frequency = row["statistics"].get("activation_frequency")
        if frequency is not None and "activation_frequency" not in wrong:
            check_density(frequency, "/activation_frequency", below)
    lens = row.get("logit_lens") if "logit_lens" not in bad else None
    if lens:
        wrong = check_fields(lens, _LENS, at.under("/logit_lens"))
        for key in _LENS.keys() - wrong:
            _each(lens[key], _TOKEN, at.under(f"/logit_lens/{key}"))
            seen.includes |= {"logit_lens"} if lens[key] else set()
    histogram = row.get("histogram") if "histogram" not in bad else None
    if histogram:
        seen.includes.add("histograms")
        _check_histogram(histogram, at.under("/histogram"))
    for key, fields in (("top_tokens", _TOP), ("activations", _ACTIVATION)):
        if key not in bad and row.get(key):
            _each(row[key], fields, at.under(f"/{key}"))
            seen.includes |= {key} & set(_INCLUDES)


def _each(rows: list[_Row], fields: Fields, at: At) -> None:
    for i, one in enumerate(rows):
        check_fields(one, fields, at.under(f"/{i}"))


def _check_histogram(histogram: _Row, at: At) -> None:
    if check_fields(histogram, _HISTOGRAM, at):
        return
    edges, counts = histogram["bin_edges"], histogram["counts"]
    if len(edges) != len(counts) + 1:
        at.say(
            "prd-histogram", f"{len(counts) + 1:,} edges for {len(counts):,} counts", f"{len(edges):,}", "/bin_edges"
        )
    elif any(one >= other for one, other in pairwise(edges)):
        at.say("prd-histogram", "edges that ascend", edges, "/bin_edges")
    elif min(counts, default=0) < 0:
        at.say("prd-histogram", "counts from 0", min(counts), "/counts")


def _check_explanations(job: Job, folder: str, seen: _Seen) -> None:
    """Compare explanations.json, where it is there, with the labels of the features."""
    file = f"{folder}explanations/explanations.json"
    if file not in job.package.members:
        return
    seen.includes.add("explanations")
    job.task.advance()
    content = read_document(job.package, file, job.findings)
    at = At(job.findings, file, text=content or b"")
    found, value = parse(content, at) if content is not None else (False, None)
    if not found:
        return
    if not isinstance(value, dict | list):
        return at.say("json-object", "explanations by feature", value)
    texts: dict[int, set[str]] = {}
    for index, text, pointer in _explained(value, at):
        job.counts["explanations"] += 1
        texts.setdefault(index, set()).add(text)
        if index not in seen.labels and not seen.unread:
            at.say("prd-explanations", "a feature of the package", f"feature {index}", pointer)
    for index, label in seen.labels.items():
        if label and label not in texts.get(index, ()):
            told = f"{label!r}, which explanations.json does not have for {index}"
            there = job.located(seen.files[index], "prd-explanations")
            there.say("prd-explanations", "a label of explanations.json", told, "/label")


def _explained(value: Any, at: At) -> Iterator[tuple[int, str, str]]:
    """(index, text, pointer) of a list of objects, of one under "explanations", or of {index: text}."""
    base = ""
    if isinstance(value, dict) and "explanations" in value:
        value, base = value["explanations"], "/explanations"
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in pairs:
        row = one if isinstance(one, dict) else {"label": one}
        index = row.get("feature_index", row.get("index", key if isinstance(value, dict) else None))
        texts = [
            row[name] for name in ("label", "explanation", "description", "text") if isinstance(row.get(name), str)
        ]
        if not texts or not (type(index) is int or (isinstance(index, str) and index.isdigit())):
            at.say("field-missing", "feature_index and label", one, f"{base}/{key}")
            continue
        yield int(str(index)), texts[0], f"{base}/{key}"


def _check_includes(includes: _Row, seen: _Seen, at: At) -> None:
    for key in _INCLUDES:
        there = key in seen.includes
        if not isinstance(includes.get(key), bool):
            at.say("prd-metadata", "true or false", includes.get(key, "no such key"), f"/{key}")
        elif includes[key] != there and not (seen.unread and includes[key]):
            at.say("prd-includes", str(there).lower(), str(includes[key]).lower(), f"/{key}")
