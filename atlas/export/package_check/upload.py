"""Requests of Neuronpedia's upload route, one JSON document each -> what the route refuses.

An ordinary account may upload them; nothing is replaced, so a feature that is there twice is made twice.
"""

from __future__ import annotations

import re
from typing import Any

from atlas.export.package_check.fields import Fields, check_fields, is_number, same_length
from atlas.export.package_check.finding import At
from atlas.export.package_check.job import Job
from atlas.export.package_check.layout import json_files

MOST_FEATURES = 128
MOST_LOGITS = 20
MOST_TEXT = 512
MOST_TOKENS = 1024
_REQUEST: Fields = {"modelId": "text!", "source": "text!", "features": "objects!"}
_FEATURE: Fields = {
    "index": "integer!", "density": "number!", "topLogits": "objects!", "bottomLogits": "objects!",
    "explanations": "objects", "activations": "objects!",
}  # fmt: skip
_LOGIT: Fields = {"token": "text!", "value": "number!"}
_EXPLANATION: Fields = {"text": "text!", "methodName": "text!", "modelName": "any?"}
_ACTIVATION: Fields = {
    "tokens": "texts!", "values": "numbers!", "quantileMax": "number!", "quantileMin": "number!",
    "quantileFraction": "number!",
}  # fmt: skip
_SOURCE = re.compile(r"(?:0|[1-9][0-9]*)-(?P<set>.+)")
_Row = dict[str, Any]


def check_upload(job: Job) -> None:
    """All requests of the package; a feature may be in one of them only."""
    seen: dict[tuple[str, str, int], str] = {}
    for name in json_files(job.package.members):
        if found := job.document(name):
            job.counts["files"] += 1
            _check_request(job, *found, seen)
    if job.counts["features"] and not job.counts["explanations"]:
        job.at(".").say("upload-no-explanations", "an explanation", "none")


def _check_request(job: Job, request: _Row, at: At, seen: dict[tuple[str, str, int], str]) -> None:
    bad = check_fields(request, _REQUEST, at)
    if "modelId" not in bad and (request["modelId"] != request["modelId"].lower() or not request["modelId"]):
        at.say("model-id", "a model's id in lower case", request["modelId"], "/modelId")
    if "source" not in bad:
        found = _SOURCE.fullmatch(request["source"])
        if not found or found["set"] == "neurons":
            at.say("upload-source", "{layer}-{set}, the set not neurons", request["source"], "/source")
    if "features" in bad:
        return
    if not 1 <= len(request["features"]) <= MOST_FEATURES:
        at.say("upload-features", f"1 to {MOST_FEATURES}", f"{len(request['features']):,} features", "/features")
    for i, feature in enumerate(request["features"]):
        job.counts["features"] += 1
        _check_feature(job, feature, at.under(f"/features/{i}"))
        key = (str(request.get("modelId")), str(request.get("source")), feature.get("index", -1))
        if isinstance(key[2], int) and seen.setdefault(key, f"{at.file}#/features/{i}") != f"{at.file}#/features/{i}":
            at.say("index-unique", "a feature once", f"the feature of {seen[key]}", f"/features/{i}/index")


def _check_feature(job: Job, feature: _Row, at: At) -> None:
    density = feature.get("density")
    unknown = "density" in feature and (density is None or (is_number(density) and not 0 <= density <= 1))
    if unknown:
        at.say("upload-density", "a number from 0 to 1", "null" if density is None else density, "/density")
    bad = check_fields(feature, {key: kind for key, kind in _FEATURE.items() if key != "density" or not unknown}, at)
    if "index" not in bad and feature["index"] < 0:
        at.say("index-range", "an index from 0", feature["index"], "/index")
    for name in ("topLogits", "bottomLogits"):
        if name not in bad:
            _check_logits(feature[name], at.under(f"/{name}"))
    for i, one in enumerate(feature.get("explanations", ()) if "explanations" not in bad else ()):
        job.counts["explanations"] += 1
        _check_explanation(one, at.under(f"/explanations/{i}"))
    if "activations" not in bad:
        if not feature["activations"]:
            at.say("upload-activations", "at least one", "none", "/activations")
        for i, one in enumerate(feature["activations"]):
            job.counts["activations"] += 1
            _check_activation(one, at.under(f"/activations/{i}"))


def _check_logits(logits: list[_Row], at: At) -> None:
    if len(logits) > MOST_LOGITS:
        at.say("upload-logits", f"at most {MOST_LOGITS}", f"{len(logits):,}")
    for i, one in enumerate(logits):
        check_fields(one, _LOGIT, at.under(f"/{i}"))


def _check_explanation(one: _Row, at: At) -> None:
    bad = check_fields(one, _EXPLANATION, at)
    if "text" not in bad and not 1 <= len(one["text"]) <= MOST_TEXT:
        at.say("upload-text", f"1 to {MOST_TEXT} characters", f"{len(one['text']):,} characters", "/text")
    if one.get("modelName") is not None:
        at.say("upload-model-null", "null", one["modelName"], "/modelName")


def _check_activation(one: _Row, at: At) -> None:
    bad = check_fields(one, _ACTIVATION, at)
    if not bad & {"tokens", "values"}:
        same_length(one, ("tokens", "values"), "activation-length", at)
    if "tokens" not in bad:
        tokens = one["tokens"]
        if not 1 <= len(tokens) <= MOST_TOKENS:
            at.say("upload-tokens", f"1 to {MOST_TOKENS:,} tokens", f"{len(tokens):,} tokens", "/tokens")
        elif "" in tokens:
            at.say("upload-tokens", "no empty token", "an empty text", f"/tokens/{tokens.index('')}")
    if not bad & {"quantileMax", "quantileMin", "quantileFraction"}:
        if one["quantileMin"] > one["quantileMax"]:
            at.say("upload-quantiles", f"at most quantileMax, {one['quantileMax']}", one["quantileMin"], "/quantileMin")
        if not 0 <= one["quantileFraction"] <= 1:
            at.say("upload-quantiles", "0 to 1", one["quantileFraction"], "/quantileFraction")
