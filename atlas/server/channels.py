"""A job's changes -> messages, as server-sent events or over a WebSocket.

Every message is the state as a whole: a client that misses some, or reads slowly, has the newest anyhow, and nothing
is kept for it. A token may be given to a WebSocket in the address (?token=), since browsers can set no headers there.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import orjson
from fastapi import FastAPI
from starlette.responses import Response, StreamingResponse
from starlette.websockets import WebSocket, WebSocketDisconnect

from atlas.errors import AtlasError
from atlas.server.errors import of_failure
from atlas.server.jobs.folders import INLINE
from atlas.server.jobs.job import Job
from atlas.server.jobs.queue import Jobs
from atlas.server.state import Server
from atlas.server.waiting import jobs_of

Name = Literal["jobs", "export"]
EVENT_STREAM = "text/event-stream"
HEARTBEAT = 15.0  # seconds of silence before a comment is sent: what stands between may close a silent connection
_REQUEST = 10_000  # bytes of a request that is repeated in lists and in every event
_AGAIN = 2000  # milliseconds before a browser asks again
_EVENTS = {"completed": "completed", "failed": "failed", "interrupted": "failed", "cancelled": "cancelled"}


@dataclass(frozen=True)
class Message:
    """One state of a job as a channel tells it; `id` is the same for the same content."""

    event: str  # progress, completed, failed, cancelled
    body: bytes  # JSON: channel, event, data

    @property
    def id(self) -> str:
        """What a client sends as Last-Event-ID."""
        return hashlib.sha256(self.body).hexdigest()[:16]

    def server_sent(self) -> bytes:
        """As an event of a stream."""
        return b"id: %s\nevent: %s\ndata: %s\n\n" % (self.id.encode(), self.event.encode(), self.body)


def message(name: Name, job: Job) -> Message:
    """What a channel says of a job."""
    event = _EVENTS.get(job.status, "progress")
    data = _whole(job) if name == "jobs" else _of_export(job, event)
    return Message(event, orjson.dumps({"channel": f"{name}/{job.id}", "event": event, "data": data}))


async def server_sent(jobs: Jobs, name: Name, job_id: str, last_seen: str | None) -> Response:
    """A stream of events from now to the job's end; 204, which ends a browser's asking, for who has seen the end.

    Raises NotFound.
    """
    job = await jobs.wait(job_id, 0)
    if job.ended and message(name, job).id == last_seen:
        return Response(status_code=204)
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    return StreamingResponse(_events(jobs, name, job_id, last_seen), media_type=EVENT_STREAM, headers=headers)


def add_sockets(app: FastAPI) -> None:
    """Give an app the WebSocket of each channel."""
    app.add_api_websocket_route("/api/v1/ws/jobs/{job_id}", _socket("jobs"))
    app.add_api_websocket_route("/api/v1/ws/export/{job_id}", _socket("export"))


def brief(job: Job) -> dict[str, Any]:
    """A job's document for lists and channels: a large request is null."""
    document = job.document()
    return document | {"request": None} if len(orjson.dumps(job.request)) > _REQUEST else document


def _whole(job: Job) -> dict[str, Any]:
    document = brief(job)
    if job.result is not None and len(orjson.dumps(job.result)) > INLINE:
        document |= {"result": None, "result_at": f"/api/v1/jobs/{job.id}"}
    return document


def _of_export(job: Job, event: str) -> dict[str, Any]:
    """The seed's fields; null where a job has none of them."""
    if event == "progress":
        count = job.request.get("feature_count") or (job.total if job.stage == "features" else None)
        return {"progress": job.progress, "stage": job.stage, "feature_count": count}
    if event == "completed":
        return {name: (job.result or {}).get(name) for name in ("output_path", "file_size")}
    return {"error": job.error} if event == "failed" else {}


async def _events(jobs: Jobs, name: Name, job_id: str, last_seen: str | None) -> AsyncIterator[bytes]:
    yield b"retry: %d\n\n" % _AGAIN
    changes = jobs.events(job_id)
    following: asyncio.Task[Job | None] = asyncio.create_task(_next(changes))
    try:
        while True:
            if not (await asyncio.wait({following}, timeout=HEARTBEAT))[0]:
                yield b": still there\n\n"
                continue
            job = following.result()
            if job is None:
                return
            following = asyncio.create_task(_next(changes))
            told = message(name, job)
            if told.id != last_seen:
                yield told.server_sent()
    finally:
        following.cancel()


async def _next(changes: AsyncIterator[Job]) -> Job | None:
    return await anext(changes, None)


def _socket(name: Name) -> Callable[[WebSocket, str], Awaitable[None]]:
    async def watched(websocket: WebSocket, job_id: str) -> None:
        server: Server = websocket.app.state.server
        try:
            jobs = jobs_of(server)
            await jobs.wait(job_id, 0)
        except AtlasError as error:
            await websocket.send_denial_response(of_failure(error))
            return
        await websocket.accept()
        with suppress(WebSocketDisconnect):
            await _whichever_ends(_tell(websocket, jobs, name, job_id), _left(websocket))

    return watched


async def _tell(websocket: WebSocket, jobs: Jobs, name: Name, job_id: str) -> None:
    async for job in jobs.events(job_id):
        await websocket.send_text(message(name, job).body.decode())
    await websocket.close()


async def _left(websocket: WebSocket) -> None:
    """Until the client goes; what it says is not listened to."""
    while (await websocket.receive())["type"] != "websocket.disconnect":
        pass


async def _whichever_ends(*works: Coroutine[Any, Any, None]) -> None:
    tasks = [asyncio.create_task(work) for work in works]
    done, others = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    for task in done:
        task.result()
