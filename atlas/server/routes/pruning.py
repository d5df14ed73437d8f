"""What can be pruned: sizes of weights, candidates, and what the model loses without neurons, measured as jobs."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Query
from starlette.concurrency import run_in_threadpool

from atlas.errors import InputError, StoreError
from atlas.query.atlas import Atlas
from atlas.query.pruning import Ranking, document
from atlas.server.errors import Refusal
from atlas.server.files import find_file
from atlas.server.jobs.job import Job
from atlas.server.models import Model
from atlas.server.replies import Told
from atlas.server.routes.pruning_forms import (
    BatchAnalysis,
    BatchRequest,
    Candidates,
    CandidatesQuery,
    Exported,
    ExportRequest,
    ImpactAnalysis,
    ImpactRequest,
    ImportanceAnalysis,
    ImportanceRequest,
    Measured,
    WeightAnalysis,
)
from atlas.server.routing import Routes
from atlas.server.state import Server
from atlas.server.waiting import Patience, Waiting, jobs_of, outcome, submit
from atlas.server.work.pruning import CORPORA

routes = Routes("pruning")

INLINE = 100 << 20  # bytes of weights that are read at once, in a fraction of a second; more as a job
_JOB = (409, 429, 502, 503)


@routes.get("/pruning/weight-analysis", reply=WeightAnalysis, seed=True, keep=False, job=True, statuses=_JOB)
async def weight_analysis(server: Server, patience: Waiting) -> Any:
    """Analyse the weights of the current model.

    The atlas has its own model's analysis stored. Another model is read from its files, a large one as a job.
    """
    found = await run_in_threadpool(_weights, server, patience)
    return await outcome(server, found, patience) if isinstance(found, Job) else found


@routes.get("/pruning/candidates", reply=Candidates, seed=True, keep=False, statuses=(409,))
def pruning_candidates(atlas: Atlas, server: Server, asked: Annotated[CandidatesQuery, Query()]) -> Told:
    """List the neurons that are safest to prune, safest first."""
    if server.models.current is not None:
        server.models.of_atlas(atlas)
    ranking, most = Ranking(asked.method, asked.scope, asked.eval_id), server.settings.max_rows
    limit = min(asked.limit or most, most)
    found = atlas.prune(threshold=asked.threshold, layer=asked.layer, limit=limit, ranking=ranking)
    told = document(atlas, found, threshold=asked.threshold, layer=asked.layer, ranking=ranking)
    shown, total = len(told["candidates"]), told["total_candidates"]
    said = [*found.warnings, *([f"{shown:,} of {total:,} candidates; raise limit"] if shown < total else [])]
    return Told(told, "; ".join(said) or None)


@routes.post("/pruning/impact-analysis", reply=ImpactAnalysis, seed=True, job=True, statuses=_JOB)
async def impact_analysis(body: ImpactRequest, server: Server, patience: Waiting) -> Any:
    """Measure what the model loses without some neurons of a layer.

    impact_score: below 0.1 is safe, 0.1 to 0.3 moderate, above 0.3 high. safe_to_prune is said from 10,000 tokens of
    several documents on; on a short text it is null, and `reason` says why.
    """
    ids = [(body.layer_index, neuron) for neuron in body.neuron_indices]
    request = _request(body, [body.input_text] if body.input_text else [])
    return await _measured(server, patience, ("impact", request), ids)


@routes.post("/pruning/neuron-importance", reply=ImportanceAnalysis, seed=True, job=True, statuses=_JOB)
async def neuron_importance(body: ImportanceRequest, server: Server, patience: Waiting) -> Any:
    """Measure how much every neuron of a layer matters, most important first.

    Some are measured, the others estimated from gradients: `evidence` says which.
    """
    request = _request(body, body.input_texts or [])
    return await _measured(server, patience, ("importance", request), [(body.layer_index, 0)], layer=True)


@routes.post("/pruning/batch-analysis", reply=BatchAnalysis, seed=True, job=True, statuses=_JOB)
async def batch_analysis(body: BatchRequest, server: Server, patience: Waiting) -> Any:
    """Measure candidates alone, the least harmful ones jointly, and find how many may go."""
    ids = [(one.layer_index, one.neuron_index) for one in body.pruning_candidates]
    return await _measured(server, patience, ("batch", _request(body, body.input_texts or [])), ids)


@routes.post("/pruning/export", reply=Exported, seed=True, statuses=(409,))
def export_pruning(atlas: Atlas, server: Server, body: ExportRequest) -> Told:
    """Write pruning/weight_analysis.json or pruning/impact_analysis.json in the server's data folder.

    "impact" is the newest batch or impact analysis that a job finished, else what the atlas has stored.
    """
    from atlas.export.seed_forms import write_impact_analysis, write_weight_analysis

    if server.models.current is not None:
        server.models.of_atlas(atlas)
    weight = body.type == "weight"
    found = _weight_file(server, atlas, body.eval_id) if weight else _impact_file(server, atlas, body.eval_id)
    path = server.settings.folder / "pruning" / f"{body.type}_analysis.json"
    (write_weight_analysis if weight else write_impact_analysis)(path, found)
    message = f"{body.type.capitalize()} analysis exported successfully"
    return Told({"message": message, "file_path": str(path), "size_bytes": path.stat().st_size}, message)


def _request(body: Measured, texts: list[str]) -> dict[str, Any]:
    """What the job is asked: the fields of the body, its texts as one list."""
    given = body.model_dump(mode="json")
    return {name: value for name, value in given.items() if not name.startswith("input_")} | {"texts": texts}


async def _measured(
    server: Server,
    patience: Patience,
    what: tuple[str, dict[str, Any]],
    ids: list[tuple[int, int]],
    *,
    layer: bool = False,
) -> Any:
    """Queue a measurement of neurons of the atlas, after what can be refused at once was."""
    job = await run_in_threadpool(_queued, server, patience, what, ids, layer)
    return await outcome(server, job, patience)


def _queued(
    server: Server, patience: Patience, what: tuple[str, dict[str, Any]], ids: list[tuple[int, int]], layer: bool
) -> Job:
    with server.held.use() as atlas:
        if layer and not ids[0][0] < atlas.layers:
            raise InputError(f"layer {ids[0][0]} is out of range: this model has layers 0..{atlas.layers - 1}")
        for one in ids:
            atlas.id_of(one)
        model = server.models.of_atlas(atlas)
    if what[1]["corpus"] is not None:
        find_file(server.settings.folder / CORPORA, what[1]["corpus"], status=400)
    return submit(server, *what, owner=patience.owner, model=model.folder)


def _weights(server: Server, patience: Patience) -> dict[str, Any] | Job:
    """The stored analysis, that of a small model's files, or a job."""
    with server.held.use() as atlas:
        model = None if server.models.current is None else server.models.now()
        if model is None or model.is_of(atlas):
            found = _stored_weights(atlas)
            if found["layer_stats"]:
                return found
        if model is None:
            raise StoreError(
                f"table weight_stats is empty: {atlas.name} was built without weights; start the server with --model"
            )
    if model.size <= INLINE:
        return _read_weights(model)
    return submit(server, "weight-analysis", {"model_name": model.name}, owner=patience.owner, model=model.folder)


def _stored_weights(atlas: Atlas) -> dict[str, Any]:
    from atlas.export.seed_pruning import stored_sparsity

    return stored_sparsity(atlas)


def _read_weights(model: Model) -> dict[str, Any]:
    from atlas.export.seed_forms import sparsity_analysis
    from atlas.measure.weight_files import weight_statistics
    from atlas.models.stored import stored_tensors

    checkpoint = stored_tensors(model.folder)
    return sparsity_analysis(weight_statistics(checkpoint.tensors)) | {"notes": list(checkpoint.notes)}


def _weight_file(server: Server, atlas: Atlas, eval_id: str | None) -> dict[str, Any]:
    from atlas.export.seed_pruning import weight_analysis as stored

    found = stored(atlas, eval_ids=_known(atlas, eval_id))
    if not found["sparsity_analysis"]["layer_stats"] and server.models.current is not None:
        found["sparsity_analysis"] = _read_weights(server.models.now())
    if not found["sparsity_analysis"]["layer_stats"] and found["eval_id"] is None:
        raise Refusal(409, f"tables weight_stats and pruning of {atlas.name} are empty: there is nothing to export")
    return found


def _impact_file(server: Server, atlas: Atlas, eval_id: str | None) -> dict[str, Any]:
    from atlas.export.seed_pruning import impact_analysis as stored

    found = None if eval_id else _newest_result(server, atlas)
    found = found or (stored(atlas, eval_ids=_known(atlas, eval_id)) if "impacts" not in atlas.missing else None)
    if found is None:
        raise Refusal(
            409, "no impacts were measured: ask POST /api/pruning/batch-analysis or impact-analysis, then export"
        )
    return found


def _newest_result(server: Server, atlas: Atlas) -> dict[str, Any] | None:
    """The document of the newest batch or impact job of this very model, in the form of the seed's file."""
    from atlas.export.seed_pruning import of_measurement

    jobs = jobs_of(server)
    ended = [one for kind in ("batch", "impact") for one in jobs.list(kind=kind, status="completed", limit=50)]
    for job in sorted(ended, key=lambda one: str(one.finished), reverse=True):
        result = jobs.get(job.id).result
        if result is not None and result.get("revision") == atlas.metadata.get("revision"):
            return of_measurement(result)
    return None


def _known(atlas: Atlas, eval_id: str | None) -> list[str]:
    """The chosen evaluation; InputError for one that the atlas has not."""
    from atlas.export.seed_pruning import require_known

    chosen = [] if eval_id is None else [eval_id]
    require_known(atlas, chosen)
    return chosen
