"""model, release, sourceset and source.jsonl of one source -> what the importer's database client refuses.

Each file's line is created as it stands: an unknown key, a wrong type or a null that may not be stops the import. The
model is created before its sets, the set before its sources.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from atlas.export.package_check.fields import Fields, check_fields
from atlas.export.package_check.finding import At
from atlas.export.package_check.job import Job
from atlas.export.package_check.json_text import parse_object
from atlas.export.package_check.package import read_lines

FILES = ("release", "model", "sourceset", "source")  # in the order of the importer
_SHARED: Fields = {"createdAt": "stamp", "visibility": "text"}
FIELDS: dict[str, Fields] = {
    "model": {
        "id": "text!", "creatorId": "text!", "layers": "integer!", "neuronsPerLayer": "integer!", "owner": "text!",
        "displayName": "text", "displayNameShort": "text", "tlensId": "text?", "openRouterId": "text?",
        "hfRepoId": "text?", "dimension": "integer?", "thinking": "flag", "instruct": "flag",
        "inferenceEnabled": "flag", "website": "text?", "defaultSourceSetName": "text?", "defaultSourceId": "text?",
        "defaultGraphSourceSetName": "text?", "updatedAt": "stamp", **_SHARED,
    },
    "release": {
        "name": "text!", "description": "text!", "creatorName": "text!", "creatorId": "text!",
        "descriptionShort": "text?", "creatorNameShort": "text?", "creatorEmail": "text?", "urls": "texts",
        "isNewUi": "flag", "featured": "flag", "defaultSourceSetName": "text?", "defaultSourceId": "text?",
        "defaultUmapSourceIds": "texts", **_SHARED,
    },
    "sourceset": {
        "modelId": "text!", "name": "text!", "description": "text!", "creatorName": "text!", "creatorId": "text!",
        "type": "text", "urls": "texts?", "creatorEmail": "text?", "releaseName": "text?", "hasDashboards": "flag",
        "allowInferenceSearch": "flag", "hasGraphs": "flag", "graphEnabled": "flag", "similarityMatrixEnabled": "flag",
        "defaultOfModelId": "text?", "defaultGraphModelId": "text?", "defaultRange": "integer",
        "defaultShowBreaks": "flag", "showDfa": "flag", "showCorrelated": "flag", "showHeadAttribution": "flag",
        "showUmap": "flag", **_SHARED,
    },
    "source": {
        "id": "text!", "modelId": "text!", "setName": "text!", "creatorId": "text!", "hasDashboards": "flag",
        "inferenceEnabled": "flag", "inferenceHosts": "any?", "saelensConfig": "any?", "saelensRelease": "text?",
        "saelensSaeId": "text?", "hfRepoId": "text?", "hfFolderId": "text?", "defaultOfModelId": "text?",
        "hasUmap": "flag", "hasUmapLogSparsity": "flag", "hasUmapClusters": "flag", "num_prompts": "integer?",
        "num_tokens_in_prompt": "integer?", "dataset": "text?", "notes": "text?", "cosSimMatchModelId": "text?",
        "cosSimMatchSourceId": "text?", **_SHARED,
    },
}  # fmt: skip
_VISIBLE = ("PUBLIC", "UNLISTED", "PRIVATE")
_SIZES = frozenset({"layers", "neuronsPerLayer", "dimension", "num_prompts", "num_tokens_in_prompt"})
_SOURCE = re.compile(r"(?P<layer>0|[1-9][0-9]*)(?:-(?P<set>.+?)(?:__.+)?)?")


@dataclass(frozen=True)
class Known:
    """What the rows of a source must agree with; None where no metadata file says it."""

    set_name: str | None
    layers: int | None
    neurons: int | None  # of a layer


def check_metadata(job: Job, folder: str, source: tuple[str, str]) -> Known:
    """Check the four files of a source's folder, and say what they tell."""
    rows: dict[str, tuple[dict[str, Any], At]] = {}
    for name in FILES:
        file = f"{folder}{name}.jsonl"
        if f"{file}.gz" in job.package.members:
            job.at(f"{file}.gz").say("bulk-metadata-gzip", f"{name}.jsonl", f"{name}.jsonl.gz")
        elif file not in job.package.members:
            if not job.package.single:
                job.at(file).say("bulk-metadata-missing", f"the file {name}.jsonl", "no such file")
        elif found := _read(job, file, name):
            rows[name] = found
    _check_links(rows, source)
    known = rows.get("sourceset", rows.get("source"))
    found = known[0].get("name", known[0].get("setName")) if known else None
    model = rows["model"][0] if "model" in rows else {}
    sizes = [model.get(key) for key in ("layers", "neuronsPerLayer")]
    layers, neurons = (size if isinstance(size, int) and size > 0 else None for size in sizes)
    return Known(found if isinstance(found, str) else None, layers, neurons)


def _read(job: Job, file: str, name: str) -> tuple[dict[str, Any], At] | None:
    """The first line, checked by itself."""
    job.task.advance()
    first: tuple[dict[str, Any], At] | None = None
    count, damaged = 0, job.findings.damaged
    for number, raw in read_lines(job.package, file, job.findings):
        count, at = number, job.at(file, number)
        if not raw.strip():
            at.say("blank-line", "a JSON object", "a blank line")
        elif number > 1:
            at.say("bulk-metadata-lines", "exactly one line", f"line {number:,}")
        elif row := parse_object(raw, at):
            first = row, at
    if not count and job.findings.damaged == damaged:
        job.at(file).say("file-empty", "one line", "an empty file")
    if first:
        _check_line(*first, name)
    return first


def _check_line(row: dict[str, Any], at: At, name: str) -> None:
    fields = FIELDS[name]
    for key in row.keys() - fields.keys():
        at.say("bulk-metadata-unknown", f"keys of {name}", key, f"/{key}")
    bad = check_fields(row, fields, at)
    visible = row.get("visibility")
    if visible is not None and "visibility" not in bad and visible not in _VISIBLE:
        at.say("bulk-visibility", " or ".join(_VISIBLE), visible, "/visibility")
    elif visible in (None, "PRIVATE") and "visibility" not in bad:
        at.say("bulk-private", "PUBLIC or UNLISTED", visible or "no such key: PRIVATE", "/visibility")
    for key in _SIZES - bad:
        if row.get(key) is not None and row[key] < (0 if key.startswith("num_") else 1):
            at.say("bulk-sizes", "a positive number", row[key], f"/{key}")
    for key in ("creatorId", "id", "name"):
        if isinstance(row.get(key), str) and not row[key].strip():
            at.say("id-text", "a name or id", row[key] or "empty text", f"/{key}")
    defaults = ("defaultSourceSetName", "defaultSourceId", "defaultGraphSourceSetName")
    for key in defaults if name == "model" else ():
        if row.get(key) is not None:
            at.say("bulk-model-default", "null, or no such key", row[key], f"/{key}")


def _check_links(rows: dict[str, tuple[dict[str, Any], At]], source: tuple[str, str]) -> None:
    model, layer = source
    values = {name: row for name, (row, _) in rows.items()}
    wanted = [
        ("model", "id", model.lower(), "model-id"),
        ("sourceset", "modelId", model.lower(), "model-id"),
        ("source", "modelId", model.lower(), "model-id"),
        ("source", "id", layer, "layer-source"),
        ("source", "setName", values.get("sourceset", {}).get("name"), "bulk-metadata-link"),
        ("sourceset", "releaseName", values.get("release", {}).get("name"), "bulk-metadata-link"),
    ]
    for name, key, expected, rule in wanted:
        if name in rows and isinstance(values[name].get(key), str) and expected is not None:
            found, at = values[name][key], rows[name][1]
            if found != expected:
                at.say(rule, str(expected), found, f"/{key}")
    if "sourceset" in rows and values["sourceset"].get("releaseName") is None and "release" in rows:
        told = "the name of release.jsonl"
        rows["sourceset"][1].say("bulk-no-release", told, "none", "/releaseName")
    if "source" in rows:
        _check_form(values["source"], rows["source"][1])


def _check_form(row: dict[str, Any], at: At) -> None:
    """Layer and set of a source's id."""
    if not isinstance(row.get("id"), str) or not isinstance(row.get("setName"), str):
        return
    found = _SOURCE.fullmatch(row["id"])
    if not found:
        at.say("source-form", '"3" or "3-set"', row["id"], "/id")
    elif (found["set"] or "neurons") != row["setName"]:
        at.say("source-form", f"set {found['set'] or 'neurons'} for source {row['id']}", row["setName"], "/setName")
