"""Edges: between selections, around them, along paths, in circuits, in prompts, in small patterns."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field
from starlette.responses import Response

from atlas.query.answer import Answer
from atlas.query.atlas import Atlas
from atlas.query.subgraph import Subgraph
from atlas.server.answers import SVG, View
from atlas.server.replies import Table
from atlas.server.routes.questions import (
    MOST,
    Asked,
    Count,
    Layers,
    Level,
    Limit,
    Neurons,
    OfNeurons,
    Rows,
    Text,
    chosen,
)
from atlas.server.routing import Routes
from atlas.server.state import Server

routes = Routes("circuits")

GRAPHML = "application/graphml+xml"
PICTURES = {SVG: "svg", GRAPHML: "graphml"}
Ends = Annotated[list[Text], Field(min_length=1, max_length=10_000, examples=[["L0/N12"]])]


class Edges(Asked):
    """Edges between two selections; one left out is any neuron."""

    sources: Neurons | None = Field(None, alias="from")
    targets: Neurons | None = Field(None, alias="to")
    min_weight: float = Field(0.0, ge=0, le=1e30, description="Smallest mean |F|.")
    min_count: Count = Field(1, description="Fewest observations.")
    by_cluster: bool = Field(False, description="Collapse to modules.")
    level: Level | None = Field(None, description="Of the modules, 1 = top; the finest without it.")
    limit: Limit = 50


class Ego(OfNeurons):
    """A neighbourhood."""

    hops: int = Field(1, ge=0, le=3)
    top: int = Field(10, ge=1, le=100_000, description="Strongest edges followed from each node and direction.")
    direction: Literal["both", "downstream", "upstream"] = "both"
    limit: Limit = Field(200, description="Of the edges.")


class Common(OfNeurons):
    """Partners of several neurons."""

    neurons: Neurons = Field(examples=[["layer:2"]])
    direction: Literal["inputs", "outputs"] = "inputs"
    at_least: Count = Field(2, description="Fewest members shared.")
    min_count: Count = Field(1, description="Fewest observations.")
    limit: Limit = 20


class Similar(OfNeurons):
    """By which profile neurons are alike."""

    by: Literal["out", "in", "both", "tokens", "label"] = "out"
    layers: Layers | None = None
    limit: Limit = 20


class Circuit(Asked):
    """Two ends; without a source, everything that feeds the target."""

    source: Ends | None = Field(None, description='Neurons, or "embedding: doctor".')
    target: Ends = Field(description='Neurons, or "logit: she".', examples=[["layer:3"]])
    budget: float = Field(0.8, gt=0, le=1, description="Share of the influence to keep.")
    max_nodes: int = Field(200, ge=1, le=5000)
    min_count: Count = Field(1, description="Fewest observations of an edge.")
    tokens: bool = Field(True, description="Show the tokens that the ends touch.")


class Paths(Asked):
    """Two different ends."""

    source: Neurons = Field(examples=[["L0/N12"]])
    target: Neurons = Field(examples=[["layer:3"]])
    hops: int = Field(5, ge=1, le=6, description="Most edges of a path.")
    score: Literal["product", "bottleneck"] = "product"
    min_count: Count = Field(1, description="Fewest observations of an edge.")
    limit: int = Field(10, ge=0, le=1000, description="Paths; 0 for 1000, the most.")


class Graphs(OfNeurons):
    """Neurons that a prompt's graph must all have: at most 100."""

    limit: Limit = 20


class Motifs(Asked):
    """Which patterns, against how many random graphs."""

    neurons: Neurons | None = Field(None, description="Among these; without them among the 20,000 strongest edges.")
    kind: Literal["ffl", "fan-in", "fan-out", "bi-fan"] | None = None
    null: int = Field(100, ge=0, le=200, description="Random graphs to compare with.")
    seed: int = Field(0, ge=0, le=MOST)
    min_count: Count = Field(1, description="Fewest observations of an edge.")
    limit: Limit = 20


class EgoGraph(BaseModel):
    """Nodes by hop, and the edges among them, strongest first."""

    nodes: Rows
    edges: Rows
    total_edges: int
    warnings: list[str]


class Graph(BaseModel):
    """Nodes and links with their influence; `facts` say what was kept and cut."""

    title: str
    model: str
    layers: int
    facts: dict[str, Any]
    nodes: Rows
    links: Rows
    warnings: list[str]


class Patterns(BaseModel):
    """Counts against the null, and the strongest feed-forward loops."""

    edges: int
    counts: Rows
    instances: Rows
    warnings: list[str]


@routes.ask("/edges", reply=Table)
def edges(atlas: Atlas, view: View, asked: Edges) -> Answer:
    """Find the edges between two selections, strongest first, with the evidence for each."""
    from atlas.query.circuits import edges as between

    rows = view.rows(asked.limit)
    least: dict[str, Any] = {"min_weight": asked.min_weight, "min_count": asked.min_count}
    found = between(atlas, chosen(asked.sources), chosen(asked.targets), limit=rows, **least)
    return found.by_cluster(asked.level, limit=rows) if asked.by_cluster or asked.level else found


@routes.ask("/ego", reply=EgoGraph, forms=tuple(PICTURES))
def ego(atlas: Atlas, view: View, asked: Ego) -> Any:
    """Show the neighbourhood of a selection: nodes, and the edges among them; also as SVG or GraphML."""
    found = atlas.ego(
        list(asked.neurons), hops=asked.hops, top=asked.top, direction=asked.direction, limit=view.rows(asked.limit)
    )
    if view.media_type in PICTURES:
        return picture(found.to_subgraph(), view)
    return found.to_dict() | {"total_edges": found.edges.total, "warnings": list(found.edges.warnings)}


@routes.ask("/common", reply=Table)
def common(atlas: Atlas, view: View, asked: Common) -> Answer:
    """Find the partners that several neurons share, and how likely that is by their degree alone."""
    return atlas.common(
        list(asked.neurons), direction=asked.direction, at_least=asked.at_least, min_count=asked.min_count,
        limit=view.rows(asked.limit),
    )  # fmt: skip


@routes.ask("/similar", reply=Table)
def similar(atlas: Atlas, view: View, asked: Similar) -> Answer:
    """Find the neurons most like a selection: cosine of the profiles, and what is shared."""
    from atlas.query.search import read_layers

    return atlas.similar(list(asked.neurons), by=asked.by, k=view.rows(asked.limit), layers=read_layers(asked.layers))


@routes.ask("/circuit", reply=Graph, forms=tuple(PICTURES))
def circuit(atlas: Atlas, view: View, asked: Circuit) -> Any:
    """Find the neurons by which a source acts on a target, up to a share of the influence; also as SVG or GraphML."""
    found = atlas.circuit(
        chosen(list(asked.source or ())), list(asked.target), budget=asked.budget, max_nodes=asked.max_nodes,
        min_count=asked.min_count, tokens=asked.tokens,
    )  # fmt: skip
    return picture(found, view) if view.media_type in PICTURES else found.to_dict()


@routes.ask("/paths", reply=Table)
def paths(atlas: Atlas, asked: Paths) -> Answer:
    """Find the strongest paths from one selection to another, exact; no rows and a warning where there is none."""
    return atlas.paths(
        list(asked.source), list(asked.target), max_hops=asked.hops, k=asked.limit or 1000, score=asked.score,
        min_count=asked.min_count,
    )  # fmt: skip


@routes.ask("/graphs", reply=Table)
def graphs(atlas: Atlas, view: View, asked: Graphs) -> Answer:
    """Find the attribution graphs (prompts) that contain all of the neurons, most relevant first."""
    return atlas.graphs(list(asked.neurons), limit=view.rows(asked.limit))


@routes.ask("/motifs", reply=Patterns)
def motifs(atlas: Atlas, server: Server, view: View, stack: ExitStack, asked: Motifs) -> dict[str, Any]:
    """Count small patterns among neurons against random graphs of the same degrees.

    100 graphs of 20,000 edges take seconds. One such question runs at a time; another one gets 503 meanwhile.
    """
    server.go_alone(stack)
    found = atlas.motifs(
        chosen(asked.neurons), kind=asked.kind, null=asked.null, seed=asked.seed, min_count=asked.min_count,
        limit=view.rows(asked.limit),
    )  # fmt: skip
    return found.to_dict() | {"warnings": list(found.warnings)}


def picture(found: Subgraph, view: View) -> Response:
    """A graph in the form that was asked for."""
    from atlas.export.pictures.files import render
    from atlas.server.answers import notes_header

    headers = notes_header(found.warnings)
    return Response(render(found, PICTURES[view.media_type]), media_type=view.media_type, headers=headers)
