"""Steps and their shards, and the queue -> what to submit: a pure function, no file and no cluster.

What is done stands on disk; what is under way stands in the queue under job names that carry the step, the build
folder, the step's key and its count of shards. A job is submitted for what is neither.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from atlas.errors import AtlasError, InputError

SINGLE = ("logit_lens", "read_tokens", "weights")  # read the weights once: seconds to minutes, one task
MERGE = "merge"
_NAME = re.compile(r"atlas-(?P<step>[a-z-]+)-(?P<place>[0-9a-f]{8})-(?P<key>[0-9a-f]{8})-of(?P<of>\d+)")


@dataclass(frozen=True)
class Need:
    """One measuring step that the merge reads: its key, its count of shards, and the indexes that are done."""

    step: str
    key: str
    of: int
    done: frozenset[int]
    reads: tuple[str, ...] = ()  # other measuring steps
    begun: tuple[int, ...] = ()  # other counts of which shards are there, but not all

    @property
    def title(self) -> str:
        """The name on the command line and in job names."""
        return self.step.replace("_", "-")


@dataclass(frozen=True)
class Queued:
    """One task of an array in the queue, or a job that is no array (task 0)."""

    job: str  # "17_3", "18"
    name: str
    task: int
    state: str
    reason: str = ""

    @property
    def step(self) -> str | None:
        """The step as in job names; None for a job that is not ours."""
        found = _NAME.fullmatch(self.name)
        return found["step"] if found else None

    @property
    def of(self) -> int:
        """The count of shards in the name; 0 for a job that is not ours."""
        found = _NAME.fullmatch(self.name)
        return int(found["of"]) if found else 0

    def belongs(self, place: Path) -> bool:
        """Whether it works in this build folder."""
        found = _NAME.fullmatch(self.name)
        return found is not None and found["place"] == _hash(place)

    @property
    def is_stuck(self) -> bool:
        """Whether it waits for a job that has failed."""
        return self.reason == "DependencyNeverSatisfied"


@dataclass(frozen=True)
class Job:
    """A job to submit: `tasks` are the shards of `of` that it makes (none for the merge)."""

    step: str
    name: str
    of: int = 1
    tasks: tuple[int, ...] = ()
    after: tuple[str, ...] = ()  # steps of this plan that must succeed first
    waits: tuple[str, ...] = ()  # jobs in the queue that must succeed first

    @property
    def title(self) -> str:
        """The name on the command line and of its files."""
        return self.step.replace("_", "-")

    @property
    def is_array(self) -> bool:
        """Whether it is an array with one task a shard."""
        return self.step not in (*SINGLE, MERGE)


@dataclass(frozen=True)
class Plan:
    """What a submit does; `kept` is in the queue already and stays, `cancel` is replaced."""

    jobs: tuple[Job, ...] = ()
    cancel: tuple[str, ...] = ()
    kept: tuple[Queued, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def measures(self) -> bool:
        """Whether shards are measured anew, not only merged."""
        return any(job.tasks for job in self.jobs)


def plan_jobs(needs: Sequence[Need], queue: Sequence[Queued], *, place: Path, out_of_date: bool) -> Plan:
    """What to submit so that every need is met once and then merged, given what is queued.

    A task is submitted when its shard is neither done nor queued. Waiting jobs whose inputs are submitted anew are
    replaced: they wait for jobs that have failed. `needs` are in order, each after what it reads. Raises InputError
    when the queue holds a step in another count or for another state of the recipe, AtlasError when the merge is
    running while something is missing.
    """
    mine = [task for task in queue if task.belongs(place)]
    live = [task for task in mine if not task.is_stuck]
    jobs: dict[str, Job] = {}
    kept: dict[str, list[Queued]] = {}
    for need in needs:
        queued = _unfinished(live, need, place)
        again = not jobs.keys().isdisjoint(need.reads)
        kept[need.step] = [task for task in queued if not (again and task.state == "PENDING")]
        if job := _job(need, kept, place=place, new=tuple(jobs)):
            jobs[need.step] = job
    stays = [task for tasks in kept.values() for task in tasks]
    merge = _plan_merge(live, list(jobs.values()), place=place, waits=stays, out_of_date=out_of_date)
    merges = [] if merge else [task for task in live if task.step == MERGE]
    gone = _replaced(mine, needs, [*stays, *merges], merging=merge is not None)
    return Plan((*jobs.values(), *([merge] if merge else [])), gone, (*stays, *merges), _notes(needs))


def job_name(title: str, place: Path, *, key: str, of: int) -> str:
    """The name by which a later submit knows a job: step, build folder, key, count."""
    return f"atlas-{title}-{_hash(place)}-{key[:8]}-of{of}"


def _job(need: Need, kept: dict[str, list[Queued]], *, place: Path, new: tuple[str, ...]) -> Job | None:
    """The job for the shards of a step that are neither done nor queued; None when there are none."""
    tasks = set(range(need.of)) - need.done - {task.task for task in kept[need.step]}
    if not tasks:
        return None
    after = tuple(step for step in need.reads if step in new)
    waits = tuple(task.job for step in need.reads for task in kept.get(step, []))
    name = job_name(need.title, place, key=need.key, of=need.of)
    return Job(need.step, name, need.of, tuple(sorted(tasks)), after, waits)


def _unfinished(live: Sequence[Queued], need: Need, place: Path) -> list[Queued]:
    """Queued tasks of this step whose shards are not done; InputError when they are of another count or key."""
    missing = set(range(need.of)) - need.done
    found = [task for task in live if task.step == need.title] if missing else []
    for task in found:
        if task.name != job_name(need.title, place, key=need.key, of=need.of):
            job = task.job.split("_")[0]
            raise InputError(
                f"job {job} measures {need.title} in {task.of} shards ({task.name}), asked for are {need.of} of key "
                f'{need.key[:8]}; wait for it, or "scancel {job}", or submit with its count and recipe'
            )
    return [task for task in found if task.task in missing]


def _plan_merge(
    live: Sequence[Queued], jobs: Sequence[Job], *, place: Path, waits: Sequence[Queued], out_of_date: bool
) -> Job | None:
    """The merge to submit; None when a queued one will do or there is nothing to merge."""
    merges = [task for task in live if task.step == MERGE]
    running = [task.job for task in merges if task.state != "PENDING"]
    if running and jobs:
        raise AtlasError(f"job {running[0]} is building this atlas; wait until it ends, then submit again")
    if not (jobs or waits or out_of_date) or (merges and not jobs):
        return None
    name = job_name(MERGE, place, key="0" * 8, of=1)
    return Job(MERGE, name, after=tuple(job.step for job in jobs), waits=tuple(task.job for task in waits))


def _replaced(
    mine: Sequence[Queued], needs: Sequence[Need], stays: Sequence[Queued], *, merging: bool
) -> tuple[str, ...]:
    """Waiting jobs that a new one replaces."""
    missing = {need.title: set(range(need.of)) - need.done for need in needs} | ({MERGE: {0}} if merging else {})
    waiting = [task for task in mine if task.state == "PENDING" and task not in stays]
    return tuple(task.job for task in waiting if task.task in missing.get(task.step or "", ()))


def _notes(needs: Sequence[Need]) -> tuple[str, ...]:
    return tuple(
        f"{need.title} was begun in {' and '.join(map(str, need.begun))} shards, which do not merge with {need.of}; "
        f"--array {need.begun[0]} goes on with those"
        for need in needs
        if need.begun and len(need.done) < need.of
    )


def _hash(place: Path) -> str:
    return hashlib.sha256(str(place).encode()).hexdigest()[:8]
