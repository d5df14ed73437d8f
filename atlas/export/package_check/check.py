"""A package on disk -> a report: its layout is recognised, every file is read once by its rules and once for its hash.

Memory: one line or one document at a time, and 12 bytes for each activation and explanation.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from atlas.errors import InputError
from atlas.export.package_check.bulk import check_bulk
from atlas.export.package_check.finding import Findings, Report
from atlas.export.package_check.job import Job
from atlas.export.package_check.layout import LAYOUTS, layout_of
from atlas.export.package_check.manifest import check_counts, check_manifests, check_readme
from atlas.export.package_check.package import open_package
from atlas.progress import Progress, Quiet

_CHECKS: dict[str, Callable[[Job], None]] = {
    "bulk": check_bulk,
}
_OURS = ("bulk", "upload", "prd", "sae-dashboard")  # whose packages have a README and a manifest


def check_package(
    path: str | Path, *, layout: str | None = None, keep: int | None = 50, progress: Progress | None = None
) -> Report:
    """Check a folder, a zip or one file; nothing is written or unpacked.

    layout: one of LAYOUTS, else it is recognised. keep: findings listed for each rule (None: all); all are counted.
    Raises InputError for what cannot be read and for a layout that is not known.
    """
    if layout is not None and layout not in LAYOUTS:
        raise InputError(f"no layout {layout!r}; one of {', '.join(LAYOUTS)}")
    findings, shown = Findings(keep), progress or Quiet()
    with open_package(Path(path), findings) as package:
        known = layout or layout_of(package)
        with shown.task(f"check {known}", len(package.members), "files") as task:
            job = Job(package, findings, task)
            _CHECKS[known](job)
        with shown.task("sha256", 1, "packages") as task:
            _check_frame(Job(package, findings, task, job.counts), known)
            task.advance()
    return findings.report(str(path), known, job.counts)


def _check_frame(job: Job, layout: str) -> None:
    """What holds of a package whatever is in it."""
    check_manifests(job, wanted=layout in _OURS)
    check_counts(job)
    if layout in _OURS:
        check_readme(job)
