"""Neurons of an atlas and the model's weights -> folders that sae-lens loads as transcoders, one a layer.

Format: cfg.json and sae_weights.safetensors as sae-lens 6.54 reads and writes them. A transcoder from
blocks.L.mlp.hook_post to blocks.L.hook_mlp_out holds chosen neurons only: a whole layer of 25,600 is 5.2 GB with both
signs, so the default is what was selected.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atlas.errors import InputError, ModelError
from atlas.export.folder import new_folder
from atlas.progress import Progress, Quiet

if TYPE_CHECKING:
    from atlas.models.tensors import MlpTensors
    from atlas.query.atlas import Atlas

SAE_LENS = "6.54.12"  # the release the files were loaded with
FORM = "atlas-saelens/1"


@dataclass(frozen=True)
class SaelensPlan:
    """What is exported; `most_bytes` refuses what was not meant."""

    neurons: Sequence[int]  # packed ids
    signs: tuple[int, ...] = (1, -1)  # which parts of an activation are features
    most_bytes: int = 8 << 30
    force: bool = False


@dataclass(frozen=True)
class Transcoders:
    """What was written: (folder, features, bytes of its weights), and bytes in all."""

    folders: tuple[tuple[Path, int, int], ...]
    size: int


def export_saelens(
    atlas: Atlas, model: str | Path, target: Path, plan: SaelensPlan, *, progress: Progress | None = None
) -> Transcoders:
    """Write metadata.json, and blocks.L.mlp/{cfg.json, sae_weights.safetensors} of every layer with a chosen neuron.

    The weights are read from the folder `model` one layer at a time. Raises InputError for a model of another revision
    or size, for more than `most_bytes`, and for a target that is not empty; ModelError where a norm stands between the
    MLP and the residual stream (a transcoder has no norm).
    """
    from atlas.models.tensors import in_files
    from atlas.models.transcoder import size_of

    tensors = in_files(model)
    _check(atlas, model, tensors)
    layers = [
        (layer, [one % atlas.d_mlp for one in ids])
        for layer, ids in groupby(sorted(set(plan.neurons)), key=lambda one: one // atlas.d_mlp)
    ]
    size = sum(size_of(tensors, len(neurons) * len(plan.signs)) for _, neurons in layers)
    if size > plan.most_bytes:
        raise InputError(
            f"{len(set(plan.neurons)):,} neurons would take {size / 1e9:.1f} GB; choose fewer, one sign (--sign +), or "
            f"allow it with --max-size {-(-size // 10**9)}GB"
        )
    with new_folder(target, force=plan.force) as folder:
        with (progress or Quiet()).task("transcoders", len(layers), "layers") as task:
            files = []
            for name, features, bytes_ in _written(atlas, tensors, folder, (layers, plan.signs)):
                files.append((name, features, bytes_))
                task.advance()
        (folder / "metadata.json").write_text(_json(_manifest(atlas, folder, files)), encoding="utf-8")
    return Transcoders(tuple((target / name, features, bytes_) for name, features, bytes_ in files), size)


def _written(
    atlas: Atlas, tensors: MlpTensors, folder: Path, what: tuple[list[tuple[int, list[int]]], tuple[int, ...]]
) -> Iterator[tuple[str, int, int]]:
    from atlas.models.transcoder import save_weights, transcoder

    for layer, neurons in what[0]:
        made = transcoder(tensors, layer, neurons, signs=what[1])
        name = f"blocks.{layer}.mlp"
        (folder / name).mkdir()
        facts = _metadata(atlas, layer) | {"neuron_indices": made.neurons, "polarity": made.polarity}
        d_mlp, d_model = tensors.shape
        (folder / name / "cfg.json").write_text(
            _json(_config((d_mlp, d_model), len(made.neurons), facts)), encoding="utf-8"
        )
        save_weights(made, folder / name / "sae_weights.safetensors")
        yield name, len(made.neurons), (folder / name / "sae_weights.safetensors").stat().st_size


def _config(sizes: tuple[int, int], features: int, metadata: dict[str, Any]) -> dict[str, Any]:
    """cfg.json of a transcoder."""
    return {
        "architecture": "transcoder", "d_in": sizes[0], "d_sae": features, "d_out": sizes[1], "dtype": "float32",
        "device": "cpu", "apply_b_dec_to_input": False, "normalize_activations": "none", "reshape_activations": "none",
        "metadata": metadata,
    }  # fmt: skip


def _metadata(atlas: Atlas, layer: int) -> dict[str, Any]:
    known = atlas.metadata
    context = known.get("context_length", "")
    return {
        "sae_lens_version": SAE_LENS, "model_name": known.get("model"), "model_revision": known.get("revision"),
        "hook_name": f"blocks.{layer}.mlp.hook_post", "hook_name_out": f"blocks.{layer}.hook_mlp_out",
        "hook_layer": layer, "hook_head_index": None, "prepend_bos": known.get("bos_policy", "").startswith("every"),
        "context_size": int(context) if context.isdigit() else None, "dataset_path": known.get("corpora"),
        "neuronpedia_id": None, "made_by": "atlas", "exact": "the chosen neurons' part of the MLP's output, and bias",
    }  # fmt: skip


def _manifest(atlas: Atlas, folder: Path, files: list[tuple[str, int, int]]) -> dict[str, Any]:
    hashes = {
        f"{name}/{file}": hashlib.sha256((folder / name / file).read_bytes()).hexdigest()
        for name, _, _ in files
        for file in ("cfg.json", "sae_weights.safetensors")
    }
    keys = ("model", "revision", "created", "code_version")
    return {
        "schema": FORM, **{key: atlas.metadata[key] for key in keys if key in atlas.metadata},
        "layers": len(files), "features": sum(features for _, features, _ in files), "sha256": hashes,
    }  # fmt: skip


def _check(atlas: Atlas, model: str | Path, tensors: MlpTensors) -> None:
    from atlas.models.folder import find_folder, revision

    if (atlas.layers, atlas.d_mlp) != (tensors.layers, tensors.shape[0]):
        raise InputError(
            f"{atlas.name} has {atlas.layers} layers of {atlas.d_mlp} neurons, {tensors.name} {tensors.layers} of "
            f"{tensors.shape[0]}; give the folder of the atlas's model"
        )
    known, found = atlas.metadata.get("revision"), revision(find_folder(model))
    if known and known != found:
        raise InputError(
            f"{atlas.name} is of model revision {known}, {tensors.name} is {found}; give that model's folder"
        )
    if tensors.has_out_norm:
        raise ModelError(
            f"{tensors.name} has a norm between its MLPs and the residual stream: no transcoder computes what its "
            "neurons write; export labels or edges instead"
        )


def _json(value: object) -> str:
    return json.dumps(value, indent=1) + "\n"
