"""Neurons -> the package of the export document: features/N.json, explanations/explanations.json.

N is the packed id, layer * neurons_per_layer + neuron. What the document leaves open is said in README.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from atlas.export.neuronpedia.files import line
from atlas.export.neuronpedia.layout import Job, Unit, count, provenance
from atlas.export.neuronpedia.records import Exemplar, Logits, Neuron, short
from atlas.export.neuronpedia.tally import visible

PER_UNIT = 200


def write_unit(job: Job, unit: Unit, chunks: Iterator[list[Neuron]]) -> None:
    """Write a document a neuron, and the unit's part of the explanations."""
    labels: list[bytes] = []
    for neurons in chunks:
        for neuron in neurons:
            count(job.tally, neuron)
            number = neuron.layer * job.facts.d_mlp + neuron.neuron
            job.files.write(f"features/{number}.json", line(_feature(job, neuron, number)))
            labels += [line(one) for one in _labels(job, neuron, number)]
    if labels:
        job.files.part(f"{unit.index:08d}.json", b",".join(labels))


def finish(job: Job, layers: Sequence[int]) -> None:
    """Write all explanations as one list."""
    if job.plan.explanations:
        job.files.joined("explanations/explanations.json", (b"[\n", b",", b"]\n"))


def _feature(job: Job, neuron: Neuron, number: int) -> dict[str, Any]:
    about, plan = neuron.about, job.plan
    made: dict[str, Any] = {
        "feature_index": number, "layer": neuron.layer, "neuron": neuron.neuron,
        "label": _label(neuron), "category": _category(job, about["cluster_path"]),
        "statistics": {
            "activation_frequency": about["density"], "max_activation": short(about["max"]),
            "mean_activation": short(about["mean_active"]),
        },
    }  # fmt: skip
    if plan.logit_lens:
        made["logit_lens"] = {
            "top_positive": _logits(neuron.promoted), "top_negative": _logits(neuron.suppressed),
        }  # fmt: skip
    if plan.histograms:
        bars = neuron.histogram
        made["histogram"] = {"bin_edges": bars.edges if bars else [], "counts": bars.counts if bars else []}
    if plan.top_tokens:
        made["top_tokens"] = [
            {"token": row["token"], "count": row["n"], "mean_activation": short(row["mean"])} for row in neuron.tokens
        ]
    return made | {"activations": [_activation(exemplar) for exemplar in neuron.exemplars]}


def _label(neuron: Neuron) -> str | None:
    """The chosen label where it is exported, else the first that is."""
    texts = [label["label"] for label in neuron.labels]
    chosen = visible(neuron.about["label"] or "")
    return chosen if chosen in texts else next(iter(texts), None)


def _category(job: Job, path: str | None) -> str | None:
    """Names of the modules that hold the neuron, coarsest first."""
    if not path:
        return None
    parts = path.split(".")
    above = [".".join(parts[:n]) for n in range(1, len(parts) + 1)]
    return " > ".join(job.tally.text(job.facts.modules.get(one) or f"module {one}") for one in above)


def _logits(found: Logits | None) -> list[dict[str, Any]]:
    return [{"token": t, "value": v} for t, v in zip(found.tokens, found.values, strict=True)] if found else []


def _activation(exemplar: Exemplar) -> dict[str, Any]:
    tokens, peak = exemplar.tokens, exemplar.peak
    return {
        "token": tokens[peak], "value": exemplar.values[peak], "context_before": "".join(tokens[:peak]),
        "context_after": "".join(tokens[peak + 1 :]),
    }  # fmt: skip


def _labels(job: Job, neuron: Neuron, number: int) -> Iterator[dict[str, Any]]:
    place = {"feature_index": number, "layer": neuron.layer, "neuron": neuron.neuron}
    for label in neuron.labels:
        yield place | {"label": label["label"]} | provenance(label)
