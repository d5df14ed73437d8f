"""Modules of the primary clustering: the list, and one module with its parts, members and neighbours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from atlas.query.answer import Answer

if TYPE_CHECKING:
    from atlas.query.atlas import Atlas

HEADLINE = ("cluster_path", "level", "label", "size", "layer_min", "layer_max", "internal_weight", "conductance")


@dataclass(frozen=True)
class ClusterCard:
    """One module: its row, its parts one or more levels below, its members and the modules it exchanges most with."""

    path: str
    about: dict[str, Any]
    parts: Answer
    members: Answer
    neighbours: Answer

    def to_dict(self) -> dict[str, Any]:
        """All parts as plain lists and dicts."""
        lists = {"parts_list": self.parts, "members": self.members, "neighbours": self.neighbours}
        return {**self.about, **{name: answer.rows() for name, answer in lists.items()}}


def clusters(
    atlas: Atlas, *, level: int | None = None, below: str | None = None, min_size: int = 1, limit: int | None = 50
) -> Answer:
    """Columns of clusters_list, largest first."""
    warnings = atlas.require("clusters")
    if below is not None:
        atlas.require_cluster(below)
    values = {"of_level": level, "of_parent": below, "at_least": min_size, "max_rows": limit}
    return atlas.ask("clusters_list", values, headline=HEADLINE, warnings=warnings)


def search(atlas: Atlas, query: str, *, limit: int | None = 20) -> Answer:
    """Columns of cluster_search: modules with the words in their label."""
    return atlas.ask("cluster_search", {"query": query, "max_rows": limit}, warnings=atlas.require("clusters"))


def members(atlas: Atlas, path: str, *, limit: int | None = 50) -> Answer:
    """Columns of cluster_members; InputError for an unknown path."""
    atlas.require_cluster(path)
    headline = ("layer", "neuron", "label", "cluster_path", "infomap_flow", "appearance_count")
    return atlas.ask("cluster_members", {"of_path": path, "max_rows": limit}, headline=headline)


def cluster(atlas: Atlas, path: str, *, k: int | None = 20) -> ClusterCard:
    """Return one module; k = rows of each list. InputError for an unknown path."""
    atlas.require_cluster(path)
    headline = ("cluster_path", "label", "size", "weight_out", "weight_in", "edges_out", "edges_in")
    return ClusterCard(
        path=path,
        about=atlas.ask("cluster_card", {"of_path": path}).rows()[0],
        parts=clusters(atlas, below=path, limit=k),
        members=members(atlas, path, limit=k),
        neighbours=atlas.ask(
            "cluster_neighbours", {"of_path": path, "max_rows": k}, headline=headline, warnings=atlas.truncation()
        ),
    )
