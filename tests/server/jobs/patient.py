"""Waiting for jobs, with room for a busy machine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

from atlas.server.jobs.job import Job
from atlas.server.jobs.queue import Jobs

PATIENCE = 60.0  # seconds
_Found = TypeVar("_Found")


def ended(jobs: Jobs, job: Job) -> Job:
    """The job when it has ended."""
    found = asyncio.run(jobs.wait(job.id, PATIENCE))
    assert found.ended, found
    return found


def until(found: Callable[[], _Found]) -> _Found:
    """What is found as soon as that is true."""
    give_up = time.monotonic() + PATIENCE
    while not (value := found()):
        assert time.monotonic() < give_up, "waited in vain"
        time.sleep(0.01)
    return value
