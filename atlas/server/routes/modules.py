"""Modules: the list, one with all about it, its members, the matrix between them, the words they are about."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import Path, Query
from pydantic import BaseModel, ConfigDict, Field

from atlas.errors import InputError
from atlas.query.answer import Answer
from atlas.query.atlas import Atlas
from atlas.server.answers import View
from atlas.server.replies import Table
from atlas.server.routes.circuits import PICTURES, picture
from atlas.server.routes.neurons import absent
from atlas.server.routes.questions import Asked, Count, Level, Limit, Module, Neurons, Rows, Text
from atlas.server.routing import Routes

routes = Routes("modules")

InPath = Annotated[str, Path(pattern=r"^\d{1,9}(\.\d{1,9})*$", max_length=300, examples=["1"])]


class Modules(Asked):
    """Which modules of the primary clustering."""

    level: Level | None = Field(None, description="1 = top modules; all levels without it.")
    below: Module | None = None
    min_size: Count = 1
    search: Text | None = Field(None, description="Only modules with these words in their label.")
    limit: Limit = 50


class Between(Asked):
    """Which pairs of modules."""

    level: Level = 1
    between: bool = Field(False, description="Leave out what stays inside a module.")
    limit: Limit = 50


class Enriched(Asked):
    """A selection, or all modules of a level."""

    neurons: Neurons | None = Field(None, description="A module path or any selection.", examples=[["cluster:1"]])
    everything: bool = Field(False, alias="all", description="Every module of the level instead of one selection.")
    level: Level = 1
    field: Literal["label", "description", "input_label", "output_label", "type", "source"] = "label"
    min_hits: Count = 2
    limit: Limit = 50


class ModuleCard(BaseModel):
    """One module; lists that the atlas has no data for are left out."""

    model_config = ConfigDict(extra="allow")
    cluster_path: str
    label: str | None
    size: int
    layers: Rows
    parts_list: Rows
    members: Rows
    neighbours: Rows
    edges: Rows


@routes.ask("/clusters", reply=Table)
def clusters(atlas: Atlas, view: View, asked: Modules) -> Answer:
    """List the modules, largest first."""
    from atlas.query.clusters import search

    rows = view.rows(asked.limit)
    if asked.search is None:
        return atlas.clusters(level=asked.level, below=asked.below, min_size=asked.min_size, limit=rows)
    if asked.level or asked.below or asked.min_size > 1:
        raise InputError("search goes alone, without level, below and min_size")
    return search(atlas, asked.search, limit=rows)


@routes.get("/clusters/{path:module}", reply=ModuleCard, statuses=(404,), forms=tuple(PICTURES))
def cluster(
    atlas: Atlas, view: View, path: InPath, limit: Annotated[Limit | None, Query()] = None,
    words: Annotated[bool, Query(description="Also the words its labels hold more often than chance.")] = False,
) -> Any:  # fmt: skip
    """Card of one module: weights, layers, parts, members, neighbours, inner edges, tokens; its graph as SVG, GraphML.

    `limit` is the rows of each list (10), or the members in the graph (60).
    """
    from atlas.query.module_graph import cluster_subgraph

    require_module(atlas, path)
    if view.media_type in PICTURES:
        return picture(cluster_subgraph(atlas, path, max_nodes=view.rows(60 if limit is None else limit)), view)
    return atlas.cluster(path, k=view.rows(10 if limit is None else limit), words=words).to_dict()


@routes.get("/clusters/{path:module}/members", reply=Table, statuses=(404,))
def cluster_members(atlas: Atlas, view: View, path: InPath, limit: Annotated[Limit, Query()] = 50) -> Answer:
    """List the neurons of a module and of its parts, largest flow first."""
    from atlas.query.clusters import members

    require_module(atlas, path)
    return members(atlas, path, limit=view.rows(limit))


@routes.get("/clusterings", reply=Table)  # POST makes one: routes/clusters.py
def clusterings(atlas: Atlas, view: View, limit: Annotated[Limit, Query()] = 50) -> Answer:
    """List the stored clusterings, the one that is shown first."""
    return atlas.clusterings(limit=view.rows(limit))


@routes.ask("/quotient", reply=Table)
def quotient(atlas: Atlas, view: View, asked: Between) -> Answer:
    """Weight from module to module, what chance would send between their layers, and z; largest first."""
    return atlas.quotient(level=asked.level, between=asked.between, limit=view.rows(asked.limit))


@routes.ask("/enrich", reply=Table)
def enrich(atlas: Atlas, view: View, asked: Enriched) -> Answer:
    """Find the words that the labels of a selection hold more often than other neurons of the same layers."""
    if asked.everything == bool(asked.neurons):
        raise InputError("give neurons, or all=true for every module of the level")
    chosen: list[object] | None = None if asked.everything else [_module(one) for one in asked.neurons or ()]
    return atlas.enrich(
        chosen, level=asked.level, field=asked.field, min_hits=asked.min_hits, limit=view.rows(asked.limit)
    )


def require_module(atlas: Atlas, path: str) -> None:
    """Refusal 404 for a module that is not there; StoreError for an atlas without modules."""
    with absent():
        atlas.require_cluster(path)


def _module(word: str | int) -> object:
    """A bare module path is one, as on the command line."""
    text = str(word)
    return f"cluster:{text}" if text.replace(".", "").isdigit() else word
