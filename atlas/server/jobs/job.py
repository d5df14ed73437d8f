"""What is known of a job: where it stands, what was asked, what came of it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any, Literal

from atlas.errors import InputError

Status = Literal["queued", "running", "completed", "failed", "cancelled", "interrupted"]
STATUSES: tuple[Status, ...] = ("queued", "running", "completed", "failed", "cancelled", "interrupted")


class NotFound(InputError):
    """There is no job of this id (any more)."""


@dataclass(frozen=True)
class Job:
    """One job at one moment.

    `progress` never goes back while an attempt runs; `done` of `total` units is of the stage alone. `error` is one
    line, `details` says more about it; while the job runs, `details` is what the work last noted.
    """

    id: str
    kind: str
    status: Status
    stage: str  # title of the task that is under way, or was when the job ended
    progress: float  # 0..1 over the whole job, as far as its tasks are known
    done: int
    total: int
    unit: str
    seconds_left: float | None  # of the tasks that are known; None before the first of them has a rate
    request: dict[str, Any]
    result: dict[str, Any] | None  # None in lists, and unless completed
    error: str | None
    details: str | None
    owner: str | None  # name of the token that asked
    created: datetime  # all three in UTC
    started: datetime | None  # the last attempt
    finished: datetime | None
    resumable: bool  # resume() would queue it again, and the work go on where it was
    attempts: int  # times that it was begun

    @property
    def ended(self) -> bool:
        """Whether nothing more happens to it unless it is resumed."""
        return self.status not in ("queued", "running")

    def document(self) -> dict[str, Any]:
        """What clients see: the same fields, times in ISO 8601 (UTC)."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: _iso(value) if isinstance(value, datetime) else value for name, value in found.items()}


def now() -> datetime:
    """This moment, in UTC."""
    return datetime.now(UTC)


def _iso(value: datetime) -> str:
    return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
