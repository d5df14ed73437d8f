"""Kinds of jobs -> functions, and what such a function is given in the worker.

A function `(work, request) -> result` is named by text and imported only in the worker. It reports to `work.progress`,
whose `advance` raises Cancelled when the job is to stop; what takes over a second between two advances is ended by
killing the worker, so that everything it writes must be written aside and renamed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from atlas.progress import Progress, Quiet
from atlas.server.jobs.models import Models

if TYPE_CHECKING:
    from atlas.models.adapter import Adapter


class Cancelled(BaseException):
    """The job is to stop now. No Exception: code that survives every failure must not survive this."""


@dataclass(frozen=True)
class Environment:
    """What a job works on, as it was when the job was asked for."""

    atlas: Path
    model: str | None  # folder; None: that of the atlas's recipe
    data: Path  # where the server keeps what it makes


@dataclass(frozen=True)
class Kind:
    """A function that jobs may call."""

    function: str  # "module:function"
    resumable: bool = False  # called again with the same folder, it goes on where it was
    exclusive: bool = False  # writes the atlas: never two of them at a time
    stages: Mapping[str, float] = field(default_factory=dict)  # share of the whole by title of task, where it is known


@dataclass(frozen=True)
class Work:
    """What a function of a kind works with."""

    atlas: Path
    model: str | None  # folder; None: that of the atlas's recipe
    data: Path
    folder: Path  # of this job alone: results, and partial work that a resumed job finds again
    progress: Progress = field(default_factory=Quiet)
    models: Models = field(default_factory=Models)

    def adapter(self, dtype: str | None = None) -> Adapter:
        """The model, loaded once for all jobs of a worker; dtype None: the atlas's. InputError, ModelError."""
        from atlas.build.impacts import recipe_model
        from atlas.query.atlas import Atlas

        with Atlas(self.atlas) as atlas:
            folder = self.model or str(recipe_model(atlas))
            return self.models.load(folder, dtype or atlas.metadata.get("dtype", "float32"), self.progress)


_WORK = "atlas.server.work"
KINDS: dict[str, Kind] = {
    "weight-analysis": Kind(f"{_WORK}.pruning:weight_analysis"),
    # These three write the atlas where the request says so; what was stored before a stop is not measured again.
    "impact": Kind(f"{_WORK}.pruning:impact", resumable=True, exclusive=True),
    "importance": Kind(f"{_WORK}.pruning:importance", resumable=True, exclusive=True),
    "batch": Kind(f"{_WORK}.pruning:batch", resumable=True, exclusive=True),
    "activations": Kind(f"{_WORK}.activations:generate", resumable=True),
    "clusters-generate": Kind(f"{_WORK}.activations:cluster", resumable=True),
    "clustering": Kind(f"{_WORK}.clustering:clustering", resumable=True, exclusive=True),
    "neuronpedia-estimate": Kind(f"{_WORK}.neuronpedia:neuronpedia_estimate", resumable=True),
    "neuronpedia-export": Kind(f"{_WORK}.neuronpedia:neuronpedia_export", resumable=True, stages={"packing": 0.1}),
}
