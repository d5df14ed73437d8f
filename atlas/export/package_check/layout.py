"""Names and first contents of a package -> its layout, and the checks that apply.

A layout is told from what is inside, never from the name of the package.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import orjson

from atlas.errors import InputError
from atlas.export.package_check.bulk import source_folders
from atlas.export.package_check.package import DAMAGE, DOCUMENT, Package

LAYOUTS = ("bulk", "upload", "prd", "sae-dashboard", "saelens", "graph", "reports")
_LOOKED_FOR = (
    "bulk ({model}/{source}/model.jsonl, features/batch-0.jsonl.gz), prd (metadata.json, features/0.json), reports "
    "(index.json with html/), saelens (cfg.json, sae_weights.safetensors), and JSON files of upload (modelId, source, "
    "features), sae-dashboard (model_id, layer, features) or a graph (nodes, links)"
)
_PRD = re.compile(r"(?:.*/)?(?:features/[^/]+\.json|explanations/explanations\.json)")
_OTHER_JSON = ("metadata.json", "graph-metadata.json", "cfg.json", "index.json")


def layout_of(package: Package) -> str:
    """The layout; InputError for a package that is none."""
    names = list(package.members)
    if source_folders(names):
        return "bulk"
    if _reports(package):
        return "reports"
    if any(_PRD.fullmatch(name) for name in names):
        return "prd"
    for name in json_files(names):
        if found := _by_keys(package, name):
            return found
    if any(re.search(r"(^|/)batch-\d+\.json$", name) for name in names):
        return "sae-dashboard"  # of broken files only
    if any(name.rsplit("/", 1)[-1] in ("cfg.json", "sae_weights.safetensors") for name in names):
        return "saelens"
    what = f"{len(names):,} files" + (f", such as {names[0]}" if names else "")
    raise InputError(f"{package.path} is no package that is known: it holds {what}; looked for {_LOOKED_FOR}")


def json_files(names: Iterable[str]) -> list[str]:
    """Files of JSON that may be a batch or a graph: what is not the manifest or a configuration."""
    return [
        name for name in names if name.endswith((".json", ".json.gz")) and name.rsplit("/", 1)[-1] not in _OTHER_JSON
    ]


def _reports(package: Package) -> bool:
    names = package.members
    return "index.json" in names and any(name.startswith(("html/", "json/")) for name in names)


def _by_keys(package: Package, name: str) -> str | None:
    """The layout that a file's keys tell; None where they tell none or the file is broken."""
    found = _object(package, name) or {}
    if {"nodes", "links"} & found.keys():
        return "graph"
    if "features" in found:
        dashboards = len({"model_id", "layer", "sae_set", "sae_id_suffix"} & found.keys())
        return "sae-dashboard" if dashboards > len({"modelId", "source"} & found.keys()) else "upload"
    return None


def _object(package: Package, name: str) -> dict[str, Any] | None:
    if package.members[name] > DOCUMENT or name.endswith(".gz"):
        return None
    try:
        with package.open(name) as stored:
            found = orjson.loads(stored.read())
    except (orjson.JSONDecodeError, *DAMAGE):
        return None  # said by the layout's rules
    return found if isinstance(found, dict) else None
