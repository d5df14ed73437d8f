"""Neurons -> the folder that Neuronpedia's importer reads: {model}/{layer}/ with features, activations, explanations.

The importer takes the columns of a batch from its first line, so every line has the same keys. A batch is split before
150 MB of lines; a folder has at most 1,000 files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import orjson

from atlas.errors import InputError
from atlas.export.neuronpedia.files import Lines, line
from atlas.export.neuronpedia.layout import Job, Unit, count, described, provenance, stable_id
from atlas.export.neuronpedia.records import Exemplar, Neuron, Row, short

PER_UNIT = 1024
MOST_BYTES = 150_000_000
MOST_FILES = 1000


def write_unit(job: Job, unit: Unit, chunks: Iterator[list[Neuron]]) -> None:
    """Write the batches of up to 1,024 neurons of a layer; kinds without a row get no file."""
    folder = f"{job.names.model_id}/{job.names.source(unit.layer)}"
    batches = {kind: _Batches(job, f"{folder}/{kind}") for kind in ("features", "activations", "explanations")}
    for neurons in chunks:
        for neuron in neurons:
            batches["features"].add(_feature(job, neuron))
            for exemplar in neuron.exemplars:
                batches["activations"].add(_activation(job, neuron, exemplar))
            for explanation in _explanations(job, neuron):
                batches["explanations"].add(explanation)
            count(job.tally, neuron)
    for one in batches.values():
        one.close()


def finish(job: Job, layers: Sequence[int]) -> None:
    """Write model, release, sourceset and source of every layer: one line each."""
    for layer in layers:
        folder = f"{job.names.model_id}/{job.names.source(layer)}"
        for name, record in _described(job, layer).items():
            job.files.write(f"{folder}/{name}.jsonl", line(record))


class _Batches:
    """batch-N.jsonl.gz files of one folder, numbered on from earlier units."""

    def __init__(self, job: Job, folder: str) -> None:
        self._job, self._folder = job, folder
        self._open: Lines | None = None

    def add(self, record: dict[str, Any]) -> None:
        made = line(record)
        if self._open and self._open.size + len(made) > MOST_BYTES:
            self.close()
        if not self._open:
            number = self._job.next_file.get(self._folder, 0)
            if number >= MOST_FILES:
                raise InputError(
                    f"{self._folder} would get more than {MOST_FILES:,} files, which the importer does not list; "
                    "export fewer --activations"
                )
            self._job.next_file[self._folder] = number + 1
            self._open = self._job.files.lines(f"{self._folder}/batch-{number}.jsonl.gz")
        self._open.add(made)

    def close(self) -> None:
        if self._open:
            self._open.close()
        self._open = None


def _feature(job: Job, neuron: Neuron) -> dict[str, Any]:
    about, plan = neuron.about, job.plan
    highest = about["max"] if about["max"] is not None else _highest(neuron)
    made: dict[str, Any] = {
        **_place(job, neuron), "sourceSetName": job.names.set, "creatorId": job.names.creator_id,
        "maxActApprox": short(highest), "hasVector": False, "vector": [], "vectorLabel": None,
        "hookName": f"blocks.{neuron.layer}.mlp.hook_post",
        "frac_nonzero": -1 if about["density"] is None else about["density"],
    }  # fmt: skip
    if plan.logit_lens:
        for sign, found in (("pos", neuron.promoted), ("neg", neuron.suppressed)):
            made |= {f"{sign}_str": found.tokens if found else [], f"{sign}_values": found.values if found else []}
    if plan.histograms:
        bars = neuron.histogram
        made["freq_hist_data_bar_values"] = bars.middles if bars else []
        made["freq_hist_data_bar_heights"] = bars.counts if bars else []
    return made


def _highest(neuron: Neuron) -> float | None:
    return max((float(exemplar.values.max()) for exemplar in neuron.exemplars), default=None)


def _activation(job: Job, neuron: Neuron, exemplar: Exemplar) -> dict[str, Any]:
    place, values = _place(job, neuron), exemplar.values
    sign = "" if exemplar.polarity > 0 else "-"
    source = exemplar.corpus or "corpus"
    low, high, share = exemplar.interval or (None, None, None)
    return {
        "id": stable_id("activation", *place.values(), f"{sign}{exemplar.rank}"), **place,
        "creatorId": job.names.creator_id, "tokens": exemplar.tokens, "values": values, "maxValue": values.max(),
        "minValue": values.min(), "maxValueTokenIndex": int(values.argmax()), "binMin": low, "binMax": high,
        "binContains": share, "qualifyingTokenIndex": exemplar.peak,
        "dataSource": f"{source} (negative exemplar)" if sign else source,
    }  # fmt: skip


def _explanations(job: Job, neuron: Neuron) -> Iterator[dict[str, Any]]:
    place, seen = _place(job, neuron), dict[str, int]()
    for label in neuron.labels:
        notes = orjson.dumps(provenance(label)).decode()
        again = seen[notes + label["label"]] = seen.get(notes + label["label"], -1) + 1
        yield {
            "id": stable_id("explanation", *place.values(), label["label"], notes, again), **place,
            "authorId": job.names.author_id, "description": described(label), "notes": notes,
            "scoreV1": label["score"] or 0, "typeName": None, "explanationModelName": None,
        }  # fmt: skip


def _place(job: Job, neuron: Neuron) -> Row:
    return {
        "modelId": job.names.model_id, "layer": job.names.source(neuron.layer), "index": str(neuron.neuron),
    }  # fmt: skip


def _described(job: Job, layer: int) -> dict[str, Row]:
    names = job.names
    model = job.facts.text("model") or names.model_id
    owner = model.rpartition("/")[0] or "unknown"
    visible = {"visibility": names.visibility}
    made_by = {"creatorName": names.creator, "creatorId": names.creator_id}
    return {
        "model": {
            "id": names.model_id, "creatorId": names.creator_id, "layers": job.facts.layers,
            "neuronsPerLayer": job.facts.d_mlp, "owner": owner, "displayName": model.rpartition("/")[2],
            "dimension": job.facts.number("d_model"), **visible,
        },
        "release": {"name": names.release, "description": f"MLP neurons of {model}", **made_by, **visible},
        "sourceset": {
            "modelId": names.model_id, "name": names.set, "description": f"MLP neurons of {model}", **made_by,
            **visible, "hasDashboards": True, "showCorrelated": False, "releaseName": names.release,
        },
        "source": {
            "id": names.source(layer), "modelId": names.model_id, "setName": names.set,
            "creatorId": names.creator_id, **visible, "hasDashboards": True,
            "num_prompts": job.facts.number("corpus_documents"),
            "num_tokens_in_prompt": job.facts.number("context_length"),
            "dataset": job.facts.text("corpora"),
            "notes": f"atlas {job.facts.text('name') or ''} of {model} {job.facts.text('revision') or ''}".strip(),
        },
    }  # fmt: skip
