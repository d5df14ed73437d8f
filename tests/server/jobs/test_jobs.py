"""Jobs done by real worker processes: what becomes of each, in what order, and what is kept."""

from __future__ import annotations

import asyncio
import itertools
import os
from datetime import timedelta

import orjson
import pytest
from patient import PATIENCE, ended, until
from small_kinds import KINDS

from atlas.errors import InputError, ResourceError
from atlas.server.jobs.book import Keep
from atlas.server.jobs.job import NotFound, now
from atlas.server.jobs.queue import Jobs
from atlas.server.jobs.work import Environment, Kind


def test_a_job_runs_and_keeps_its_result(jobs):
    asked = jobs.submit("steps", {"steps": 3}, owner="ann")
    assert (asked.status, asked.progress, asked.started, asked.attempts) == ("queued", 0.0, None, 0)
    done = ended(jobs, asked)
    assert (done.status, done.stage, done.progress, done.attempts) == ("completed", "completed", 1.0, 1), done
    assert (done.result["steps"], done.done, done.total, done.unit) == (3, 3, 3, "steps")
    assert done.created <= done.started <= done.finished
    assert done.owner == "ann" and done.request == {"steps": 3} and not done.resumable


def test_a_document_is_json_with_utc_times(jobs):
    done = ended(jobs, jobs.submit("steps", {"steps": 1})).document()
    assert orjson.loads(orjson.dumps(done)) == done
    assert done["finished"].endswith("Z") and len(done["finished"]) == len("2026-01-01T00:00:00.000Z")


def test_unknown_kinds_and_ids_are_refused(jobs):
    with pytest.raises(InputError, match=r"no jobs of kind 'stpes'; known: .*steps"):
        jobs.submit("stpes", {})
    for call in (jobs.get, jobs.cancel, jobs.resume, jobs.folder):
        with pytest.raises(NotFound, match="no job 'none'"):
            call("none")
    with pytest.raises(NotFound):
        asyncio.run(jobs.wait("none", 1))


@pytest.mark.parametrize(
    ("how", "error", "details"),
    [
        ("input", "layer 99 is out of range: this model has layers 0..3", "InputError"),
        ("memory", "memory ran out; ask for less at a time", "ResourceError"),
    ],
)
def test_what_a_person_can_act_on_is_told(jobs, how, error, details):
    failed = ended(jobs, jobs.submit("fails", {"how": how}))
    assert (failed.status, failed.error, failed.details, failed.result) == ("failed", error, details, None)


@pytest.mark.parametrize(("kind", "how", "logged"), [
    ("fails", "division", "ZeroDivisionError"), ("fails", "set", "not JSON"), ("absent", "", "AttributeError"),
])  # fmt: skip
def test_faults_of_ours_are_logged_and_not_told(jobs, caplog, kind, how, logged):
    failed = ended(jobs, jobs.submit(kind, {"how": how}))
    assert (failed.status, failed.error) == ("failed", "internal error")
    number = failed.details.rpartition(" ")[2]
    assert failed.details == f"the server's log has it under {number}" and len(number) == 8
    assert "Traceback" in caplog.text and logged in caplog.text and number in caplog.text
    assert "Traceback" not in str(failed.document())


def test_a_failed_job_leaves_a_worker_that_goes_on(jobs):
    before = ended(jobs, jobs.submit("span", {"seconds": 0}))
    ended(jobs, jobs.submit("fails", {"how": "division"}))
    after = ended(jobs, jobs.submit("span", {"seconds": 0}))
    assert before.result["pid"] == after.result["pid"] != os.getpid()


def test_jobs_run_in_order_and_one_at_a_time(jobs):
    asked = [jobs.submit("span", {"seconds": 0.05}) for _ in range(4)]
    spans = [ended(jobs, job).result for job in asked]
    for first, second in itertools.pairwise(spans):
        assert first["ended"] <= second["began"]


def test_exclusive_jobs_never_run_together_and_others_pass_by(opened):
    jobs = opened(workers=2)
    first = jobs.submit("alone", {"seconds": 1.0})
    second = jobs.submit("alone", {"seconds": 0.0})
    other = jobs.submit("span", {"seconds": 0.0})
    one, two, beside = (ended(jobs, job).result for job in (first, second, other))
    assert one["ended"] <= two["began"]
    assert one["pid"] != beside["pid"], "the job that may run beside waits for no exclusive one"


def test_the_queue_is_bounded(opened, tmp_path):
    jobs = opened(queued=2)
    running = jobs.submit("deaf", {"beside": str(tmp_path)})
    until(lambda: jobs.get(running.id).status == "running")
    waiting = [jobs.submit("steps", {"steps": 1}) for _ in range(2)]
    with pytest.raises(ResourceError, match="2 jobs wait already, the limit is 2"):
        jobs.submit("steps", {"steps": 1})
    jobs.cancel(waiting[0].id)
    assert jobs.submit("steps", {"steps": 1}).status == "queued"


def test_progress_never_goes_back_and_names_its_stage(jobs):
    async def watched():
        return [job async for job in jobs.events(jobs.submit("two tasks", {}).id)]

    seen = asyncio.run(asyncio.wait_for(watched(), PATIENCE))
    shown = [job.progress for job in seen]
    assert shown == sorted(shown) and shown[-1] == 1.0
    stages = list(dict.fromkeys(job.stage for job in seen))
    assert stages[-3:] == ["reading", "writing", "completed"]
    reading, writing = ([job for job in seen if job.stage == stage] for stage in ("reading", "writing"))
    assert all(job.progress <= 0.45 + 1e-9 for job in reading), "writing is promised half, reading gets 90% of the rest"
    assert all(0.45 <= job.progress <= 0.95 + 1e-9 for job in writing)
    assert writing[-1].details == "writing a row"


def test_progress_tells_the_time_left(jobs):
    async def watched():
        return [job async for job in jobs.events(jobs.submit("steps", {"steps": 40, "seconds": 0.05}).id)]

    seen = [job for job in asyncio.run(watched()) if job.stage == "steps" and job.done > 0]
    assert len(seen) >= 2
    for job in seen:
        assert job.seconds_left >= (40 - job.done) * 0.05 * 0.99, "no step takes less"
    assert [job.done for job in seen] == sorted(job.done for job in seen)


def test_events_come_at_most_four_times_a_second(jobs):
    """Counted against the jobs' own clock: 100 steps of at least 5 ms are at least 0.5 s."""

    async def watched():
        return [job async for job in jobs.events(jobs.submit("steps", {"steps": 100, "seconds": 0.005}).id)]

    seen = asyncio.run(watched())
    lasted = (seen[-1].finished - seen[0].created).total_seconds()
    assert len(seen) <= 4 * lasted + 4, "queued, begun, first progress and end come besides"


def test_events_of_an_ended_job_are_its_end(jobs):
    done = ended(jobs, jobs.submit("steps", {"steps": 1}))

    async def watched():
        return [job async for job in jobs.events(done.id)]

    assert asyncio.run(watched()) == [done]


def test_wait_ends_after_its_seconds_too(jobs, tmp_path):
    job = jobs.submit("deaf", {"beside": str(tmp_path)})
    assert asyncio.run(jobs.wait(job.id, 0)).status in ("queued", "running")
    assert asyncio.run(jobs.wait(job.id, 0.1)).status in ("queued", "running")


def test_many_wait_without_threads(jobs):
    import threading

    job = jobs.submit("steps", {"steps": 20, "seconds": 0.02})

    async def waited():
        tasks = [asyncio.create_task(jobs.wait(job.id, PATIENCE)) for _ in range(300)]
        await asyncio.sleep(0.05)
        threads = threading.active_count()
        return threads, await asyncio.gather(*tasks)

    threads, found = asyncio.run(waited())
    assert {one.status for one in found} == {"completed"}
    assert threads < 20


def test_large_results_are_files_and_small_ones_rows(jobs):
    small, large = (ended(jobs, jobs.submit("large", {"bytes": size})) for size in (1000, 3 << 20))
    assert (len(small.result["text"]), len(large.result["text"])) == (1000, 3 << 20)
    assert jobs.folder(large.id).joinpath("result.json").stat().st_size > 3 << 20
    assert not jobs.folder(small.id).exists()
    assert jobs.get(large.id).result == large.result
    assert all(job.result is None for job in jobs.list())


def test_lists_are_newest_first_filtered_and_paged(jobs):
    asked = [jobs.submit("steps", {"steps": 1}, owner=owner) for owner in ("ann", "bob", "ann", None)]
    failed = jobs.submit("fails", {"how": "input"}, owner="bob")
    for job in (*asked, failed):
        ended(jobs, job)
    ids = [job.id for job in (*asked, failed)][::-1]
    assert [job.id for job in jobs.list()] == ids
    assert [job.id for job in jobs.list(limit=2)] == ids[:2]
    assert [job.id for job in jobs.list(limit=2, before=ids[1])] == ids[2:4]
    assert [job.id for job in jobs.list(owner="ann")] == [asked[2].id, asked[0].id]
    assert [job.id for job in jobs.list(status="failed", kind="fails", owner="bob")] == [failed.id]
    assert jobs.list(kind="large") == []
    for wrong in ({"status": "done"}, {"limit": 0}, {"before": "none"}):
        with pytest.raises(InputError):
            jobs.list(**wrong)


def test_jobs_remember_what_they_were_asked_about(opened, tmp_path):
    """A switch of the model does not change jobs that wait."""
    jobs = opened()
    first = jobs.submit("where", {})
    jobs.environment = Environment(tmp_path / "b.duckdb", str(tmp_path / "two"), tmp_path)
    second = jobs.submit("where", {})
    assert ended(jobs, first).result["model"] is None
    assert ended(jobs, second).result == {"atlas": str(tmp_path / "b.duckdb"), "model": str(tmp_path / "two")}


def test_old_jobs_are_forgotten_with_their_folders(opened):
    jobs = opened(keep=Keep(jobs=2))
    asked = [ended(jobs, jobs.submit("large", {"bytes": 2 << 20})) for _ in range(4)]
    until(lambda: len(jobs.list()) == 2)
    assert [job.id for job in jobs.list()] == [asked[3].id, asked[2].id]
    until(lambda: len(list(jobs.folder(asked[3].id).parent.iterdir())) == 2)
    root = jobs.folder(asked[3].id).parent
    jobs.close()
    assert opened(keep=Keep(days=0)).list() == []
    until(lambda: not list(root.iterdir()))


def test_an_idle_worker_is_given_back(opened):
    jobs = opened(keep=Keep(idle=0.2))
    first = ended(jobs, jobs.submit("span", {"seconds": 0})).result["pid"]
    until(lambda: _gone(first))
    assert ended(jobs, jobs.submit("span", {"seconds": 0})).result["pid"] != first


def _gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_finished_is_after_what_it_follows(jobs):
    done = ended(jobs, jobs.submit("span", {"seconds": 0}))
    assert now() - timedelta(minutes=5) < done.created <= done.started <= done.finished <= now()


def test_a_kind_without_a_module_is_a_fault_and_no_hang(opened):
    jobs = opened(kinds=KINDS | {"nowhere": Kind("no_such_module:x")})
    assert ended(jobs, jobs.submit("nowhere", {})).error == "internal error"


def test_numbers_of_workers_and_places_are_checked(tmp_path):
    for wrong in ({"workers": 0}, {"queued": 0}):
        with pytest.raises(InputError, match="give at least 1"):
            Jobs(tmp_path, Environment(tmp_path, None, tmp_path), **wrong)
