"""One Slurm for the folder's tests; skipped with a reason where its programs are not installed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from one_node import OneNode, missing_programs, one_node


@pytest.fixture(scope="session")
def slurm() -> Iterator[OneNode]:
    """A one-node Slurm, started for the tests and stopped after them."""
    if missing := missing_programs():
        pytest.skip(f"no {', '.join(missing)}; install slurmctld slurmd slurm-client munge (Debian packages)")
    with one_node() as node:
        yield node
