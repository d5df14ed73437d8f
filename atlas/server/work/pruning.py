"""Requests of the pruning endpoints -> measurements on the job's model, in the seed's forms.

The numbers are those of `atlas impact`, `atlas importance` and `atlas prune batch` on the same text.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from atlas.errors import InputError
from atlas.server.work.loaded import loaded_model

if TYPE_CHECKING:
    from atlas.build.impacts import HeldOutText
    from atlas.build.measured_sets import Judging
    from atlas.server.jobs.work import Work

CORPORA = "corpora"  # folder of the data folder whose files a request may name
_JUDGING = ("zero", "budget", "seed", "again", "store")
_OF_CORPUS = ("documents", "skip_documents", "skip_calibration", "fresh", "context_length", "max_tokens")
Request = dict[str, Any]


def impact(work: Work, request: Request) -> dict[str, Any]:
    """The impact of neurons of one layer, all together and each alone."""
    from atlas.build.impacts import Measuring, document, measure_impacts

    adapter = loaded_model(work)
    d_mlp = adapter.spec.d_mlp
    ids = [request["layer_index"] * d_mlp + neuron for neuron in request["neuron_indices"]]
    wanted = Measuring(each=request["each"], **vars(_judging(request)))
    found = measure_impacts(
        work.atlas, ids, _text(work, request), model=adapter, measuring=wanted, progress=work.progress
    )
    return document(found, d_mlp) | _of(adapter)


def importance(work: Work, request: Request) -> dict[str, Any]:
    """The importance of every neuron of a layer."""
    from atlas.build.importance import ImportanceOptions, layer_importance

    adapter, text = loaded_model(work), _text(work, request)
    options = ImportanceOptions(request["share"], request["exact"], _judging(request))
    layer = request["layer_index"]
    found = layer_importance(work.atlas, layer, text, options=options, model=adapter, progress=work.progress)
    return found.document() | _of(adapter)


def batch(work: Work, request: Request) -> dict[str, Any]:
    """Pruning candidates alone, the least harmful ones jointly, and how many may go."""
    from atlas.build.prune_batch import BatchOptions, batch_analysis

    adapter, text = loaded_model(work), _text(work, request)
    ids = [one["layer_index"] * adapter.spec.d_mlp + one["neuron_index"] for one in request["pruning_candidates"]]
    options = BatchOptions(request["batch_size"], _judging(request))
    found = batch_analysis(work.atlas, ids, text, options=options, model=adapter, progress=work.progress)
    return found.document() | _of(adapter)


def weight_analysis(work: Work, request: Request) -> dict[str, Any]:
    """Sizes and sparsity of every weight matrix of the job's model, read from its files; the model is not loaded."""
    from atlas.export.seed_forms import sparsity_analysis
    from atlas.measure.weight_files import weight_statistics
    from atlas.models.stored import stored_tensors

    if work.model is None:
        raise InputError("no model to read: start the server with --model FOLDER")
    checkpoint = stored_tensors(Path(work.model))
    rows = weight_statistics(checkpoint.tensors, progress=work.progress)
    return sparsity_analysis(rows) | {"notes": list(checkpoint.notes)}


def _text(work: Work, request: Request) -> HeldOutText:
    from atlas.build.impacts import HeldOutText

    options = {name: request[name] for name in _OF_CORPUS}
    if request["corpus"] is not None:
        return HeldOutText(corpus=work.data / CORPORA / request["corpus"], **options)
    return HeldOutText(texts=tuple(request["texts"]), **options)


def _judging(request: Request) -> Judging:
    from atlas.build.measured_sets import Judging

    return Judging(**{name: request[name] for name in _JUDGING})


def _of(adapter: Any) -> dict[str, str]:
    """Which model it was measured on."""
    return {"model_name": adapter.spec.name, "revision": adapter.spec.revision}
