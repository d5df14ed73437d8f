"""SAEDashboard's batches, one JSON document each -> what its reader and Neuronpedia's converter refuse.

The converter opens every file whose name starts with batch-, and reads each key without asking whether it is there.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from atlas.export.package_check.feature_lists import STATISTICS, check_bin, check_place, check_statistics
from atlas.export.package_check.fields import Fields, check_fields, same_length
from atlas.export.package_check.finding import At
from atlas.export.package_check.job import Job
from atlas.export.package_check.layout import json_files

_BATCH: Fields = {
    "model_id": "text!", "layer": "integer!", "sae_set": "text!", "sae_id_suffix": "text!?", "features": "objects!",
}  # fmt: skip
FEATURE: Fields = {
    "feature_index": "integer!", **{name: f"{kind}!" for name, kind in STATISTICS.items()},
    "n_prompts_total": "integer!", "n_tokens_in_prompt": "integer!", "dataset": "text!", "activations": "objects!",
    "vector": "numbers!",
}  # fmt: skip
ACTIVATION: Fields = {
    "bin_min": "number!", "bin_max": "number!", "bin_contains": "number!", "tokens": "texts!", "values": "numbers!",
    "qualifying_token_index": "integer!?",
}  # fmt: skip
_NAME = re.compile(r"batch-\d+\.json")
_PLACES = 5
_ROUNDED = 1e10  # beyond, 64-bit floats have no 5 places to be sure of
_Row = dict[str, Any]


def check_dashboard(job: Job) -> None:
    """All batches of the package; an index may be there once for each model, layer and set."""
    seen: dict[tuple[str, ...], str] = {}
    for name in json_files(job.package.members):
        if not _NAME.fullmatch(PurePosixPath(name).name):
            job.at(name).say("dash-name", "batch-N.json", PurePosixPath(name).name)
        if found := job.document(name):
            job.counts["files"] += 1
            _check_batch(job, *found, seen)


def _check_batch(job: Job, batch: _Row, at: At, seen: dict[tuple[str, ...], str]) -> None:
    bad = check_fields(batch, _BATCH, at)
    place = tuple(str(batch.get(key)) for key in ("model_id", "layer", "sae_set", "sae_id_suffix"))
    if "layer" not in bad and batch["layer"] < 0:
        at.say("index-range", "a layer from 0", batch["layer"], "/layer")
    if "features" not in bad and not batch["features"]:
        at.say("dash-empty", "features", "none", "/features")
    without = 0
    sizes: list[int] = []
    for i, feature in enumerate(batch["features"] if "features" not in bad else ()):
        job.counts["features"] += 1
        below = at.under(f"/features/{i}")
        _check_feature(job, feature, below)
        key = (*place, str(feature.get("feature_index")))
        _check_vector(feature, sizes, below)
        without += feature.get("vector") == []
        if seen.setdefault(key, f"{at.file}#{below.base}") != f"{at.file}#{below.base}":
            below.say("index-unique", "an index once", f"the index of {seen[key]}", "/feature_index")
    if without:
        told = f"{without:,} of {len(batch['features']):,} without"
        at.say("dash-vector", "the direction that each feature writes", told, "/features")


def _check_feature(job: Job, feature: _Row, at: At) -> None:
    _check_keys(feature, FEATURE, at)
    bad = check_fields(feature, _there(feature, FEATURE), at)
    check_statistics(feature, bad, at)
    if "feature_index" in feature and "feature_index" not in bad and feature["feature_index"] < 0:
        at.say("index-range", "an index from 0", feature["feature_index"], "/feature_index")
    _check_places(feature, FEATURE, bad, at)
    for i, one in enumerate(feature.get("activations", ()) if "activations" not in bad else ()):
        job.counts["activations"] += 1
        _check_activation(one, at.under(f"/activations/{i}"))


def _check_vector(feature: _Row, sizes: list[int], at: At) -> None:
    """Compare a vector with the first of its batch."""
    vector = feature.get("vector")
    if isinstance(vector, list) and vector:
        sizes[:] = sizes or [len(vector)]
        if len(vector) != sizes[0]:
            at.say("vector-length", f"{sizes[0]:,} values, as in the first", f"{len(vector):,}", "/vector")


def _check_activation(one: _Row, at: At) -> None:
    _check_keys(one, ACTIVATION, at)
    bad = check_fields(one, _there(one, ACTIVATION), at)
    _check_places(one, ACTIVATION, bad, at)
    if bad & {"tokens", "values"}:
        return
    same_length(one, ("tokens", "values"), "activation-length", at)
    check_bin(one.get("bin_min"), one.get("bin_max"), one.get("bin_contains"), at)
    if "qualifying_token_index" not in bad:
        check_place(one.get("qualifying_token_index"), one.get("tokens"), "/qualifying_token_index", at)


def _check_keys(row: _Row, fields: Fields, at: At) -> None:
    less, more = fields.keys() - row.keys(), row.keys() - fields.keys()
    if less or more:
        told = "; ".join(f"{what} {', '.join(sorted(keys))}" for what, keys in (("no", less), ("also", more)) if keys)
        at.say("dash-keys", f"the {len(fields)} keys", told)


def _there(row: _Row, fields: Fields) -> Fields:
    """Fields of the keys that are there: what is missing is told once for all."""
    return {name: kind for name, kind in fields.items() if name in row}


def _check_places(row: _Row, fields: Fields, bad: frozenset[str], at: At) -> None:
    """Numbers of more than 5 decimal places; of a list the first."""
    for name, kind in fields.items():
        value = row.get(name)
        if name in bad or value is None or kind.rstrip("!?") not in ("number", "numbers"):
            continue
        values = np.array(value, dtype=np.float64, ndmin=1)
        fine = np.abs(values) >= _ROUNDED
        fine |= np.round(np.where(fine, 0, values), _PLACES) == values
        if not fine.all():
            place = int(np.flatnonzero(~fine)[0])
            pointer = f"/{name}/{place}" if isinstance(value, list) else f"/{name}"
            at.say("dash-places", f"at most {_PLACES} decimal places", float(values[place]), pointer)
