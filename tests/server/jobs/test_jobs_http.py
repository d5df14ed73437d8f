"""Jobs over real sockets: pages, waiting, cancelling, resuming, and both kinds of channels."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import httpx2 as httpx
import pytest
from patient import PATIENCE, ended, until
from served import Served, serving
from small_kinds import KINDS
from synthetic import small_tables, write_atlas
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from atlas.server import channels
from atlas.server.jobs.queue import Jobs
from atlas.server.jobs.work import Environment
from atlas.server.tokens import Tokens

FIELDS = {
    "id", "kind", "status", "stage", "progress", "done", "total", "unit", "seconds_left", "request", "result", "error",
    "details", "owner", "created", "started", "finished", "resumable", "attempts",
}  # fmt: skip


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server whose jobs are the small kinds."""
    file = write_atlas(tmp_path_factory.mktemp("jobs_server") / "small.duckdb", small_tables())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("atlas.server.jobs.queue.KINDS", KINDS)
        with serving(file) as served:
            yield served


@pytest.fixture
def small(running: Served) -> Iterator[Served]:
    """The same without jobs of the test before that still run or wait."""
    yield running
    jobs = jobs_in(running)
    left = [*jobs.list(status="queued"), *jobs.list(status="running")]
    for job in left:
        jobs.cancel(job.id)
    for job in left:
        ended(jobs, job)


def jobs_in(served: Served) -> Jobs:
    return served.app.state.server.jobs


def get(served: Served, path: str, **how: object) -> dict:
    answer = served.client.get(f"/api/v1{path}", **how)
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


def stream(served: Served, path: str, **headers: str) -> Iterator[dict[str, str]]:
    """Events of a stream as a browser reads them, and comments as {"comment": ...}."""
    with served.client.stream("GET", f"/api/v1{path}", headers=headers) as answer:
        assert answer.status_code == 200, answer.read()
        assert answer.headers["content-type"].startswith("text/event-stream")
        event: dict[str, str] = {}
        for line in answer.iter_lines():
            name, _, value = line.partition(": ")
            if line and name:
                event[name] = value
            elif line:
                yield {"comment": value}
            elif event:
                yield event
                event = {}


def test_one_job_and_pages_of_them(small):
    asked = [jobs_in(small).submit("steps", {"steps": 1}) for _ in range(5)]
    for job in asked:
        ended(jobs_in(small), job)
    one = get(small, f"/jobs/{asked[0].id}")
    assert set(one) == FIELDS and one["status"] == "completed" and one["result"]["steps"] == 1
    page = get(small, "/jobs", params={"limit": 3, "status": "completed"})
    assert [job["id"] for job in page["jobs"]] == [job.id for job in asked[:1:-1]]
    rest = get(small, "/jobs", params={"limit": 2, "before": page["next"]})
    assert [job["id"] for job in rest["jobs"]] == [asked[1].id, asked[0].id]
    assert all(job["result"] is None for job in rest["jobs"])
    assert get(small, "/jobs", params={"limit": 200})["next"] is None


@pytest.mark.parametrize(("method", "path", "status"), [
    ("GET", "/jobs/none", 404), ("POST", "/jobs/none/cancel", 404), ("POST", "/jobs/none/resume", 404),
    ("GET", "/jobs/none/events", 404), ("GET", "/events/export/none", 404), ("GET", "/jobs?before=none", 404),
    ("GET", "/jobs?status=done", 400), ("GET", "/jobs?limit=0", 400), ("GET", "/jobs?limit=1000", 400),
    ("GET", "/jobs?colour=red", 400), ("GET", "/jobs/none?wait=-1", 400), ("GET", "/jobs/none?wait=nan", 400),
    ("GET", "/jobs/none?wait=9999", 400), ("GET", "/jobs/..%2f..%2fjobs.sqlite", 404),
])  # fmt: skip
def test_wrong_questions_have_one_shape(small, method, path, status):
    answer = small.client.request(method, f"/api/v1{path}")
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"error", "details"}


def test_waiting_ends_with_the_job_or_with_the_time(small, tmp_path):
    job = jobs_in(small).submit("steps", {"steps": 3, "seconds": 0.1})
    assert get(small, f"/jobs/{job.id}", params={"wait": PATIENCE})["status"] == "completed"
    deaf = jobs_in(small).submit("deaf", {"beside": str(tmp_path)})
    assert get(small, f"/jobs/{deaf.id}", params={"wait": 0.2})["status"] in ("queued", "running")


def test_a_cancelled_job_is_told_when_it_has_ended(small, tmp_path):
    job = jobs_in(small).submit("deaf", {"beside": str(tmp_path)})
    until((tmp_path / "begun").exists)
    answer = small.client.post(f"/api/v1/jobs/{job.id}/cancel")
    assert answer.status_code == 200
    assert answer.json()["data"]["status"] == "cancelled" and not list(tmp_path.glob(".atlas.*"))


def test_an_interrupted_job_is_resumed_and_a_completed_one_is_not(small):
    job = jobs_in(small).submit("steps", {"steps": 20, "seconds": 0.05})
    until(lambda: jobs_in(small).get(job.id).done >= 2)
    os.kill(int((small.settings.folder / "workers" / "0.lock").read_text()), signal.SIGKILL)
    assert get(small, f"/jobs/{job.id}", params={"wait": PATIENCE})["status"] == "interrupted"
    answer = small.client.post(f"/api/v1/jobs/{job.id}/resume")
    assert answer.status_code == 200 and answer.json()["data"]["status"] == "queued"
    done = get(small, f"/jobs/{job.id}", params={"wait": PATIENCE})
    assert (done["status"], done["attempts"]) == ("completed", 2)
    again = small.client.post(f"/api/v1/jobs/{job.id}/resume")
    assert again.status_code == 409 and "is completed and cannot be resumed" in again.json()["error"]


def test_events_tell_a_job_to_its_end(small):
    job = jobs_in(small).submit("steps", {"steps": 20, "seconds": 0.05})
    seen = list(stream(small, f"/jobs/{job.id}/events"))
    assert seen[0]["retry"] == "2000"
    events = [one for one in seen if "event" in one]
    assert {one["event"] for one in events[:-1]} == {"progress"} and events[-1]["event"] == "completed"
    messages = [json.loads(one["data"]) for one in events]
    assert all(one["channel"] == f"jobs/{job.id}" and set(one["data"]) == FIELDS for one in messages)
    shown = [one["data"]["progress"] for one in messages]
    assert shown == sorted(shown) and shown[-1] == 1.0 and 0 < shown[-2] < 1
    assert messages[-1]["data"]["result"]["steps"] == 20
    assert len({one["id"] for one in events}) == len(events)


def test_a_browser_that_has_seen_the_end_stops_asking(small):
    job = jobs_in(small).submit("steps", {"steps": 1})
    *_, last = stream(small, f"/jobs/{job.id}/events")
    again = small.client.get(f"/api/v1/jobs/{job.id}/events", headers={"Last-Event-ID": last["id"]})
    assert (again.status_code, again.content) == (204, b"")
    _, one = stream(small, f"/jobs/{job.id}/events", **{"Last-Event-ID": "another"})
    assert one["id"] == last["id"]


def test_a_silent_stream_says_that_it_is_there(small, monkeypatch, tmp_path):
    monkeypatch.setattr(channels, "HEARTBEAT", 0.05)
    job = jobs_in(small).submit("deaf", {"beside": str(tmp_path)})
    seen = stream(small, f"/jobs/{job.id}/events")
    assert until(lambda: next(seen).get("comment")) == "still there"
    jobs_in(small).cancel(job.id)
    assert [one for one in seen if "event" in one][-1]["event"] == "cancelled"


def test_watchers_that_leave_are_forgotten(small, tmp_path):
    job = jobs_in(small).submit("steps", {"steps": 10_000, "seconds": 0.02})
    watchers = jobs_in(small)._book.watchers._watches
    seen = stream(small, f"/jobs/{job.id}/events")
    next(seen)
    with connect(f"ws://127.0.0.1:{small.port}/api/v1/ws/jobs/{job.id}") as socket:
        socket.recv()
        assert len(watchers[job.id]) == 2
    seen.close()
    until(lambda: job.id not in watchers)


def test_large_requests_are_not_repeated(small):
    asked = {"steps": 1, "text": "x" * 20_000}
    job = jobs_in(small).submit("steps", asked)
    seen = [json.loads(one["data"])["data"] for one in stream(small, f"/jobs/{job.id}/events") if "data" in one]
    assert {one["request"] for one in seen} == {None}
    assert get(small, "/jobs", params={"limit": 1})["jobs"][0]["request"] is None
    assert get(small, f"/jobs/{job.id}")["request"] == asked


def test_large_results_are_not_pushed(small):
    job = jobs_in(small).submit("large", {"bytes": 2 << 20})
    *_, last = stream(small, f"/jobs/{job.id}/events")
    data = json.loads(last["data"])["data"]
    assert data["result"] is None and data["result_at"] == f"/api/v1/jobs/{job.id}"
    assert len(small.client.get(data["result_at"]).json()["data"]["result"]["text"]) == 2 << 20


def over_socket(served: Served, path: str, **how: object) -> list[dict]:
    with connect(f"ws://127.0.0.1:{served.port}/api/v1/ws{path}", open_timeout=PATIENCE, **how) as socket:
        found = [json.loads(text) for text in socket]
        assert socket.close_code == 1000
        return found


def test_a_socket_tells_a_job_to_its_end(small):
    job = jobs_in(small).submit("steps", {"steps": 20, "seconds": 0.05})
    messages = over_socket(small, f"/jobs/{job.id}")
    assert {one["event"] for one in messages[:-1]} == {"progress"} and len(messages) > 2
    assert messages[-1] == {"channel": f"jobs/{job.id}", "event": "completed", "data": get(small, f"/jobs/{job.id}")}


@pytest.mark.parametrize("how", ["socket", "events"])
def test_an_export_is_told_in_the_fields_of_the_seed(small, how):
    def told(job) -> list[dict]:
        if how == "socket":
            return over_socket(small, f"/export/{job.id}")
        return [json.loads(one["data"]) for one in stream(small, f"/events/export/{job.id}") if "data" in one]

    *_, before, last = told(jobs_in(small).submit("export", {}))
    assert set(before["data"]) == {"progress", "stage", "feature_count"}
    assert (before["event"], before["data"]["feature_count"], before["data"]["stage"]) == ("progress", 7, "features")
    assert last["event"] == "completed" and last["data"] == {"output_path": "export.zip", "file_size": 12}
    (failed,) = told(ended(jobs_in(small), jobs_in(small).submit("fails", {"how": "input"})))
    assert failed["event"] == "failed" and list(failed["data"]) == ["error"] and "layer 99" in failed["data"]["error"]
    job = jobs_in(small).submit("steps", {"steps": 1000, "seconds": 0.05})
    jobs_in(small).cancel(job.id)
    assert told(job)[-1]["event"] == "cancelled"


def test_a_socket_of_no_job_is_refused(small):
    with pytest.raises(InvalidStatus) as refused:
        over_socket(small, "/jobs/none")
    assert refused.value.response.status_code == 404
    assert set(json.loads(refused.value.response.body)) == {"error", "details"}


def test_sockets_need_the_token_that_requests_need(monkeypatch, start, tmp_path):
    monkeypatch.setattr("atlas.server.jobs.queue.KINDS", KINDS)
    served = start(data=tmp_path / "own")
    secret = Tokens(served.settings.folder).add("ann")
    job = ended(jobs_in(served), jobs_in(served).submit("steps", {"steps": 1}, owner="bob"))
    path = f"/jobs/{job.id}"
    for wrong in ({}, {"additional_headers": {"Authorization": "Bearer wrong"}}):
        with pytest.raises(InvalidStatus):
            over_socket(served, path, **wrong)
    assert served.client.get(f"/api/v1{path}/events").status_code == 401
    by_header = over_socket(served, path, additional_headers={"Authorization": f"Bearer {secret}"})
    by_address = over_socket(served, f"{path}?token={secret}")
    assert by_header == by_address and by_header[0]["data"]["owner"] == "bob", "a team sees its members' jobs"


def test_two_watchers_of_many_jobs_see_each_its_own(small):
    asked = [jobs_in(small).submit("steps", {"steps": 3, "seconds": 0.01}) for _ in range(4)]
    seen: dict[str, list[dict]] = {}

    def watch(job) -> None:
        seen[job.id] = over_socket(small, f"/jobs/{job.id}")

    threads = [threading.Thread(target=watch, args=(job,)) for job in asked for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert set(seen) == {job.id for job in asked}
    for job_id, messages in seen.items():
        assert {one["data"]["id"] for one in messages} == {job_id} and messages[-1]["event"] == "completed"


_SERVER = """
import json, sys
from pathlib import Path
sys.path[:] = json.loads(sys.argv[2])
import atlas.server.jobs.queue as queue
from small_kinds import KINDS
queue.KINDS = KINDS
from atlas.server.run import serve
from atlas.server.settings import Settings
import atlas.server.app as app
folder = Path(sys.argv[1])
opened = app.Jobs
def jobs(*given, **how):
    made = opened(*given, **how)
    print(made.submit("steps", {"steps": 10_000, "seconds": 0.02}).id, flush=True)
    return made
app.Jobs = jobs
serve(Settings(folder / "small.duckdb", port=0), started=lambda address: print(address, flush=True))
"""


def test_a_server_that_is_told_to_stop_ends_streams_and_interrupts_jobs(tmp_path):
    """SIGTERM with a stream open: the watcher is told the end, and nothing waits for the watcher."""
    file = write_atlas(tmp_path / "small.duckdb", small_tables())
    given = [sys.executable, "-c", _SERVER, str(tmp_path), json.dumps(sys.path)]
    with subprocess.Popen(given, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        job_id, address = (process.stdout.readline().strip() for _ in range(2))
        with httpx.stream("GET", f"{address}api/v1/jobs/{job_id}/events", timeout=PATIENCE) as answer:
            lines = answer.iter_lines()
            until(lambda: '"stage":"steps"' in next(lines))
            process.send_signal(signal.SIGTERM)
            told = [json.loads(line[6:]) for line in lines if line.startswith("data: ")]
        _, errors = process.communicate(timeout=PATIENCE)
    assert told[-1]["event"] == "failed" and told[-1]["data"]["status"] == "interrupted"
    assert "timeout graceful shutdown exceeded" not in errors
    stopped = Jobs(file.with_name("small.duckdb.server"), Environment(file, None, tmp_path), kinds=KINDS)
    try:
        assert stopped.get(job_id).error == "the server stopped", "it was asked to stop, not killed"
    finally:
        stopped.close()
