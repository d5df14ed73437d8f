"""The temporary Slurm itself: what the tests of `atlas submit` stand on."""

from __future__ import annotations

from pathlib import Path

import pytest
from one_node import OneNode

pytestmark = pytest.mark.slurm


def test_a_dependent_job_runs_after_the_array_and_never_after_a_failed_task(slurm: OneNode, tmp_path: Path) -> None:
    def submit(*options: str, run: str) -> str:
        words = ["sbatch", "--parsable", "--mem=50", f"--output={tmp_path}/%A_%a.log", *options, f"--wrap={run}"]
        return slurm.run(*words).strip()

    good = submit("--array=0-1", run="true")
    after = submit(f"--dependency=afterok:{good}", run=f"touch {tmp_path}/ran")
    bad = submit("--array=0-1", run="exit $SLURM_ARRAY_TASK_ID")
    never = submit(f"--dependency=afterok:{bad}", "--kill-on-invalid-dep=yes", run=f"touch {tmp_path}/wrong")
    slurm.wait(seconds=60)
    assert slurm.state(after) == "COMPLETED" and (tmp_path / "ran").exists()
    assert slurm.state(f"{bad}_1") == "FAILED"
    assert slurm.state(never) == "CANCELLED" and not (tmp_path / "wrong").exists()
