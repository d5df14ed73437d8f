"""Exports for Neuronpedia: started, followed, downloaded, cancelled, listed; each is a job."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from fastapi import Header, Query
from fastapi import Path as InPath
from pydantic import BaseModel, ConfigDict, Field, model_validator
from starlette.concurrency import run_in_threadpool
from starlette.responses import FileResponse, Response

from atlas.query.atlas import Atlas
from atlas.server.errors import Refusal
from atlas.server.jobs.job import Job, NotFound
from atlas.server.replies import Told
from atlas.server.routing import Routes
from atlas.server.sandbox.refusals import closed_names, require_harmless
from atlas.server.state import Server
from atlas.server.waiting import Patience, Waiting, jobs_of, outcome, status_of_name, submit
from atlas.server.work.neuronpedia import chosen_ids, plan_of

routes = Routes("neuronpedia")

KIND = "neuronpedia-export"
PACKING = "packing"  # title of the task that makes the archive
_STOPPING = 2.5  # seconds that a cancelled export may take to end, before it is told as it is
_NAME = r"^[a-z0-9][a-z0-9._-]{0,127}$"
_USER = r"^[A-Za-z0-9_-]{1,64}$"
Status = Literal["pending", "computing", "packaging", "completed", "failed", "cancelled"]
ExportId = Annotated[str, InPath(max_length=64, examples=["5f0c6a3e-0d6c-4f8e-9d0e-5a1f6b1c2d3e"])]
FeatureId = Annotated[int, Field(ge=0, lt=1 << 40)]


class ExportRequest(BaseModel):
    """The export dialog: which neurons, and what of them."""

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"selection": "range", "range": [0, 7], "histogram_bins": 20},
                {"selection": "neurons", "neurons": ["L0/N5", "L1/N7"], "layout": "bulk"},
            ]
        },
    )
    selection: Literal["all", "extracted", "range", "neurons", "sql"] = Field(
        "extracted", description="extracted: neurons with exemplars; the next three say which otherwise."
    )
    range: Annotated[list[FeatureId], Field(min_length=2, max_length=2)] | None = Field(
        None, description="First and last feature id (layer * width + neuron), both included."
    )
    neurons: list[FeatureId | Annotated[str, Field(min_length=1, max_length=200)]] | None = Field(
        None, min_length=1, max_length=10_000, description="Ids in any form, cluster:PATH, layer:A-B, label:TEXT."
    )
    sql: str | None = Field(
        None, min_length=1, max_length=10_000, description="A SELECT with columns layer and neuron."
    )
    layout: Literal["prd", "bulk", "upload", "sae-dashboard"] = Field(
        "prd", description="prd: the export document's package; the others: what Neuronpedia and SAEDashboard read."
    )
    logit_lens: bool = True
    logit_lens_k: int = Field(20, ge=1, le=1000, description="Promoted and suppressed tokens.")
    histograms: bool = True
    histogram_bins: int = Field(50, ge=1, le=1000)
    top_tokens: bool = True
    top_tokens_k: int = Field(50, ge=1, le=1000, description="Of each sign.")
    explanations: bool = True
    saelens_weights: bool | None = Field(None, description="null: where the atlas's model is the current one.")
    activations: int = Field(20, ge=1, le=1000, description="Exemplars of each sign.")
    sign: Literal["+", "-", "both"] = Field("+", description="Of exemplars, top tokens and labels.")
    model_id: str | None = Field(None, pattern=_NAME, description="On the site.")
    release: str | None = Field(None, pattern=_NAME)
    set: str | None = Field(None, pattern=_NAME, description="Of layouts upload and sae-dashboard.")
    creator: str | None = Field(None, min_length=1, max_length=200)
    creator_id: str | None = Field(None, pattern=_USER)
    author_id: str | None = Field(None, pattern=_USER)
    visibility: Literal["private", "unlisted", "public"] = "private"
    max_bytes: int = Field(8 << 30, ge=1, le=1 << 40, description="A larger package is refused before it is written.")

    @model_validator(mode="after")
    def _said(self) -> Self:
        for name in ("range", "neurons", "sql"):
            if (getattr(self, name) is not None) != (self.selection == name):
                raise ValueError(f'give {name} with selection "{name}", and only with it')
        return self


class ExportStatus(BaseModel):
    """One export; times are UTC."""

    id: str
    sae_id: str | None = Field(description="Revision of the atlas's model.")
    config: dict[str, Any] = Field(description="What was asked for.")
    status: Status
    progress: float = Field(ge=0, le=1)
    current_stage: str | None
    feature_count: int | None = Field(description="Neurons; null for a SELECT that has not run.")
    output_path: str | None
    file_size_bytes: int | None
    error_message: str | None
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    download: str | None = Field(description="Where the archive is, once it is complete.")
    resumable: bool = Field(description="Whether POST /api/v1/jobs/{id}/resume would let it go on.")
    notes: list[str] = Field(description="What the atlas lacks, what was altered and left out.")


class ExportHistory(BaseModel):
    """Exports, newest first."""

    exports: list[ExportStatus]
    next: str | None = Field(description="Give it as `before` for the next page; null on the last one.")


class ExportEstimate(BaseModel):
    """What an export would write, from the records of up to 128 neurons."""

    layout: str
    features: int
    files: int
    size_bytes: int
    weight_bytes: int
    disk_bytes: int = Field(description="That the disk must have free.")
    sampled: int
    notes: list[str]
    layouts: list[str] = Field(description="Layouts that this atlas can be exported in.")


class Page(BaseModel):
    """Which exports are listed."""

    model_config = ConfigDict(extra="forbid")
    limit: int = Field(50, ge=1, le=200)
    before: str | None = Field(None, max_length=64, description="Id of an export: only older ones.")


@routes.post("/neuronpedia/export", reply=ExportStatus, job=True, statuses=(409, 429, 503))
async def start_export(body: ExportRequest, server: Server, patience: Waiting) -> Told:
    """Start an export; 202 with its status, or 200 when it is done within `wait` seconds."""
    job = await run_in_threadpool(_start, server, patience, body)
    job = await jobs_of(server).wait(job.id, patience.seconds) if patience.seconds else job
    if job.status == "failed":
        raise Refusal(status_of_name(job.details), job.error or "the export failed", details={"id": job.id})
    location = f"/api/v1/neuronpedia/export/{job.id}"
    return Told(_status(job), status=200 if job.ended else 202, headers={"location": location})


@routes.post("/neuronpedia/estimate", reply=ExportEstimate, job=True, statuses=(409, 429, 503))
async def estimate_export(body: ExportRequest, server: Server, patience: Waiting) -> Any:
    """Estimate the size of an export without writing it; with weights, or for a SELECT, as a job."""
    found = await run_in_threadpool(_estimate, server, patience, body)
    return await outcome(server, found, patience) if isinstance(found, Job) else found


@routes.get("/neuronpedia/export/{export_id}", reply=ExportStatus, keep=False, statuses=(404, 503))
def export_status(server: Server, export_id: ExportId) -> dict[str, Any]:
    """Show how an export stands."""
    return _status(_export(server, export_id))


@routes.get(
    "/neuronpedia/export/{export_id}/download",
    reply=Response, forms=("application/zip",), keep=False, statuses=(404, 409, 503),
)  # fmt: skip
def download_export(
    server: Server,
    export_id: ExportId,
    if_none_match: Annotated[str | None, Header(max_length=1000)] = None,
) -> Response:
    """Download the archive of a complete export (application/zip), whole or in ranges; 409 before it is complete."""
    job = _export(server, export_id)
    if job.status != "completed" or job.result is None:
        raise Refusal(409, f"the export is {_phase(job)}, there is nothing to download", details=job.error)
    path = jobs_of(server).folder(job.id) / Path(job.result["output_path"]).name  # the data folder may have moved
    if not path.is_file():
        raise Refusal(404, f"the archive of export {export_id} is gone; export it again")
    tag = f'"{job.result["sha256"][:32]}"'
    if if_none_match is not None and tag in [one.strip().removeprefix("W/") for one in if_none_match.split(",")]:
        return Response(status_code=304, headers={"etag": tag})
    headers = {"etag": tag, "cache-control": "private, no-cache"}
    return FileResponse(path, media_type="application/zip", filename=path.name, headers=headers)


@routes.post("/neuronpedia/export/{export_id}/cancel", reply=ExportStatus, statuses=(404, 503))
async def cancel_export(server: Server, export_id: ExportId) -> dict[str, Any]:
    """Cancel an export; what it had written is removed. One that has ended stays as it is."""
    job, jobs = await run_in_threadpool(_export, server, export_id), jobs_of(server)
    await run_in_threadpool(jobs.cancel, job.id)
    return _status(await jobs.wait(job.id, _STOPPING))


@routes.get("/neuronpedia/exports", reply=ExportHistory, keep=False, statuses=(404, 503))
def export_history(server: Server, page: Annotated[Page, Query()]) -> dict[str, Any]:
    """List exports, newest first."""
    jobs = jobs_of(server)
    found = jobs.list(kind=KIND, limit=page.limit + 1, before=page.before)
    shown = [jobs.get(job.id) if job.status == "completed" else job for job in found[: page.limit]]
    following = shown[-1].id if len(found) > page.limit else None
    return {"exports": [_status(job) for job in shown], "next": following}


def _start(server: Server, patience: Patience, body: ExportRequest) -> Job:
    with server.held.use() as atlas:
        request, model = _request(server, atlas, body)
        ids = _checked(atlas, request, model)
        request |= {"feature_count": None if ids is None else len(ids), "sae_id": atlas.metadata.get("revision")}
    return submit(server, KIND, request, owner=patience.owner, model=model)


def _estimate(server: Server, patience: Patience, body: ExportRequest) -> dict[str, Any] | Job:
    from dataclasses import asdict

    from atlas.build.neuronpedia import estimate

    with server.held.use() as atlas:
        request, model = _request(server, atlas, body)
        ids = _checked(atlas, request, model)
        if ids is not None and model is None:
            return asdict(estimate(atlas, plan_of(request, ids, model=None)))
    return submit(server, "neuronpedia-estimate", request, owner=patience.owner, model=model)


def _checked(atlas: Atlas, request: dict[str, Any], model: Path | None) -> list[int] | None:
    """The neurons, None for a SELECT, which runs in a job; raises for whatever can be refused at once."""
    from atlas.export.neuronpedia.plan import check_plan

    ids = None if request["sql"] else chosen_ids(atlas, request)
    if ids is None:
        require_harmless(atlas, request["sql"], closed_names(atlas.cursor()))
    check_plan(atlas, plan_of(request, ids or [0], model=None if model is None else str(model)))
    return ids


def _request(server: Server, atlas: Atlas, body: ExportRequest) -> tuple[dict[str, Any], Path | None]:
    """What the job is asked, and the folder of the model whose weights are included."""
    request, models = body.model_dump(), server.models
    weights = body.saelens_weights
    if weights is None:
        weights = body.layout == "prd" and models.current is not None and models.now().is_of(atlas)
    model = models.of_atlas(atlas).folder if weights else None
    return request | {"saelens_weights": weights}, model


def _export(server: Server, export_id: str) -> Job:
    job = jobs_of(server).get(export_id)
    if job.kind != KIND:
        raise NotFound(f"no export {export_id!r}; GET /api/v1/neuronpedia/exports lists them")
    return job


def _phase(job: Job) -> Status:
    """The export document's word for where a job stands."""
    if job.status == "running":
        return "packaging" if job.stage == PACKING else "computing"
    known: dict[str, Status] = {"queued": "pending", "interrupted": "failed"}
    return known.get(job.status) or job.status  # type: ignore[return-value]


def _status(job: Job) -> dict[str, Any]:
    asked = {name: value for name, value in job.request.items() if name not in ("feature_count", "sae_id")}
    made, told = job.result or {}, job.document()
    done = job.status == "completed"
    return {
        "id": job.id,
        "sae_id": job.request["sae_id"],
        "config": asked,
        "status": _phase(job),
        "progress": job.progress,
        "current_stage": job.stage,
        "feature_count": made.get("feature_count", job.request["feature_count"]),
        "output_path": made.get("output_path"),
        "file_size_bytes": made.get("file_size_bytes"),
        "error_message": job.error,
        "created_at": told["created"],
        "started_at": told["started"],
        "completed_at": told["finished"] if done else None,
        "download": f"/api/v1/neuronpedia/export/{job.id}/download" if done else None,
        "resumable": job.resumable,
        "notes": made.get("notes", []),
    }
