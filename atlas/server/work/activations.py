"""A prompt -> a file of its activations; a file and a layer -> a file of its clusters. Both in the seed's forms."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from atlas.errors import InputError
from atlas.server.work.loaded import loaded_model

if TYPE_CHECKING:
    from atlas.export.seed_forms import Activations, Cluster
    from atlas.server.jobs.work import Work

ACTIVATIONS, CLUSTERS = "activations", "clusters"  # folders of the data folder
LARGEST = 512 << 20  # bytes of a file
_NUMBER = 11  # bytes of one activation as text
Request = dict[str, Any]


def generate(work: Work, request: Request) -> dict[str, Any]:
    """Measure a prompt and write activations/{its words}.json; what was written, without the activations themselves.

    InputError for a prompt that the model cannot read and for a file above LARGEST: `top` makes it smaller.
    """
    from atlas.export.seed_forms import strongest, write_activations
    from atlas.measure.prompts import measure_prompt

    with work.progress.task("activations", 3, "steps") as task:
        adapter = loaded_model(work)
        task.advance()
        measured = measure_prompt(adapter, request["prompt"])
        task.advance()
        found = strongest(measured, request["top"])
        require_small(found)
        path = file_of_prompt(work.data / ACTIVATIONS, request["prompt"])
        write_activations(path, found)
        task.advance()
    return {
        "message": f"Activations of {len(found.tokens)} tokens written to {path.name}",
        "filename": path.name,
        "file_path": str(path),
        "size_bytes": path.stat().st_size,
        "prompt": found.prompt,
        "tokens": list(found.tokens),
        "layer_count": found.values.shape[0],
        "neurons_per_layer": found.values.shape[1],
        "model_name": request["model_name"],
    }


def cluster(work: Work, request: Request) -> dict[str, Any]:
    """k-means of a layer's neurons by their activations; the document, also written to clusters/.

    Two neurons are near when they are equally active at the same tokens. A cluster's centroid is the mean activation of
    its neurons at each token; clusters are numbered by falling size. InputError for a layer that the file lacks.
    """
    from atlas.derive.clustering.kmeans import kmeans
    from atlas.export.seed_forms import LayerClusters, read_activations, read_clusters, write_clusters

    name, layer = request["activation_file"], request["layer_index"]
    found = read_activations(work.data / ACTIVATIONS / name)
    neurons, points = _of_layer(found, name, layer)
    if request["n_clusters"] > len(points):
        raise InputError(f"{name} has {len(points):,} neurons of layer {layer}; ask for as many clusters or fewer")
    labels, inertia = kmeans(
        points.astype(np.float32), request["n_clusters"], seed=request["seed"], progress=work.progress
    )
    path = work.data / CLUSTERS / f"{name.removesuffix('.json')}_layer_{layer}_clusters.json"
    write_clusters(path, LayerClusters(layer, _clusters(neurons, points, labels)))
    written = read_clusters(path)
    return {
        "layer": written.layer,
        "clusters": [
            {"cluster_id": c.cluster_id, "neuron_indices": list(c.neuron_indices), "centroid": list(c.centroid or ())}
            for c in written.clusters
        ],
        "filename": path.name,
        "file_path": str(path),
        "inertia": inertia,
    }


def file_of_prompt(folder: Path, prompt: str) -> Path:
    """Where a prompt's activations are kept: its words, with _2, _3 ... where another prompt has the name already."""
    from atlas.export.seed_json import prompt_names

    base = prompt_names([prompt])[0]
    number = 1
    while True:
        path = folder / (f"{base}.json" if number == 1 else f"{base}_{number}.json")
        if not path.exists() or _prompt_of(path) == prompt:
            return path
        number += 1


def _prompt_of(path: Path) -> str | None:
    """The prompt of an activation file; our files have it in their second line. None where there is none."""
    with path.open(encoding="utf-8") as handle:
        first, second = handle.readline(), handle.readline()
    try:
        found = json.loads(first + second.rstrip().rstrip(",") + "}")
    except ValueError:
        return None
    return found.get("prompt") if isinstance(found, dict) else None


def require_small(found: Activations) -> None:
    """Raise InputError, with both sizes, for activations whose file would be above LARGEST."""
    size = found.values.size * _NUMBER
    if size > LARGEST:
        layers, neurons, tokens = found.values.shape
        most = LARGEST // (_NUMBER * layers * tokens)
        raise InputError(
            f"activations of {layers} layers of {neurons:,} neurons at {tokens} tokens make a file of about "
            f"{size / 1e6:,.0f} MB, at most {LARGEST / 1e6:,.0f} MB are written; ask for the strongest: top "
            f"{most:,} or less"
        )


def _of_layer(found: Activations, name: str, layer: int) -> tuple[Any, Any]:
    at = np.flatnonzero(found.layer_index == layer)
    if not len(at):
        there = ", ".join(map(str, found.layer_index.tolist()))
        raise InputError(f"{name} has no layer {layer}; it has {there or 'none'}")
    neurons, points = found.neuron_index[at[0]], found.values[at[0]]
    if not np.isfinite(points).all():
        raise InputError(f"{name} has activations of layer {layer} that are no numbers; generate it anew")
    return neurons, points


def _clusters(neurons: Any, points: Any, labels: Any) -> tuple[Cluster, ...]:
    from atlas.export.seed_forms import Cluster

    groups = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    groups.sort(key=lambda members: (-len(members), neurons[members[0]]))
    return tuple(
        Cluster(rank, tuple(neurons[members].tolist()), centroid=tuple(points[members].mean(axis=0).tolist()))
        for rank, members in enumerate(groups)
    )
