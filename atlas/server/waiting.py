"""A long question -> its answer when a job has it in time, else 202 with the job.

At the paths of the seed's document the answer is waited for, up to a minute; under /api/v1 the job is given at once.
`?wait=` says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, Query, Request

from atlas import errors
from atlas.errors import AtlasError, ResourceError
from atlas.server.errors import Refusal, status_of
from atlas.server.jobs.job import Job
from atlas.server.jobs.queue import Jobs
from atlas.server.replies import Pending
from atlas.server.state import Server

USUAL = 60.0  # seconds that a bare path waits for
LONGEST = 300.0


@dataclass(frozen=True)
class Patience:
    """How long an answer is waited for, and who asks."""

    seconds: float
    owner: str | None


def _patience(
    request: Request,
    wait: Annotated[
        float | None,
        Query(ge=0, le=LONGEST, description="Seconds to wait for the answer; then 202 with the job.", examples=[5]),
    ] = None,
) -> Patience:
    seconds = (USUAL if _is_bare(request) else 0.0) if wait is None else wait
    return Patience(seconds, request.scope.get("state", {}).get("owner"))


def _is_bare(request: Request) -> bool:
    """Whether a path of the seed's document was asked, so that the answer has no envelope."""
    return not request.url.path.startswith("/api/v1/")


Bare = Annotated[bool, Depends(_is_bare)]
Waiting = Annotated[Patience, Depends(_patience)]


def jobs_of(server: Server) -> Jobs:
    """The server's jobs; Refusal (503) while there are none (it is starting or stopping)."""
    if server.jobs is None:
        raise Refusal(503, "no jobs are taken now; ask again in a moment", headers={"retry-after": "1"})
    return server.jobs


def submit(server: Server, kind: str, request: dict[str, Any], *, owner: str | None, model: Path | None = None) -> Job:
    """Queue a job, of the folder `model` or without one; Refusal (503) when too many wait."""
    jobs = jobs_of(server)
    environment = replace(jobs.environment, model=None if model is None else str(model))
    try:
        return jobs.submit(kind, request, owner=owner, environment=environment)
    except ResourceError as error:
        raise Refusal(503, str(error), headers={"retry-after": "10"}) from error


async def outcome(server: Server, job: Job, patience: Patience) -> Any:
    """What a job came to, as the answer to who asked: its result, its error with the error's status, or Pending."""
    jobs = jobs_of(server)
    job = await jobs.wait(job.id, patience.seconds) if patience.seconds else jobs.get(job.id)
    if job.status == "completed":
        return job.result
    if job.status == "failed":
        raise Refusal(status_of_name(job.details), job.error or "the job failed", details={"job": job.id})
    if job.ended:
        told = f"the job was {job.status}" + (f": {job.error}" if job.error else "")
        status = 409 if job.status == "cancelled" else 503
        raise Refusal(status, told, details={"job": job.id, "resumable": job.resumable})
    return Pending(job.document(), f"/api/v1/jobs/{job.id}")


def status_of_name(name: str | None) -> int:
    """The status of an error that a worker told by the name of its type; 500 for what is none of ours."""
    kind = getattr(errors, name or "", None)
    if not (isinstance(kind, type) and issubclass(kind, AtlasError)):
        return 500
    return status_of(kind())
