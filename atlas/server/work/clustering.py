"""A request -> one more clustering of the atlas's edges, stored in the atlas."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atlas.server.jobs.work import Work

_HOW = ("primary", "threads")


def clustering(work: Work, request: dict[str, Any]) -> dict[str, Any]:
    """As `atlas cluster run`: its row of table clusterings, and whether it is what neurons and clusters show."""
    from atlas.build.clustering import RunOptions, cluster_atlas

    how = RunOptions(threads=request["threads"], primary=request["primary"])
    given = {name: value for name, value in request.items() if name not in (*_HOW, "method")}
    return cluster_atlas(work.atlas, request["method"], given, how=how, progress=work.progress)
