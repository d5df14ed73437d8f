"""SAELens folders -> whether sae-lens loads them, and whether the features are the neurons that the map says.

The weights are read once in blocks of at most 4 MB, without torch: the header of a .safetensors file is JSON.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from atlas.export.package_check.fields import Fields, check_fields
from atlas.export.package_check.finding import At
from atlas.export.package_check.job import Job
from atlas.export.package_check.weights import Expected, check_weights

CONFIG = "cfg.json"
WEIGHTS = "sae_weights.safetensors"
_CONFIG: Fields = {
    "architecture": "text!", "d_in": "integer!", "d_sae": "integer!", "dtype": "text!", "device": "text!",
    "apply_b_dec_to_input": "flag!", "normalize_activations": "text!", "reshape_activations": "text!",
    "metadata": "object!",
}  # fmt: skip
_VALUES = {
    "architecture": ("transcoder", "standard"), "dtype": ("float32",), "apply_b_dec_to_input": (False,),
    "normalize_activations": ("none",), "reshape_activations": ("none",),
}  # fmt: skip
_FACTS: Fields = {
    "sae_lens_version": "text?", "model_name": "text?", "hook_name": "text?", "hook_name_out": "text?",
    "prepend_bos": "flag?", "context_size": "integer?", "dataset_path": "text?", "neuronpedia_id": "text?",
}  # fmt: skip
_IN = re.compile(r"blocks\.(\d+)\.mlp\.hook_post")
_OUT = re.compile(r"blocks\.(\d+)\.(mlp\.)?hook_mlp_out")


def saelens_folders(job: Job) -> list[str]:
    """Folders that hold one of the two files, each with / at its end."""
    found = {name.rpartition("/") for name in job.package.members}
    return sorted({folder + slash for folder, slash, name in found if name in (CONFIG, WEIGHTS)})


def check_saelens(job: Job) -> None:
    """All SAELens folders of the package."""
    for folder in saelens_folders(job):
        check_folder(job, folder)


def check_folder(job: Job, folder: str) -> None:
    """cfg.json and the weights of one folder."""
    for name in (CONFIG, WEIGHTS):
        if folder + name not in job.package.members and not job.package.single:
            job.at(folder + name).say("sae-files", f"the file {name}", "no such file")
    found = job.document(folder + CONFIG) if folder + CONFIG in job.package.members else None
    expected = _check_config(*found) if found else None
    if folder + WEIGHTS in job.package.members:
        job.task.advance()
        job.counts["transcoders"] += 1
        job.counts["features"] += expected.d_sae if expected else 0
        check_weights(job, folder + WEIGHTS, expected)


def _check_config(config: dict[str, Any], at: At) -> Expected | None:
    """Report what is wrong with a configuration; what it says of the weights, None where it does not."""
    fields = dict(_CONFIG)
    if config.get("architecture") == "transcoder":
        fields["d_out"] = "integer!"
    bad = check_fields(config, fields, at)
    for key, allowed in _VALUES.items():
        if key not in bad and config[key] not in allowed:
            at.say("sae-config", " or ".join(map(repr, allowed)), config[key], f"/{key}")
    sizes = _sizes(config, bad, at)
    metadata = config.get("metadata") if "metadata" not in bad else None
    if metadata is None:
        return sizes
    _check_facts(metadata, at.under("/metadata"))
    selection = _check_map(metadata, sizes, at.under("/metadata"))
    return None if sizes is None else replace(sizes, selection=selection)


def _sizes(config: Mapping[str, Any], bad: frozenset[str], at: At) -> Expected | None:
    """Sizes of the weights; None where one of them is not known."""
    sizes = {key: config.get(key, config.get("d_in")) for key in ("d_in", "d_sae", "d_out")}
    if bad & sizes.keys():
        return None
    wrong = [key for key, size in sizes.items() if not isinstance(size, int) or size < 1]
    for key in wrong:
        at.say("sae-config", "a size over 0", sizes[key], f"/{key}")
    return None if wrong else Expected(config["d_in"], config["d_sae"], sizes["d_out"])


def _check_facts(metadata: Mapping[str, Any], at: At) -> None:
    for key in _FACTS:
        if key not in metadata:
            at.say("sae-metadata", f"the key {key}", "no such key", f"/{key}")
    bad = check_fields(metadata, _FACTS, at)
    if "neuron_indices" not in metadata or bad & {"hook_name", "hook_name_out"}:
        return  # an SAE of another kind may be hooked anywhere
    source, out = (str(metadata.get(key)) for key in ("hook_name", "hook_name_out"))
    start, end = _IN.fullmatch(source), _OUT.fullmatch(out)
    if not start:
        at.say("sae-hook", "blocks.L.mlp.hook_post", source, "/hook_name")
    elif not end or start[1] != end[1]:
        at.say("sae-hook", f"blocks.{start[1]}.hook_mlp_out", out, "/hook_name_out")
    elif end[2]:
        at.say("sae-hook-name", f"blocks.{start[1]}.hook_mlp_out", out, "/hook_name_out")


def _check_map(metadata: Mapping[str, Any], sizes: Expected | None, at: At) -> tuple[list[int], list[int]] | None:
    """(neuron, sign) of each feature as two lists; None where there is no map or it is wrong."""
    if not {"neuron_indices", "polarity"} & metadata.keys():
        return None
    if check_fields(metadata, {"neuron_indices": "integers!", "polarity": "integers!"}, at) or sizes is None:
        return None
    neurons, signs = metadata["neuron_indices"], metadata["polarity"]
    sound = True
    for key, values in (("neuron_indices", neurons), ("polarity", signs)):
        if len(values) != sizes.d_sae:
            at.say("sae-map", f"{sizes.d_sae:,} entries, as d_sae", f"{len(values):,} entries", f"/{key}")
            sound = False
    for key, wrong, asked in (
        ("neuron_indices", [i for i, n in enumerate(neurons) if not 0 <= n < sizes.d_in], f"below {sizes.d_in}"),
        ("polarity", [i for i, sign in enumerate(signs) if sign not in (1, -1)], "+1 or -1"),
    ):
        if wrong:
            at.say("sae-map", asked, metadata[key][wrong[0]], f"/{key}/{wrong[0]}")
            sound = False
    return (neurons, signs) if sound else None
