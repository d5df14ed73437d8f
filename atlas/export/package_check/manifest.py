"""metadata.json of a package -> what was lost, added or changed since it was written.

Known forms: "sha256": {name: digest}, and "files": {name: {"sha256": ..., "bytes": ...}} or a list of such objects with
their "path". Names are relative to the folder of metadata.json.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from atlas.export.package_check.finding import At
from atlas.export.package_check.job import Job
from atlas.export.package_check.package import Package, read_document, sha256, stored_whole
from atlas.export.package_check.pointer import escaped

NAME = "metadata.json"
_DIGEST = re.compile(r"[0-9a-f]{64}")
_COUNTED = ("features", "activations", "explanations", "sources")


@dataclass(frozen=True)
class Listed:
    """A file as the manifest has it; None where it does not say."""

    sha256: Any
    size: Any
    pointer: str  # where the manifest says so


def manifests(package: Package) -> list[str]:
    """Names of the manifests of a package."""
    return [name for name in package.members if name.rsplit("/", 1)[-1] == NAME]


def check_manifests(job: Job, *, wanted: bool) -> None:
    """Check each metadata.json that lists files; where none does and one is `wanted`, warn."""
    listing = 0
    for name in manifests(job.package):
        content = read_document(job.package, name, job.findings)
        value = _object(content)
        files = None if value is None else _listed(value)
        if value is not None and files is not None:
            listing += 1
            at = At(job.findings, name, text=content or b"")
            _check_files(job, name.removesuffix(NAME), files, at)
    if wanted and not listing and not job.package.single:
        job.at(NAME).say("manifest-absent", "metadata.json with sha256", "no list of files")


def check_counts(job: Job) -> None:
    """Compare the numbers of one manifest at the top with what was counted."""
    tops = [name for name in manifests(job.package) if "/" not in name]
    content = read_document(job.package, tops[0], job.findings) if tops else None
    value = _object(content)
    counts = value.get("counts") if value is not None else None
    if value is None or not isinstance(counts, dict) or job.findings.damaged:
        return  # what could not be read was not counted
    at = At(job.findings, tops[0], text=content or b"")
    for key in _COUNTED:
        if isinstance(counts.get(key), int) and key in job.counts and counts[key] != job.counts[key]:
            at.say("manifest-count", f"{counts[key]:,} {key}", f"{job.counts[key]:,}", f"/counts/{key}")


def _object(content: bytes | None) -> dict[str, Any] | None:
    try:
        value = orjson.loads(content or b"")
    except orjson.JSONDecodeError:
        return None  # reported by the layout that reads it
    return value if isinstance(value, dict) else None


def _listed(value: Mapping[str, Any]) -> dict[str, Listed] | None:
    """Files by name; None where the document lists none."""
    if isinstance(value.get("sha256"), dict):
        return {name: Listed(digest, None, f"/sha256/{escaped(name)}") for name, digest in value["sha256"].items()}
    files = value.get("files")
    if isinstance(files, dict):
        rows = [(name, one if isinstance(one, dict) else {"sha256": one}, escaped(name)) for name, one in files.items()]
    elif isinstance(files, list) and all(isinstance(one, dict) for one in files):
        rows = [(one.get("path", one.get("name", one.get("file"))), one, str(i)) for i, one in enumerate(files)]
    else:
        return None
    return {
        str(name): Listed(one.get("sha256"), one.get("bytes", one.get("size")), f"/files/{key}")
        for name, one, key in rows
    }


def _check_files(job: Job, folder: str, files: dict[str, Listed], at: At) -> None:
    there = {name[len(folder) :] for name in job.package.members if name.startswith(folder)}
    for name in sorted(there - files.keys() - {NAME}):
        if not _covered(job, folder, name):
            job.at(folder + name).say("manifest-extra", "files that the manifest lists", name)
    for name, listed in files.items():
        if name not in there:
            at.say("manifest-missing", f"the file {name}", "no such file", listed.pointer)
        else:
            _check_one(job, folder + name, listed, at)


def _covered(job: Job, folder: str, name: str) -> bool:
    """Whether a file lies below another manifest, or is hidden (an operating system's)."""
    above = [part for part in manifests(job.package) if part != folder + NAME]
    inside = any((folder + name).startswith(one.removesuffix(NAME)) for one in above if one.startswith(folder))
    return inside or name.rsplit("/", 1)[-1].startswith(".")


def _check_one(job: Job, name: str, listed: Listed, at: At) -> None:
    size = job.package.members[name]
    job.task.advance()
    if isinstance(listed.size, int) and listed.size != size:
        job.at(name).say("manifest-count", f"{listed.size:,} bytes", f"{size:,} bytes")
    if not isinstance(listed.sha256, str) or not _DIGEST.fullmatch(listed.sha256):
        told = "none" if listed.sha256 is None else listed.sha256
        at.say("manifest-form", "64 hexadecimal digits", told, listed.pointer)
        return
    found = sha256(job.package, name)
    if found is not None and found != listed.sha256:
        job.at(name).say("manifest-sha256", listed.sha256, found)


def check_readme(job: Job) -> None:
    """Say where README.md is missing, and read it to its end."""
    found = [name for name in job.package.members if name.rsplit("/", 1)[-1].lower() == "readme.md"]
    for name in found:
        stored_whole(job.package, name, job.findings)
    if not found and not job.package.single:
        job.at("README.md").say("readme-absent", "README.md", "no such file")
