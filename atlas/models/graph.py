"""What one prompt gave -> one RelP attribution graph over MLP neurons, with how much of it is explained.

Explained shares. The relevance R(t) of a node is the sum of the flows from all earlier neurons, the token embeddings,
the position embeddings and the biases (the metric m likewise, from all neurons). The part that the graph lists, from
its own nodes and from token embeddings, divided by R(t) is the node's share e(t); position embeddings and biases are
never listed. The graph's `explained` is the mean of e over all nodes and m, weighted by |R(t)| and |m|:
sum(sign(R) * listed) / sum(|R|); `remainder` = sum(|R|) - sum(sign(R) * listed), in units of the metric. A share above
1 means that what is missing is of the opposite sign.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from atlas.errors import ModelError

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Nodes:
    """Neurons at positions, sorted by (layer, position, neuron); arrays of n."""

    layer: Ints
    position: Ints
    neuron: Ints
    activation: Floats
    gradient: Floats  # dm/dh, all paths
    relevance: Floats  # h * dm/dh, metric units
    direct: Floats  # h * dm/dh with every later MLP stopped, metric units
    explained: Floats  # share of the relevance that the graph lists; NaN where the relevance is 0


@dataclass(frozen=True)
class Edges:
    """Weighted pairs of indices (into nodes, positions or targets, as the field of Graph says), zeros left out."""

    source: Ints
    target: Ints
    weight: Floats


@dataclass(frozen=True)
class Graph:
    """One attribution graph; weights are signed flows in units of the metric."""

    token_ids: list[int]
    metric: str
    metric_value: float
    targets: list[int]  # token ids, positive ones first
    target_position: int
    nodes: Nodes
    edges: Edges  # node -> node, sorted by (source, target)
    embedding: Edges  # position -> node
    logit: Edges  # node -> index into `targets`
    nodes_dropped: int
    relevance_dropped: float  # sum of |R| of the dropped
    explained: float
    remainder: float
    completeness_residual: float  # |sum of all input relevance - m| / |m|: the numerical check of the whole graph


class NotFiniteError(ModelError):
    """Activations of one prompt that are not numbers; the layer is named."""


@dataclass(frozen=True)
class Flows:
    """What the direct sweep of one prompt found."""

    edges: Edges
    logit: Floats  # [n, K] from nodes to the K logits
    embedding: Floats  # [T, n] from token embeddings to nodes
    embedding_logit: float  # all token embeddings' direct effect on the metric


@dataclass(frozen=True)
class Part:
    """What one sweep of one prompt found; its items are `first` ends, then the `carried` nodes.

    Backward: ends are the K logits, `nodes` [items, n] effects of the nodes on the items, `others` [items, T] those of
    the embeddings. Forward: ends are the embeddings, `nodes` effects of the items on the nodes, `others` [items, K]
    on the logits.
    """

    forward: bool
    first: int
    carried: Ints
    nodes: Floats
    others: Floats


def flows_of(count: int, logits: int, length: int, parts: Sequence[Part]) -> Flows:
    """Join the parts of a prompt of `length` tokens with `count` nodes and a metric of K logits."""
    logit, embedding, both = np.zeros((count, logits)), np.zeros((length, count)), 0.0
    found = []
    for part in parts:
        first, rows = part.first, part.nodes[part.first :]
        row, column = rows.nonzero()
        both += float(part.others[:first].sum())
        if part.forward:
            found.append((part.carried[row], column, rows[row, column]))
            embedding[:first] += part.nodes[:first]
            logit[part.carried] = part.others[first:]
        else:
            found.append((column, part.carried[row], rows[row, column]))
            logit[:] += part.nodes[:first].T if first else 0.0
            embedding[:, part.carried] = part.others[first:].T
    source, target, weight = (np.concatenate(columns) for columns in zip(*found, strict=True))
    order = np.lexsort((target, source))
    return Flows(Edges(source[order], target[order], weight[order]), logit, embedding, both)


def listed(nodes_relevance: Floats, flows: Flows) -> Floats:
    """Per node the relevance that the graph lists: from its nodes and from token embeddings."""
    found = np.bincount(flows.edges.target, flows.edges.weight, len(nodes_relevance)) + flows.embedding.sum(0)
    return np.asarray(found, dtype=np.float64)


def shares(relevance: Floats, shown: Floats) -> Floats:
    """Per node the listed share of its relevance; NaN where that is 0."""
    out = np.full(len(relevance), np.nan)
    np.divide(shown, relevance, out=out, where=relevance != 0)
    return out


def explained(relevance: Floats, shown: Floats, metric: tuple[float, Flows]) -> tuple[float, float]:
    """The graph's explained share (NaN where nothing is relevant) and the remainder in units of the metric."""
    value, flows = metric
    from_metric = float(flows.logit.sum() + flows.embedding_logit)
    found = float(np.append(np.sign(relevance) * shown, np.sign(value) * from_metric).sum())
    whole = float(np.abs(relevance).sum() + abs(value))
    return (found / whole if whole else float("nan")), whole - found


def dense_edges(cells: Floats) -> Edges:
    """Edges of a dense matrix [sources, targets], zeros left out."""
    source, target = cells.nonzero()
    return Edges(source.astype(np.int64), target.astype(np.int64), cells[source, target])
