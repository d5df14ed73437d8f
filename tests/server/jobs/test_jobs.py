"""Jobs done by real worker processes."""

from __future__ import annotations

from patient import ended


def test_a_job_runs_and_keeps_its_result(jobs):
    asked = jobs.submit("steps", {"steps": 3}, owner="ann")
    assert (asked.status, asked.progress, asked.started, asked.attempts) == ("queued", 0.0, None, 0)
    done = ended(jobs, asked)
    assert (done.status, done.stage, done.progress, done.attempts) == ("completed", "completed", 1.0, 1), done
    assert (done.result["steps"], done.done, done.total, done.unit) == (3, 3, 3, "steps")
    assert done.created <= done.started <= done.finished
    assert done.owner == "ann" and done.request == {"steps": 3} and not done.resumable
