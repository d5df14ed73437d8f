"""Neurons, tokens and the signed edges among them: the form circuits, neighbourhoods and modules are drawn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["embedding", "neuron", "logit"]
Role = Literal["source", "target", "between"]


@dataclass(frozen=True)
class Node:
    """A neuron, or a token end: an embedding below all layers, a logit above them.

    key: unique in the subgraph: "L3/N17", "E:1234" (token id of an embedding), "L:1234" (of a logit).
    influence: share of the circuit's influence that passes through the node, in [0, 1]; NULL where none was asked for.
    """

    key: str
    kind: Kind
    layer: int | None = None
    neuron: int | None = None
    token_id: int | None = None
    token: str | None = None
    label: str | None = None
    cluster_path: str | None = None
    influence: float | None = None
    role: Role = "between"


@dataclass(frozen=True)
class Link:
    """A directed edge with its evidence; weights in units of the metric, as in the tables edges and token_edges.

    share: |mean_weight| summed over observations as a part of all that enters the target (embeddings included);
    influence: share of the circuit's influence that passes over the edge; both NULL where not asked for.
    """

    source: str
    target: str
    mean_weight: float
    weight_abs_sum: float
    count: int
    n_graphs: int | None = None
    standard_error: float | None = None
    sign_consistency: float | None = None
    share: float | None = None
    influence: float | None = None


@dataclass(frozen=True)
class Subgraph:
    """Nodes by (kind, layer, neuron or token), links by falling weight_abs_sum, and what must be said beside them.

    facts: numbers such as the share kept and what was cut, in the order they are shown. layers: of the whole model.
    """

    title: str
    model: str
    layers: int
    nodes: Sequence[Node]
    links: Sequence[Link]
    facts: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain lists and dicts."""
        return {
            "title": self.title,
            "model": self.model,
            "layers": self.layers,
            "facts": self.facts,
            "nodes": [vars(node) for node in self.nodes],
            "links": [vars(link) for link in self.links],
            "warnings": list(self.warnings),
        }
