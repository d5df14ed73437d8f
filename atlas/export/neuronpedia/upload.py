"""Neurons -> bodies for Neuronpedia's upload route, one file for each request of up to 128 features.

The route wants a density and an activation of every feature, so neurons without them are left out and counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from atlas.export.neuronpedia.files import line
from atlas.export.neuronpedia.layout import Job, Unit, count, cut, described, shortened
from atlas.export.neuronpedia.records import Exemplar, Logits, Neuron

PER_UNIT = 128
MOST_TOKENS = 1024
MOST_TEXT = 512


def write_unit(job: Job, unit: Unit, chunks: Iterator[list[Neuron]]) -> None:
    """Write one body; no file where no neuron of the unit can be uploaded."""
    features = [_feature(job, neuron) for neurons in chunks for neuron in neurons if _fits(job, neuron)]
    source = job.names.source(unit.layer)
    if features:
        body = {"modelId": job.names.model_id, "source": source, "features": features}
        job.files.write(f"{source}/batch-{unit.batch}.json", line(body))


def finish(job: Job, layers: Sequence[int]) -> None:
    """Nothing describes the bodies but README.md and metadata.json."""


def _fits(job: Job, neuron: Neuron) -> bool:
    if neuron.about["density"] is None:
        job.tally.left_out["neurons: without statistics there is no density"] += 1
    elif not neuron.exemplars:
        job.tally.left_out["neurons: without an exemplar there is no activation"] += 1
    else:
        return True
    return False


def _feature(job: Job, neuron: Neuron) -> dict[str, Any]:
    count(job.tally, neuron)
    made: dict[str, Any] = {"index": neuron.neuron, "density": neuron.about["density"]}
    if job.plan.logit_lens:
        made |= {"topLogits": _logits(neuron.promoted), "bottomLogits": _logits(neuron.suppressed)}
    if job.plan.explanations:
        made["explanations"] = [
            {
                "text": cut(described(label), MOST_TEXT, job.tally, what="explanations"),
                "methodName": label["source"] or "unknown",
                "modelName": None,
            }
            for label in neuron.labels
        ]
    return made | {"activations": [_activation(job, exemplar) for exemplar in neuron.exemplars]}


def _logits(found: Logits | None) -> list[dict[str, Any]]:
    return [{"token": t, "value": v} for t, v in zip(found.tokens, found.values, strict=True)] if found else []


def _activation(job: Job, exemplar: Exemplar) -> dict[str, Any]:
    tokens, values, _ = shortened(exemplar, MOST_TOKENS, job.tally)
    made = {"tokens": tokens, "values": values}
    if exemplar.interval is None:
        return made
    return made | dict(zip(("quantileMin", "quantileMax", "quantileFraction"), exemplar.interval, strict=True))
