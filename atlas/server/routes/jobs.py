"""Jobs over HTTP: listed, asked for, waited for, cancelled, resumed, watched.

There is one team behind one server: every token sees the jobs of all, `owner` says whose they are.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import Header, Query
from fastapi import Path as InPath
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from atlas.errors import ResourceError
from atlas.server.channels import EVENT_STREAM, brief, server_sent
from atlas.server.errors import Refusal
from atlas.server.jobs.job import Status
from atlas.server.routing import Routes
from atlas.server.state import Server
from atlas.server.waiting import LONGEST, jobs_of

routes = Routes("jobs")

_STOPPING = 2.5  # seconds that a cancelled job may take to end, before it is told as it is
_EXAMPLE: dict[str, Any] = {
    "id": "5f0c6a3e-0d6c-4f8e-9d0e-5a1f6b1c2d3e", "kind": "impact", "status": "running", "stage": "impacts",
    "progress": 0.41, "done": 5125, "total": 12500, "unit": "set-tokens", "seconds_left": 3.2,
    "request": {"layer_index": 0, "neuron_indices": [5, 7]}, "result": None, "error": None, "details": None,
    "owner": "ann", "created": "2026-01-05T09:30:00.000Z", "started": "2026-01-05T09:30:00.120Z", "finished": None,
    "resumable": False, "attempts": 1,
}  # fmt: skip

JobId = Annotated[str, InPath(max_length=64, description="Id of a job.", examples=[_EXAMPLE["id"]])]
LastSeen = Annotated[
    str | None, Header(alias="Last-Event-ID", description="Id of the last event that the client has, if any.")
]


class JobDocument(BaseModel):
    """A job as it stands; times are UTC."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    id: str
    kind: str
    status: Status
    stage: str = Field(description="The task under way, or the one in which the job ended.")
    progress: float = Field(ge=0, le=1, description="Of the whole job, as far as its tasks are known.")
    done: int = Field(description="Units of the stage that are done.")
    total: int
    unit: str
    seconds_left: float | None = Field(description="Of the stage, at its rate so far.")
    request: dict[str, Any] | None = Field(description="Null in lists and streams where it is over 10 kB.")
    result: dict[str, Any] | None = Field(description="Null in lists, and unless the job is completed.")
    error: str | None
    details: str | None = Field(description="More about the error; while the job runs, what it noted last.")
    owner: str | None = Field(description="Name of the token that asked.")
    created: datetime
    started: datetime | None
    finished: datetime | None
    resumable: bool
    attempts: int


class JobPage(BaseModel):
    """Jobs, newest first, without their results."""

    jobs: list[JobDocument]
    next: str | None = Field(description="Give it as `before` for the next page; null on the last one.")


class Filters(BaseModel):
    """Which jobs are listed."""

    model_config = ConfigDict(extra="forbid")

    kind: str | None = Field(None, max_length=64, description="Only of this kind.", examples=["impact"])
    status: Status | None = Field(None, description="Only those that stand so.")
    owner: str | None = Field(None, max_length=64, description="Only those that this token asked for.")
    limit: int = Field(50, ge=1, le=200)
    before: str | None = Field(None, max_length=64, description="Id of a job: only older ones.")


@routes.get("/jobs", reply=JobPage, keep=False, statuses=(404, 503))
def list_jobs(server: Server, chosen: Annotated[Filters, Query()]) -> dict[str, Any]:
    """List jobs, newest first.

    Jobs that have ended are kept for 30 days, at most the last 1,000.
    """
    given = chosen.model_dump()
    limit = given.pop("limit")
    found = jobs_of(server).list(**given, limit=limit + 1)
    more = found[limit - 1].id if len(found) > limit else None
    return {"jobs": [brief(job) for job in found[:limit]], "next": more}


@routes.get("/jobs/{job_id}", reply=JobDocument, keep=False, statuses=(404, 503))
async def get_job(
    server: Server,
    job_id: JobId,
    wait: Annotated[
        float, Query(ge=0, le=LONGEST, description="Seconds to wait for its end.", examples=[5], allow_inf_nan=False)
    ] = 0.0,
) -> dict[str, Any]:
    """Show one job, with its result once it is completed.

    With `wait` the answer comes as soon as the job has ended, or as it stands after so many seconds.
    """
    return (await jobs_of(server).wait(job_id, wait)).document()


@routes.post("/jobs/{job_id}/cancel", reply=JobDocument, statuses=(404, 503))
async def cancel_job(server: Server, job_id: JobId) -> dict[str, Any]:
    """Cancel a job; the answer comes when it has ended, within 2 seconds.

    What it had made is removed. A job that has ended stays as it is, but an interrupted one is given up.
    """
    jobs = jobs_of(server)
    await run_in_threadpool(jobs.cancel, job_id)
    return (await jobs.wait(job_id, _STOPPING)).document()


@routes.post("/jobs/{job_id}/resume", reply=JobDocument, statuses=(404, 409, 503))
def resume_job(server: Server, job_id: JobId) -> dict[str, Any]:
    """Queue an interrupted or failed job again; it goes on where it was.

    Only where `resumable` is true, else 409.
    """
    jobs = jobs_of(server)
    job = jobs.get(job_id)
    if not job.resumable:
        raise Refusal(409, f"job {job_id} is {job.status} and cannot be resumed; ask for it anew")
    try:
        return jobs.resume(job_id).document()
    except ResourceError as error:
        raise Refusal(503, str(error), headers={"retry-after": "10"}) from error


@routes.get("/jobs/{job_id}/events", reply=Response, forms=(EVENT_STREAM,), keep=False, statuses=(204, 404, 503))
async def watch_job(server: Server, job_id: JobId, last_seen: LastSeen = None) -> Response:
    """Watch a job: server-sent events, each with the whole job, at most 4 a second; the last one is its end.

    `data` is `{"channel": "jobs/ID", "event": "progress|completed|failed|cancelled", "data": {job}}`; an interrupted
    job is told as failed. Results over 1 MB are left out: ask for the job. A client that has seen the end gets 204.
    """
    return await server_sent(jobs_of(server), "jobs", job_id, last_seen)


@routes.get("/events/export/{job_id}", reply=Response, forms=(EVENT_STREAM,), keep=False, statuses=(204, 404, 503))
async def watch_export(server: Server, job_id: JobId, last_seen: LastSeen = None) -> Response:
    """Watch an export: server-sent events with the fields of miStudio's channel.

    `data` is `{"channel": "export/ID", "event": "progress", "data": {"progress", "stage", "feature_count"}}`, then
    `completed` with `{"output_path", "file_size"}`, `failed` with `{"error"}`, or `cancelled`.
    """
    return await server_sent(jobs_of(server), "export", job_id, last_seen)
