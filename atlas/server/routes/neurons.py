"""Neurons: which there are, the card of one and its parts, what they hold together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal

from fastapi import Path, Query
from pydantic import BaseModel, ConfigDict, Field

from atlas.errors import InputError
from atlas.query.answer import Answer
from atlas.query.atlas import Atlas
from atlas.query.selector import N, listed
from atlas.server.answers import View
from atlas.server.errors import Refusal
from atlas.server.replies import Table
from atlas.server.routes.questions import Asked, Count, Layers, Limit, Module, Neurons, Polarity, Rows, Text, chosen
from atlas.server.routing import Routes

routes = Routes("neurons")

InPath = Annotated[
    str,
    Path(max_length=60, openapi_examples={"by layer and neuron": {"value": "0:12"}},
         description="0:12, 0_12, L0/N12 (the / as %2F or as it is) or a feature id."),
]  # fmt: skip
PARTS = {  # of a card: macro
    "labels": "neuron_labels", "tokens": "neuron_top_tokens", "exemplars": "neuron_exemplars",
    "logit-lens": "neuron_logit_lens", "read-tokens": "neuron_read_tokens", "edges-in": "edges_into",
    "edges-out": "edges_from", "token-edges": "neuron_token_edges", "wiring": "neuron_wiring",
    "pruning": "neuron_pruning", "impacts": "neuron_impacts",
}  # fmt: skip
Part = Literal[
    "labels", "tokens", "exemplars", "logit-lens", "read-tokens", "edges-in", "edges-out", "token-edges", "wiring",
    "pruning", "impacts",
]  # fmt: skip
_WHOLE = ("labels", "pruning", "impacts")  # their macros take no limit


class Card(BaseModel):
    """Everything about one neuron; parts that the atlas lacks are empty."""

    model_config = ConfigDict(extra="allow")
    id: str = Field(examples=["L0/N12"])
    layer: int
    neuron: int
    feature_id: int
    label: str | None
    cluster_path: str | None
    labels: Rows
    top_tokens: Rows
    exemplars: Rows
    logit_lens: Rows
    read_tokens: Rows
    edges_in: Rows
    edges_out: Rows
    wiring: Rows
    pruning: Rows
    impacts: Rows
    notes: list[str]


class Selected(Asked):
    """Neurons that satisfy every given condition; none: all of them."""

    neurons: Neurons | None = None
    layers: Layers | None = None
    label: Text | None = Field(None, description="Text inside a label or description; case is ignored.")
    cluster: Module | None = None
    min_count: Count | None = Field(None, description="Fewest attribution graphs.")
    limit: Limit = 50


class Contexts(Asked):
    """Texts of a selection."""

    neurons: Neurons
    tokens: list[Text] | None = Field(None, max_length=1000, description="Only texts at these tokens.")
    polarity: Polarity | None = None
    limit: Limit = 20


@routes.get("/neurons/{id:neuron}", reply=Card, statuses=(404,))
def neuron(atlas: Atlas, view: View, id: InPath, limit: Annotated[Limit, Query()] = 8) -> dict[str, Any]:
    """Card of one neuron: labels, what fires it, what it promotes, its edges, wiring and scores.

    As `atlas neuron`; `limit` is the rows of each list.
    """
    with absent():
        return atlas.neuron(id, k=view.rows(limit) or atlas.layers * atlas.d_mlp).to_dict()


@routes.get("/neurons/{id:neuron}/{part}", reply=Table, statuses=(404,))
def neuron_part(atlas: Atlas, view: View, id: InPath, part: Part, limit: Annotated[Limit, Query()] = 20) -> Answer:
    """One list of a neuron's card, as long as you like."""
    with absent():
        found = atlas.neuron_id(id)
    of: dict[str, Any] = {"of_layer": found.layer, "of_neuron": found.neuron}
    if part not in _WHOLE:
        of["max_rows"] = view.rows(limit)
    edges = part in ("edges-in", "edges-out")
    return atlas.ask(PARTS[part], of, warnings=atlas.truncation() if edges else ())


@routes.ask("/neurons", reply=Table)
def neurons(atlas: Atlas, view: View, asked: Selected) -> Answer:
    """List the neurons of a selection, by layer and place in it."""
    from atlas.query.search import read_layers

    layers = read_layers(asked.layers)
    condition = N(
        layers=range(layers[0], layers[1] + 1) if layers else None, label=asked.label, cluster=asked.cluster,
        min_count=asked.min_count,
    )  # fmt: skip
    return listed(atlas, chosen(asked.neurons), condition, limit=view.rows(asked.limit))


@routes.ask("/exemplars", reply=Table)
def exemplars(atlas: Atlas, view: View, asked: Contexts) -> Answer:
    """List the texts on which the neurons fire most strongly.

    As `atlas tokens --contexts`.
    """
    return atlas.exemplars(list(asked.neurons), tokens=asked.tokens, polarity=asked.polarity, k=view.rows(asked.limit))


@contextmanager
def absent() -> Iterator[None]:
    """What is named in the path and is not there is 404."""
    try:
        yield
    except InputError as error:
        raise Refusal(404, str(error)) from error
