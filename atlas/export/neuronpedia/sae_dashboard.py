"""Neurons -> batches as SAEDashboard writes them: 25 keys a feature, floats to 5 places."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from atlas.export.neuronpedia.files import line
from atlas.export.neuronpedia.layout import Job, Unit, count
from atlas.export.neuronpedia.records import Exemplar, Logits, Neuron

PER_UNIT = 128
_UNKNOWN = -1.0  # what SAEDashboard writes for texts that are of no interval
_NOT_MEASURED = (
    "neuron_alignment_indices", "neuron_alignment_values", "neuron_alignment_l1", "correlated_neurons_indices",
    "correlated_neurons_pearson", "correlated_neurons_l1", "correlated_features_indices",
    "correlated_features_pearson", "correlated_features_l1", "logits_hist_data_bar_heights",
    "logits_hist_data_bar_values", "decoder_weights_dist", "vector",
)  # fmt: skip


def write_unit(job: Job, unit: Unit, chunks: Iterator[list[Neuron]]) -> None:
    """Write one batch."""
    features = [_feature(job, neuron) for neurons in chunks for neuron in neurons]
    if features:
        batch = {
            "model_id": job.names.model_id, "layer": unit.layer, "sae_set": job.names.set, "sae_id_suffix": None,
            "features": features,
        }  # fmt: skip
        job.files.write(f"{job.names.source(unit.layer)}/batch-{unit.batch}.json", line(batch))


def finish(job: Job, layers: Sequence[int]) -> None:
    """Nothing describes the batches but README.md and metadata.json."""


def _feature(job: Job, neuron: Neuron) -> dict[str, Any]:
    count(job.tally, neuron)
    bars, density = neuron.histogram, neuron.about["density"]
    pos_str, pos_values = _logits(neuron.promoted)
    neg_str, neg_values = _logits(neuron.suppressed)
    return {name: [] for name in _NOT_MEASURED} | {
        "feature_index": neuron.neuron, "neg_str": neg_str, "neg_values": neg_values, "pos_str": pos_str,
        "pos_values": pos_values, "frac_nonzero": _UNKNOWN if density is None else round(density, 5),
        "freq_hist_data_bar_values": _rounded(bars.middles) if bars else [],
        "freq_hist_data_bar_heights": bars.counts if bars else [],
        "n_prompts_total": job.facts.number("corpus_documents"),
        "n_tokens_in_prompt": job.facts.number("context_length"), "dataset": job.facts.text("corpora"),
        "activations": [_activation(exemplar) for exemplar in neuron.exemplars],
    }  # fmt: skip


def _logits(found: Logits | None) -> tuple[list[str], list[float]]:
    return (found.tokens, _rounded(found.values)) if found else ([], [])


def _activation(exemplar: Exemplar) -> dict[str, Any]:
    low, high, share = exemplar.interval or (_UNKNOWN, _UNKNOWN, _UNKNOWN)
    return {
        "bin_min": round(low, 5), "bin_max": round(high, 5), "bin_contains": round(share, 5),
        "tokens": exemplar.tokens, "values": _rounded(exemplar.values), "qualifying_token_index": exemplar.peak,
    }  # fmt: skip


def _rounded(values: Any) -> list[float]:
    """5 places; -0.0 becomes 0.0."""
    rounded: list[float] = (np.round(values.astype(np.float64), 5) + 0.0).tolist()
    return rounded
