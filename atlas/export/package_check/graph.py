"""Attribution graphs as Neuronpedia's frontend reads them -> what its page fails on.

Source: the JSON Schema of Neuronpedia's graph upload, and what its frontend and circuit-tracer's ask for beyond it.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from atlas.export.package_check.fields import Fields, check_fields
from atlas.export.package_check.finding import At
from atlas.export.package_check.job import Job
from atlas.export.package_check.layout import json_files

INDEX = "graph-metadata.json"
_GRAPH: Fields = {"metadata": "object!", "qParams": "object!", "nodes": "objects!", "links": "objects!"}
_METADATA: Fields = {
    "slug": "text!", "scan": "text!", "prompt_tokens": "texts!", "prompt": "text!", "node_threshold": "number?",
}  # fmt: skip
_NODE: Fields = {
    "node_id": "text!", "feature": "whole!?", "layer": "any!", "ctx_idx": "whole!", "feature_type": "text!",
    "jsNodeId": "text!", "clerp": "text!", "influence": "number?", "activation": "number?",
}  # fmt: skip
_LINK: Fields = {"source": "text!", "target": "text!", "weight": "number!"}
_Row = dict[str, Any]


def check_graphs(job: Job) -> None:
    """All graphs of the package, and the index of each folder that has one."""
    slugs: dict[str, str] = {}  # by file
    for name in json_files(job.package.members):
        if found := job.document(name):
            job.counts["graphs"] += 1
            slugs[name] = _check_graph(*found, job)
    for name in job.package.members:
        if PurePosixPath(name).name == INDEX:
            _check_index(job, name, slugs)


def _check_graph(graph: _Row, at: At, job: Job) -> str:
    """Report what is wrong with a graph; returns its slug, empty where there is none."""
    bad = check_fields(graph, _GRAPH, at)
    metadata = graph["metadata"] if "metadata" not in bad else {}
    below = at.under("/metadata")
    wrong = check_fields(metadata, _METADATA, below) if "metadata" not in bad else frozenset(_METADATA)
    if "slug" not in wrong and not metadata["slug"].strip():
        below.say("graph-slug", "a slug", "empty text", "/slug")
    tokens = None if "prompt_tokens" in wrong else len(metadata["prompt_tokens"])
    known: set[str] = set()
    for i, node in enumerate(graph["nodes"] if "nodes" not in bad else ()):
        job.counts["nodes"] += 1
        _check_node(node, at.under(f"/nodes/{i}"), known, tokens)
    for i, link in enumerate(graph["links"] if "links" not in bad else ()):
        job.counts["links"] += 1
        there = at.under(f"/links/{i}")
        missing = check_fields(link, _LINK, there)
        for end in ("source", "target") if "nodes" not in bad else ():
            if end not in missing and link[end] not in known:
                there.say("graph-links", "a node of the graph", link[end], f"/{end}")
    return "" if "slug" in wrong else str(metadata["slug"])


def _check_node(node: _Row, at: At, known: set[str], tokens: int | None) -> None:
    bad = check_fields(node, _NODE, at)
    if "node_id" not in bad:
        if node["node_id"] in known:
            at.say("graph-ids", "an id of its own", node["node_id"], "/node_id")
        known.add(node["node_id"])
    if "layer" not in bad and (isinstance(node["layer"], bool) or not isinstance(node["layer"], str | int)):
        at.say("field-type", "text or a whole number", node["layer"], "/layer")
    if "ctx_idx" not in bad and tokens is not None and not 0 <= node["ctx_idx"] < tokens:
        at.say("graph-position", f"0 to {tokens - 1}", node["ctx_idx"], "/ctx_idx")
    if not bad & {"feature_type", "clerp"} and node["feature_type"] == "logit" and "(p=" not in node["clerp"]:
        at.say("graph-logit", 'Output "token" (p=...)', node["clerp"], "/clerp")


def _check_index(job: Job, name: str, slugs: dict[str, str]) -> None:
    """Compare an index with the graphs beside it."""
    found = job.document(name)
    if found is None:
        return
    index, here = found
    if check_fields(index, {"graphs": "objects!"}, here):
        return
    folder = name.removesuffix(INDEX)
    listed = {str(entry.get("slug")): i for i, entry in enumerate(index["graphs"])}
    beside = {file: slug for file, slug in slugs.items() if file.rpartition("/")[0] == folder.rstrip("/")}
    for file, slug in beside.items():
        if slug and f"{folder}{slug}.json" != file:
            job.located(file, "graph-slug").say(
                "graph-slug", f"{slug}.json", PurePosixPath(file).name, "/metadata/slug"
            )
        elif slug and slug not in listed:
            job.located(file, "graph-index").say("graph-index", f"an entry {slug} of {INDEX}", "none", "/metadata/slug")
    for slug, i in listed.items():
        if slug not in beside.values() and f"{folder}{slug}.json" not in beside:
            here.say("graph-index", f"the file {slug}.json", "no such file", f"/graphs/{i}")
