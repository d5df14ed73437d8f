"""A folder of `atlas report` -> pages that are missing, left over, of something else, or not offline."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from atlas.export.package_check.fields import check_fields
from atlas.export.package_check.job import Job
from atlas.export.package_check.package import read_lines

_LOADS = re.compile(
    rb"""<(?:script|img|link|iframe|source|video|audio)\b[^>]*?\b(?:src|href)\s*=\s*["']?\s*(?:https?:)?//[^"'\s>]+"""
    rb"""|@import\s+["'u][^;]*//[^;]+|url\(\s*["']?(?:https?:)?//[^)]+""",
    re.IGNORECASE,
)
_IDS = {"neuron": "id", "module": "cluster_path"}
_SCHEMAS = {"neuron": "atlas-neuron-dashboard/", "module": "atlas-module-dashboard/"}


def check_reports(job: Job) -> None:
    """The index, and every page and document."""
    found = job.document("index.json") if "index.json" in job.package.members else None
    if found is None or check_fields(found[0], {"schema": "text!", "reports": "objects!"}, found[1]):
        return
    entries, at = {}, found[1]
    if not found[0]["schema"].startswith("atlas-neuron-reports/"):
        at.say("report-schema", "atlas-neuron-reports/1", found[0]["schema"], "/schema")
    for i, entry in enumerate(found[0]["reports"]):
        below = at.under(f"/reports/{i}")
        if check_fields(entry, {"file": "text!", "kind": "text!", "id": "text!"}, below):
            continue
        entries[entry["file"]] = entry
        if entry["kind"] not in _SCHEMAS:
            below.say("report-schema", " or ".join(_SCHEMAS), entry["kind"], "/kind")
        for name in (f"html/{entry['file']}.html", f"json/{entry['file']}_dashboard.json"):
            if name not in job.package.members:
                below.say("report-missing", f"the file {name}", "no such file", "/file")
    for name in job.package.members:
        _check_page(job, name, entries)


def _check_page(job: Job, name: str, entries: dict[str, dict[str, str]]) -> None:
    place = PurePosixPath(name)
    if place.suffix == ".html":
        job.counts["pages"] += 1
        job.task.advance()
        for number, line in read_lines(job.package, name, job.findings):
            for load in _LOADS.findall(line):
                job.at(name, number).say("report-offline", "nothing from a network", load.decode(errors="replace"))
    key = place.name.removesuffix("_dashboard.json") if place.suffix == ".json" else place.stem
    if place.parts[0] not in ("html", "json") or len(place.parts) != 2:
        return
    if key not in entries:
        job.at(name).say("report-extra", "a page of index.json", key)
    elif place.parts[0] == "json" and (found := job.document(name)):
        document, at = found
        entry = entries[key]
        schema = _SCHEMAS.get(entry["kind"], "atlas-")
        if not str(document.get("schema", "")).startswith(schema):
            at.say("report-schema", f"{schema}1", document.get("schema", "no schema"), "/schema")
        elif document.get(key := _IDS.get(entry["kind"], "id")) != entry["id"]:
            at.say("report-schema", entry["id"], document.get(key, f"no {key}"), f"/{key}")
