"""NeuronScope's JSON files <-> values: activations, clusters, token queries, prompt samples, pruning documents.

One dataclass, one writer and one reader per file. The fields are those of the format; where an atlas knows more (the
layer of a neuron, a module's path) it adds a field, and the readers accept files without it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from atlas.errors import InputError
from atlas.export.folder import replace_text
from atlas.export.shape import FLAG, INTEGER, NUMBER, TEXT, Maybe, Named, finite, json_text, read_shaped

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.int64]

_ACTIVATIONS = {
    "prompt": TEXT,
    "tokens": [TEXT],
    "layers": [{"layer_index": INTEGER, "neurons": [{"neuron_index": INTEGER, "activations": [NUMBER]}]}],
}
_CLUSTERS = {
    "layer": INTEGER,
    "clusters": [
        {
            "cluster_id": INTEGER,
            "neuron_indices": [INTEGER],
            "centroid": Maybe([NUMBER]),
            "cluster_path": Maybe(TEXT),
        }
    ],
}
_TOKENS = [{"token": TEXT, "activation": NUMBER}]
_QUERY = {
    "query_type": TEXT,
    "neuron_index": Maybe(INTEGER),
    "layer_index": Maybe(INTEGER),
    "cluster_id": Maybe(INTEGER),
    "cluster_path": Maybe(TEXT),
    "top_tokens": _TOKENS,
    "top_tokens_negative": Maybe(_TOKENS),
}
_LAYER_STATS = ("mean_magnitude", "std_magnitude", "min_magnitude", "max_magnitude", "l1_norm", "l2_norm")
_WEIGHTS = {
    "sparsity_analysis": {
        "overall_sparsity": NUMBER,
        "total_parameters": INTEGER,
        "non_zero_parameters": INTEGER,
        "layer_sparsity": Named({"sparsity": NUMBER, "total_params": INTEGER, "non_zero_params": INTEGER}),
        "layer_stats": [
            {
                "layer_name": TEXT,
                "layer_index": INTEGER,
                "total_parameters": INTEGER,
                "non_zero_parameters": INTEGER,
                "sparsity": NUMBER,
                **dict.fromkeys(_LAYER_STATS, NUMBER),
            }
        ],
    },
    "pruning_candidates": [
        {
            "layer_index": INTEGER,
            "neuron_index": INTEGER,
            "weight_magnitude": NUMBER,
            "weight_rank": INTEGER,
            "is_pruning_candidate": FLAG,
            "pruning_score": NUMBER,
        }
    ],
}
_TOTAL = {"impact_score": NUMBER, "mean_change": NUMBER, "max_change": NUMBER}
_IMPACT = {"layer_index": INTEGER, "neuron_index": INTEGER, **_TOTAL, "safe_to_prune": Maybe(FLAG)}
_IMPACTS = {
    "individual_impacts": [_IMPACT],
    "cumulative_impact": _TOTAL,
    "recommendations": {
        "safe_to_prune": Maybe(INTEGER),
        "risky_to_prune": Maybe(INTEGER),
        "suggested_batch_size": Maybe(INTEGER),
        "high_impact_neurons": [_IMPACT],
    },
}


class Measured(Protocol):
    """What a measurement of one prompt has; `values` is [layers, neurons, tokens]."""

    @property
    def prompt(self) -> str:
        """The text."""

    @property
    def tokens(self) -> Sequence[str]:
        """Its tokens as text."""

    @property
    def values(self) -> Floats:
        """The activations."""


@dataclass(frozen=True)
class Activations:
    """Activations of one prompt: values[i, j, t] belongs to neuron neuron_index[i, j] of layer layer_index[i]."""

    prompt: str
    tokens: tuple[str, ...]
    layer_index: Ints  # [layers]
    neuron_index: Ints  # [layers, neurons], ascending within a layer
    values: Floats  # [layers, neurons, tokens]; NaN where the file has null


@dataclass(frozen=True)
class Cluster:
    """The neurons of one layer that are in one module."""

    cluster_id: int
    neuron_indices: tuple[int, ...]
    cluster_path: str | None = None
    centroid: tuple[float | None, ...] | None = None


@dataclass(frozen=True)
class LayerClusters:
    """The modules of one layer, by cluster_id."""

    layer: int
    clusters: tuple[Cluster, ...]


@dataclass(frozen=True)
class TokenQuery:
    """The tokens that fire a neuron or a module: (token, mean activation), the strongest first; both signs apart."""

    query_type: str  # "neuron" or "cluster"
    top_tokens: tuple[tuple[str, float | None], ...]
    top_tokens_negative: tuple[tuple[str, float | None], ...] = ()
    neuron_index: int | None = None
    layer_index: int | None = None
    cluster_id: int | None = None
    cluster_path: str | None = None


def strongest(measured: Measured, top: int | None = None) -> Activations:
    """Keep the `top` neurons of each layer with the largest |activation| at any token (ties: the lower index).

    None keeps all. Raises InputError for top < 1.
    """
    if top is not None and top < 1:
        raise InputError(f"top is {top}; keep at least 1 neuron per layer")
    values = np.asarray(measured.values)
    peaks = np.abs(values).max(axis=2)
    order = np.argsort(-peaks, axis=1, kind="stable")[:, :top]
    kept = np.sort(order, axis=1).astype(np.int64)
    chosen = np.take_along_axis(values, kept[:, :, None], axis=1)
    return Activations(measured.prompt, tuple(measured.tokens), np.arange(len(values)), kept, chosen)


def write_activations(path: Path, found: Activations) -> None:
    """Write activations/{prompt_name}.json, one line per neuron, streamed (memory: one layer as text)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.tmp")
    try:
        with draft.open("w", encoding="utf-8", newline="\n") as handle:
            handle.writelines(_activation_text(found))
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def read_activations(path: str | Path) -> Activations:
    """Read an activation file; values are float64 (shortest decimal forms: cast back to the measured type exactly).

    Raises InputError when a neuron has another number of activations than the prompt has tokens, or the layers another
    number of neurons than one another.
    """
    content = read_shaped(path, _ACTIVATIONS)
    layers, tokens = content["layers"], content["tokens"]
    widths = {len(layer["neurons"]) for layer in layers}
    if len(widths) > 1:
        raise InputError(f"{path}: layers have {min(widths)} to {max(widths)} neurons, expected one number; mend it")
    for layer in layers:
        _check_lengths(path, layer, len(tokens))
    shape = (len(layers), widths.pop() if widths else 0, len(tokens))
    index = [[neuron["neuron_index"] for neuron in layer["neurons"]] for layer in layers]
    values = [[neuron["activations"] for neuron in layer["neurons"]] for layer in layers]
    return Activations(
        prompt=content["prompt"],
        tokens=tuple(tokens),
        layer_index=np.array([layer["layer_index"] for layer in layers], dtype=np.int64),
        neuron_index=np.array(index, dtype=np.int64).reshape(shape[:2]),
        values=np.array(values, dtype=np.float64).reshape(shape),
    )


def write_clusters(path: Path, found: LayerClusters) -> None:
    """Write clusters/{name}_clusters.json of one layer; a centroid only where there is one."""
    replace_text(path, json_text({"layer": found.layer, "clusters": [_cluster_json(c) for c in found.clusters]}))


def read_clusters(path: str | Path) -> LayerClusters:
    """Read a cluster file."""
    content = read_shaped(path, _CLUSTERS)
    return LayerClusters(content["layer"], tuple(_cluster(item) for item in content["clusters"]))


def write_query(path: Path, found: TokenQuery) -> None:
    """Write queries/{neuron_or_cluster_id}.json."""
    replace_text(path, json_text(query_json(found)))


def query_json(found: TokenQuery) -> dict[str, Any]:
    """A token query as JSON; fields that do not apply are left out."""
    place = {
        "neuron_index": found.neuron_index,
        "layer_index": found.layer_index,
        "cluster_id": found.cluster_id,
        "cluster_path": found.cluster_path,
    }
    content = {"query_type": found.query_type, **{k: v for k, v in place.items() if v is not None}}
    signs = {"top_tokens": found.top_tokens, "top_tokens_negative": found.top_tokens_negative}
    tokens = {key: [{"token": t, "activation": a} for t, a in pairs] for key, pairs in signs.items()}
    return content | tokens


def read_query(path: str | Path) -> TokenQuery:
    """Read a token query; InputError when it is of neither kind or lacks the neuron it is about."""
    content = read_shaped(path, _QUERY)
    kind = content["query_type"]
    if kind not in ("neuron", "cluster"):
        raise InputError(f'{path}: query_type must be "neuron" or "cluster", found {kind!r}; mend the file')
    if kind == "neuron" and content.get("neuron_index") is None:
        raise InputError(f"{path}: a neuron query needs neuron_index; mend the file or export it again")
    return TokenQuery(
        query_type=kind,
        top_tokens=_pairs(content["top_tokens"]),
        top_tokens_negative=_pairs(content.get("top_tokens_negative") or []),
        **{key: content.get(key) for key in ("neuron_index", "layer_index", "cluster_id", "cluster_path")},
    )


def write_samples(path: Path, prompts: list[str]) -> None:
    """Write samples.json."""
    replace_text(path, json_text(prompts))


def read_samples(path: str | Path) -> list[str]:
    """Read the prompts of samples.json."""
    found: list[str] = read_shaped(path, [TEXT])
    return found


def sparsity_analysis(tensors: list[dict[str, Any]]) -> dict[str, Any]:
    """Rows of weight_stats -> the sparsity_analysis of a weight analysis, tensors in their order; null without any."""
    total = sum(t["total_parameters"] for t in tensors)
    non_zero = sum(t["non_zero_parameters"] for t in tensors)
    return {
        "overall_sparsity": 1 - non_zero / total if total else None,
        "total_parameters": total,
        "non_zero_parameters": non_zero,
        "layer_sparsity": {
            t["name"]: {
                "sparsity": t["sparsity"],
                "total_params": t["total_parameters"],
                "non_zero_params": t["non_zero_parameters"],
            }
            for t in tensors
        },
        "layer_stats": [_layer_stats(t) for t in tensors],
    }


def write_weight_analysis(path: Path, analysis: dict[str, Any]) -> None:
    """Write pruning/weight_analysis.json."""
    replace_text(path, json_text(analysis))


def read_weight_analysis(path: str | Path) -> dict[str, Any]:
    """Read a weight analysis, checked field by field."""
    found: dict[str, Any] = read_shaped(path, _WEIGHTS)
    return found


def _layer_stats(tensor: dict[str, Any]) -> dict[str, Any]:
    rest = {key: value for key, value in tensor.items() if key not in ("name", "layer")}
    return {"layer_name": tensor["name"], "layer_index": tensor["layer"], **rest}


def write_impact_analysis(path: Path, analysis: dict[str, Any]) -> None:
    """Write pruning/impact_analysis.json."""
    replace_text(path, json_text(analysis))


def read_impact_analysis(path: str | Path) -> dict[str, Any]:
    """Read an impact analysis, checked field by field."""
    found: dict[str, Any] = read_shaped(path, _IMPACTS)
    return found


def _activation_text(found: Activations) -> Iterator[str]:
    yield f'{{\n  "prompt": {json.dumps(found.prompt, ensure_ascii=False)},\n'
    yield f'  "tokens": {json.dumps(list(found.tokens), ensure_ascii=False)},\n  "layers": [\n'
    for i, layer in enumerate(found.layer_index):
        rows = zip(found.neuron_index[i].tolist(), _shortest(found.values[i]), strict=True)
        lines = [f'      {{"neuron_index": {neuron}, "activations": {_numbers(row)}}}' for neuron, row in rows]
        yield f'    {{"layer_index": {layer}, "neurons": [\n' + ",\n".join(lines)
        yield "\n    ]}" + ("," if i + 1 < len(found.layer_index) else "") + "\n"
    yield "  ]\n}\n"


def _shortest(values: Floats) -> list[list[float]]:
    # Through decimal text: a float32 0.1 becomes 0.1 and not the 0.10000000149011612 of its double.
    short = values.astype(str).astype(np.float64) if values.dtype != np.float64 else values
    return short.tolist()  # type: ignore[no-any-return]


def _numbers(row: list[float]) -> str:
    return json.dumps([finite(value) for value in row])


def _check_lengths(path: str | Path, layer: dict[str, Any], tokens: int) -> None:
    for neuron in layer["neurons"]:
        if len(neuron["activations"]) != tokens:
            raise InputError(
                f"{path}: neuron {neuron['neuron_index']} of layer {layer['layer_index']} has "
                f"{len(neuron['activations'])} activations for {tokens} tokens; export it again"
            )


def _cluster_json(cluster: Cluster) -> dict[str, Any]:
    content: dict[str, Any] = {"cluster_id": cluster.cluster_id, "neuron_indices": list(cluster.neuron_indices)}
    if cluster.centroid is not None:
        content["centroid"] = list(cluster.centroid)
    if cluster.cluster_path is not None:
        content["cluster_path"] = cluster.cluster_path
    return content


def _cluster(item: dict[str, Any]) -> Cluster:
    centroid = item.get("centroid")
    return Cluster(
        cluster_id=item["cluster_id"],
        neuron_indices=tuple(item["neuron_indices"]),
        cluster_path=item.get("cluster_path"),
        centroid=None if centroid is None else tuple(centroid),
    )


def _pairs(items: list[dict[str, Any]]) -> tuple[tuple[str, float | None], ...]:
    return tuple((item["token"], item["activation"]) for item in items)
