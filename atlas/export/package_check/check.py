"""A package on disk -> a report: its layout is recognised, every file is read once by its rules and once for its hash.

Memory: one line or one document at a time, and 20 bytes for each activation and explanation: 120 MB for 2 GB of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from atlas.errors import InputError
from atlas.export.package_check.bulk import check_bulk
from atlas.export.package_check.dashboard import check_dashboard
from atlas.export.package_check.finding import Findings, Report
from atlas.export.package_check.graph import check_graphs
from atlas.export.package_check.job import Job
from atlas.export.package_check.layout import LAYOUTS, layout_of
from atlas.export.package_check.manifest import check_counts, check_manifests, check_readme, manifests
from atlas.export.package_check.package import open_package
from atlas.export.package_check.prd import check_prd
from atlas.export.package_check.report_folder import check_reports
from atlas.export.package_check.saelens import check_saelens, saelens_folders
from atlas.export.package_check.upload import check_upload
from atlas.progress import Progress, Quiet, Task

_CHECKS: dict[str, Callable[[Job], None]] = {
    "bulk": check_bulk, "upload": check_upload, "prd": check_prd, "sae-dashboard": check_dashboard,
    "saelens": check_saelens, "graph": check_graphs, "reports": check_reports,
}  # fmt: skip
_ALSO_WEIGHTS = ("bulk", "upload", "sae-dashboard")  # may hold SAELens folders beside their own files
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
        with _files(shown, f"check {known}", len(package.members)) as task:
            job = Job(package, findings, task)
            _CHECKS[known](job)
            if known in _ALSO_WEIGHTS:
                _check_weights(job)
        hashing = shown if manifests(package) else Quiet()
        with _files(hashing, "sha256", len(package.members)) as task:
            _check_frame(Job(package, findings, task, job.counts), known)
    return findings.report(str(path), known, job.counts)


class _Files:
    """Progress by file that ends at its total: some files are read by no rule, others by two."""

    def __init__(self, task: Task, total: int) -> None:
        self._task, self.left = task, total

    def advance(self, amount: int = 1, *, told: str = "", free: bool = False) -> None:
        """Count files, up to the total."""
        amount = min(amount, self.left)
        self.left -= amount
        self._task.advance(amount, told=told, free=free)


@contextmanager
def _files(shown: Progress, title: str, total: int) -> Iterator[_Files]:
    with shown.task(title, total, "files") as task:
        files = _Files(task, total)
        yield files
        files.advance(total, free=True)


def _check_weights(job: Job) -> None:
    """SAELens folders inside a package of another layout; their features are not counted again."""
    features = job.counts["features"]
    if saelens_folders(job):
        check_saelens(job)
        job.counts["features"] = features


def _check_frame(job: Job, layout: str) -> None:
    """What holds of a package whatever is in it."""
    check_manifests(job, wanted=layout in _OURS and (layout != "prd" or bool(manifests(job.package))))
    check_counts(job)
    if layout in _OURS:
        check_readme(job)
