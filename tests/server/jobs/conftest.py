"""A queue of jobs with the small kinds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from small_kinds import KINDS

from atlas.server.jobs.queue import Jobs
from atlas.server.jobs.work import Environment


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[..., Jobs]]:
    """Open the jobs of this test's folder; closed at the end, if they still are open."""
    made: list[Jobs] = []

    def opens(**how: object) -> Jobs:
        jobs = Jobs(tmp_path / "data", Environment(tmp_path / "none.duckdb", None, tmp_path), **{"kinds": KINDS, **how})
        made.append(jobs)
        return jobs

    yield opens
    for jobs in made:
        jobs.close()


@pytest.fixture
def jobs(opened: Callable[..., Jobs]) -> Jobs:
    return opened()
