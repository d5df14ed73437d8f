"""Jobs that are cancelled, killed, interrupted: how they end, what they leave, what goes on."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from patient import ended, until
from synthetic import small_tables, write_atlas

from atlas.errors import InputError, ResourceError, StoreError
from atlas.server.jobs.queue import Jobs
from atlas.server.jobs.work import Environment

HERE = Path(__file__).parent
DEMO = HERE.parents[2] / "data" / "demo" / "model"
CANCELLED_IN = 5.0  # seconds by the jobs' clock; 2 are promised, the rest is for a busy machine


def running(jobs, job, stage=None):
    """The job once it runs (and is in that stage)."""

    def at_work():
        found = jobs.get(job.id)
        return found if found.status == "running" and stage in (None, found.stage) and found.attempts else None

    return until(at_work)


def alive(pid: int) -> bool:
    """Whether a process runs; one that ended and that nobody has asked about yet does not."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def worker_of(jobs_folder: Path) -> int:
    """The process id that the one worker has put into its lock."""
    return int(until((jobs_folder / "workers" / "0.lock").read_text))


def test_a_waiting_job_is_cancelled_at_once(jobs, tmp_path):
    jobs.submit("deaf", {"beside": str(tmp_path)})
    waiting = jobs.submit("steps", {"steps": 1})
    assert jobs.cancel(waiting.id).status == "cancelled"
    assert jobs.get(waiting.id).attempts == 0


def test_a_job_that_reports_stops_and_its_worker_stays(jobs, tmp_path):
    job = jobs.submit("steps", {"steps": 1000, "seconds": 0.05})
    running(jobs, job, "steps")
    worker, asked = worker_of(tmp_path / "data"), time.time()
    assert jobs.cancel(job.id).status == "running"
    done = ended(jobs, job)
    assert (done.status, done.error, done.resumable) == ("cancelled", None, False)
    assert done.finished.timestamp() - asked < CANCELLED_IN
    assert ended(jobs, jobs.submit("span", {"seconds": 0})).result["pid"] == worker
    assert not jobs.folder(job.id).exists(), "what was cancelled keeps no partial work"


def test_a_job_that_never_reports_is_killed_and_leaves_nothing(jobs, tmp_path):
    job = jobs.submit("deaf", {"beside": str(tmp_path)})
    until((tmp_path / "begun").exists)
    assert len(list(tmp_path.glob(".atlas.*"))) == 3, "it writes things aside"
    worker, asked = worker_of(tmp_path / "data"), time.time()
    jobs.cancel(job.id)
    done = ended(jobs, job)
    assert done.status == "cancelled"
    assert done.finished.timestamp() - asked < CANCELLED_IN
    assert not alive(worker)
    until(lambda: not alive(int((tmp_path / "child").read_text())))
    assert not list(tmp_path.glob(".atlas.*")), "what is half-written is removed with the worker"
    assert (tmp_path / ".kept").exists(), "other hidden files are none of the jobs' business"
    assert ended(jobs, jobs.submit("span", {"seconds": 0})).result["pid"] != worker


def test_cancelling_twice_or_after_the_end_changes_nothing(jobs):
    done = ended(jobs, jobs.submit("steps", {"steps": 1}))
    assert jobs.cancel(done.id) == done
    job = jobs.submit("steps", {"steps": 1000, "seconds": 0.05})
    running(jobs, job)
    for _ in range(3):
        jobs.cancel(job.id)
    assert ended(jobs, job).status == "cancelled"


@pytest.mark.parametrize(("how", "said"), [
    ("kill", "was killed by signal 9 (SIGKILL), as the system does when memory runs out"),
    ("exit", "ended with exit status 3 in the middle of the job"),
])  # fmt: skip
def test_a_dead_worker_fails_its_job_alone(jobs, how, said):
    job = jobs.submit("fails", {"how": how})
    after = jobs.submit("span", {"seconds": 0})
    done = ended(jobs, job)
    assert done.status == "failed" and said in done.error and "\n" not in done.error
    assert ended(jobs, after).status == "completed"


def test_a_killed_job_that_can_resume_is_interrupted_and_goes_on(jobs, tmp_path):
    job = jobs.submit("steps", {"steps": 12, "seconds": 0.1})
    until(lambda: jobs.get(job.id).done >= 3)
    os.kill(worker_of(tmp_path / "data"), signal.SIGKILL)
    stopped = ended(jobs, job)
    assert (stopped.status, stopped.resumable) == ("interrupted", True)
    assert "signal 9" in stopped.error
    again = jobs.resume(job.id)
    assert (again.status, again.error, again.finished, again.progress) == ("queued", None, None, 0.0)
    done = ended(jobs, job)
    assert (done.status, done.attempts) == ("completed", 2)
    assert done.result["first"] >= 3, "the steps of the first attempt are not repeated"


def test_only_what_can_resume_is_resumed(jobs):
    done = ended(jobs, jobs.submit("steps", {"steps": 1}))
    failed = ended(jobs, jobs.submit("fails", {"how": "kill"}))
    for job, status in ((done, "completed"), (failed, "failed")):
        with pytest.raises(InputError, match=rf"\({job.kind}\) is {status} and cannot be resumed"):
            jobs.resume(job.id)


def test_an_interrupted_job_that_is_cancelled_is_given_up(jobs, tmp_path):
    job = jobs.submit("steps", {"steps": 100, "seconds": 0.05})
    until(lambda: jobs.get(job.id).done >= 1)
    os.kill(worker_of(tmp_path / "data"), signal.SIGKILL)
    assert ended(jobs, job).resumable and jobs.folder(job.id).exists()
    given_up = jobs.cancel(job.id)
    assert (given_up.status, given_up.resumable) == ("cancelled", False)
    assert not jobs.folder(job.id).exists()


def test_a_stop_interrupts_what_runs_and_keeps_what_waits(opened):
    jobs = opened()
    job = jobs.submit("steps", {"steps": 100, "seconds": 0.05})
    waiting = [jobs.submit("steps", {"steps": 1}) for _ in range(2)]
    until(lambda: jobs.get(job.id).done >= 2)
    jobs.close()
    with pytest.raises(ResourceError, match="the server is stopping"):
        jobs.submit("steps", {"steps": 1})
    assert jobs.get(job.id).status == "interrupted", "who waited may still ask"
    with pytest.raises(ResourceError, match="the server is stopping"):
        jobs.list()
    again = opened()
    assert [ended(again, one).status for one in waiting] == ["completed", "completed"]
    stopped = again.get(job.id)
    assert (stopped.status, stopped.error, stopped.resumable) == ("interrupted", "the server stopped", True)
    again.resume(job.id)
    assert running(again, job, "steps").attempts == 2


def test_events_end_when_the_server_stops(opened, tmp_path):
    import asyncio

    jobs = opened()
    first = jobs.submit("deaf", {"beside": str(tmp_path)})
    second = jobs.submit("steps", {"steps": 1})
    until((tmp_path / "begun").exists)

    async def watched():
        streams = [asyncio.create_task(_all(jobs, one)) for one in (first, second)]
        waits = [asyncio.create_task(jobs.wait(one.id, 60)) for one in (first, second)]
        await asyncio.sleep(0.1)
        await asyncio.to_thread(jobs.close)
        return [stream[-1].status for stream in await asyncio.gather(*streams)], [
            job.status for job in await asyncio.gather(*waits)
        ]

    assert asyncio.run(asyncio.wait_for(watched(), 60)) == (["interrupted", "queued"], ["interrupted", "queued"])


async def _all(jobs, job):
    return [one async for one in jobs.events(job.id)]


_SERVER = """
import json, sys, time
from pathlib import Path
sys.path[:] = json.loads(sys.argv[2])
from small_kinds import KINDS
from atlas.server.jobs.queue import Jobs
from atlas.server.jobs.work import Environment
folder = Path(sys.argv[1])
jobs = Jobs(folder / "data", Environment(folder / "none.duckdb", None, folder), kinds=KINDS)
for kind, request in json.loads(sys.argv[3]):
    print(jobs.submit(kind, request).id, flush=True)
while True:
    time.sleep(1)
"""


class OtherServer:
    """Another process that has jobs."""

    def __init__(self, folder: Path, *asked: tuple[str, dict]) -> None:
        given = [str(folder), json.dumps(sys.path), json.dumps(asked)]
        self._process = subprocess.Popen([sys.executable, "-c", _SERVER, *given], stdout=subprocess.PIPE, text=True)
        self.ids = [self._process.stdout.readline().strip() for _ in asked]

    def kill(self) -> None:
        """End it as the system does when memory runs out."""
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()


def test_jobs_survive_the_kill_of_their_server(tmp_path, opened):
    deaf = ("deaf", {"beside": str(tmp_path), "seconds": 0.0})
    server = OtherServer(tmp_path, ("steps", {"steps": 200, "seconds": 0.05}), deaf, ("span", {"seconds": 0}))
    first, *waiting = server.ids
    until((tmp_path / "data" / "jobs" / first / "steps.txt").exists)
    worker = worker_of(tmp_path / "data")
    server.kill()
    jobs = opened()
    stopped = jobs.get(first)
    assert (stopped.status, stopped.error, stopped.resumable) == ("interrupted", "the server was killed", True)
    assert not alive(worker), "no worker of the dead server writes any more"
    spans = [ended(jobs, jobs.get(one)) for one in waiting]
    assert [one.status for one in spans] == ["completed", "completed"]
    assert spans[0].finished <= spans[1].started, "what waited runs in its order"
    jobs.resume(first)
    until(lambda: jobs.get(first).done >= 2)
    assert jobs.get(first).attempts == 2


@pytest.mark.parametrize("kind", ["steps", "deaf"])
def test_workers_end_without_their_server(tmp_path, opened, kind):
    server = OtherServer(
        tmp_path, (kind, {"steps": 1000, "seconds": 0.05 if kind == "steps" else 60, "beside": str(tmp_path)})
    )
    until((tmp_path / "begun" if kind == "deaf" else tmp_path / "data" / "jobs" / server.ids[0] / "steps.txt").exists)
    worker = worker_of(tmp_path / "data")
    server.kill()
    until(lambda: not alive(worker))
    if kind == "deaf":
        until(lambda: not alive(int((tmp_path / "child").read_text())))
    assert bool(list(tmp_path.glob(".atlas.*"))) == (kind == "deaf"), "what was written aside lies there"
    assert opened().get(server.ids[0]).status == "interrupted"
    assert not list(tmp_path.glob(".atlas.*")), "until the next server removes it"


def test_a_worker_that_died_without_a_job_is_replaced(jobs, tmp_path):
    first = ended(jobs, jobs.submit("span", {"seconds": 0})).result["pid"]
    os.kill(first, signal.SIGKILL)
    done = ended(jobs, jobs.submit("span", {"seconds": 0}))
    assert done.status == "completed" and done.result["pid"] != first


def test_a_full_disk_costs_no_answer(jobs, caplog):
    """SQLite is told that the file may not grow: jobs that run go on, new ones are refused."""
    job = jobs.submit("large", {"bytes": 500_000})
    con = jobs._book.store._con
    con.execute(f"PRAGMA max_page_count = {con.execute('PRAGMA page_count').fetchone()[0] + 2}")
    done = ended(jobs, job)
    assert (done.status, len(done.result["text"])) == ("completed", 500_000)
    assert "is not saved" in caplog.text
    with pytest.raises(StoreError, match=r"jobs.sqlite: database or disk is full; free disk space"):
        jobs.submit("steps", {"steps": 1, "much": "x" * 100_000})
    assert jobs.get(job.id) == done and jobs.list()[0].status == "completed"


def test_every_job_ends_whatever_happens(opened):
    """Threads submit, cancel and resume while workers are killed: each job comes to an end that fits what was done."""
    jobs, asked, over = opened(workers=2), [], threading.Event()

    def submits(dice: random.Random) -> None:
        for _ in range(12):
            kind = dice.choice(["steps", "span", "alone", "fails"])
            asked.append(
                jobs.submit(kind, {"steps": 5, "seconds": 0.01, "how": dice.choice(["input", "exit", "kill"])})
            )
            time.sleep(dice.random() / 50)

    def meddles(dice: random.Random) -> None:
        while not over.is_set():
            time.sleep(dice.random() / 20)
            if asked:
                job = dice.choice(asked)
                with contextlib.suppress(InputError):
                    dice.choice([jobs.cancel, jobs.resume, jobs.get])(job.id)

    def kills(dice: random.Random) -> None:
        while not over.is_set():
            time.sleep(0.2)
            for lock in (jobs.folder(asked[0].id).parents[1] / "workers").glob("*.lock") if asked else ():
                with contextlib.suppress(ValueError, ProcessLookupError):
                    os.kill(int(lock.read_text()), signal.SIGKILL)

    threads = [threading.Thread(target=work, args=(random.Random(seed),))
               for seed, work in enumerate([submits, submits, meddles, kills])]  # fmt: skip
    for thread in threads:
        thread.start()
    for thread in threads[:2]:
        thread.join()
    until(lambda: len(asked) == 24 and all(jobs.get(job.id).ended for job in asked) and (over.set() or True))
    for thread in threads[2:]:
        thread.join()
    found = [ended(jobs, job) for job in asked]
    for job in found:
        assert (job.result is not None) == (job.status == "completed"), job
        assert job.status != "completed" or job.kind != "fails"
        assert job.resumable == (job.kind == "steps" and job.status in ("failed", "interrupted")), job
        assert job.finished >= job.created and job.seconds_left is None
    assert [job.id for job in jobs.list(limit=100)] == [job.id for job in sorted(found, key=_asked(jobs), reverse=True)]


def _asked(jobs):
    order = [row["id"] for row in jobs._book.store._rows("SELECT id FROM jobs ORDER BY seq", ())]
    return lambda job: order.index(job.id)


def test_a_second_server_on_a_folder_is_refused(jobs, tmp_path):
    with pytest.raises(StoreError, match=rf"is used by another server \(process {os.getpid()}\); stop it"):
        Jobs(tmp_path / "data", Environment(tmp_path, None, tmp_path))


def test_a_newer_a_foreign_and_a_damaged_file_are_refused(opened, tmp_path):
    opened().close()
    file = tmp_path / "data" / "jobs.sqlite"
    for change, message in (
        ("PRAGMA user_version = 2", "has version 2 of the jobs, this atlas knows up to 1"),
        ("PRAGMA application_id = 7", "is no file of jobs"),
    ):
        con = sqlite3.connect(file)
        con.execute(change)
        con.close()
        with pytest.raises(StoreError, match=message):
            opened()
    file.write_bytes(b"no database at all" * 100)
    with pytest.raises(StoreError, match="file is not a database"):
        opened()


def test_a_folder_that_cannot_be_is_one_line(tmp_path):
    (tmp_path / "data").write_text("a file")
    for wrong in (tmp_path / "data", tmp_path / "data" / "below"):
        with pytest.raises(StoreError, match=r"data(/below)? cannot hold jobs: .*; give the server another folder"):
            Jobs(wrong, Environment(tmp_path, None, tmp_path))
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "jobs").write_text("a file")
    for _ in range(2):  # the second time too: the lock was given back
        with pytest.raises(StoreError, match="half cannot hold jobs: file exists"):
            Jobs(tmp_path / "half", Environment(tmp_path, None, tmp_path))


def test_files_are_for_their_owner_alone(jobs, tmp_path):
    ended(jobs, jobs.submit("large", {"bytes": 2 << 20}))
    data = tmp_path / "data"
    assert {path.name for path in data.glob("jobs.sqlite*")} >= {"jobs.sqlite", "jobs.sqlite-wal"}
    for path in data.iterdir():
        assert path.stat().st_mode & 0o077 == 0, path
    for path in (data / "jobs").iterdir():
        assert path.stat().st_mode & 0o077 == 0, path


def test_the_model_stays_loaded_between_jobs(tmp_path, opened):
    jobs = opened()
    atlas = write_atlas(tmp_path / "small.duckdb", small_tables())  # its dtype is all that is read of it
    jobs.environment = Environment(atlas, str(DEMO), tmp_path)
    first, second = (ended(jobs, jobs.submit("model", {})) for _ in range(2))
    assert first.status == second.status == "completed", (first.error, second.error)
    assert first.result == second.result and first.result["pid"] != os.getpid()
    assert first.result["nice"] >= 5
