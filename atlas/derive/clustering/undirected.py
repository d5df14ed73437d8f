"""Directed edges -> undirected pairs, for methods that know no direction: what runs both ways is added up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from atlas.derive.clustering.graph import EdgeArrays

Labels = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Pairs:
    """An undirected weighted graph of n nodes; each pair once, low <= high, sorted."""

    n: int
    low: npt.NDArray[np.int32]
    high: npt.NDArray[np.int32]
    weight: npt.NDArray[np.float64]


def undirected(edges: EdgeArrays) -> Pairs:
    """Add the weights of both directions; an edge from a neuron to itself stays one."""
    n = len(edges.ids)
    low, high = np.minimum(edges.src, edges.tgt), np.maximum(edges.src, edges.tgt)
    key = low.astype(np.int64) * n + high
    if np.all(key[1:] > key[:-1]):  # edges of an atlas go up the layers: nothing to add or sort
        return Pairs(n, low, high, edges.weight)
    order = np.argsort(key, kind="stable")
    key, weight = key[order], edges.weight[order]
    starts = np.flatnonzero(np.diff(key, prepend=-1))
    return Pairs(n, low[order][starts], high[order][starts], np.add.reduceat(weight, starts))


def igraph_of(pairs: Pairs) -> Any:
    """The pairs as an igraph graph; weights are given to its methods, not stored in it (a Python object a pair)."""
    import igraph

    return igraph.Graph(n=pairs.n, edges=np.column_stack([pairs.low, pairs.high]))


def modularity(pairs: Pairs, labels: npt.NDArray[np.integer], *, resolution: float = 1.0) -> float:
    """Modularity (Newman, Girvan 2004; resolution: Reichardt, Bornholdt 2006) of modules numbered from 0 or 1."""
    total = float(pairs.weight.sum())
    strength = np.bincount(labels[pairs.low], pairs.weight, minlength=int(labels.max()) + 1)
    strength += np.bincount(labels[pairs.high], pairs.weight, minlength=len(strength))
    inside = float(pairs.weight[labels[pairs.low] == labels[pairs.high]].sum())
    return inside / total - resolution * float(np.square(strength / (2 * total)).sum())


def potts(pairs: Pairs, labels: npt.NDArray[np.integer], *, resolution: float) -> float:
    """Constant Potts model (Traag, Van Dooren, Nesterov 2011): weight inside less resolution times pairs inside."""
    sizes = np.bincount(labels).astype(np.float64)
    inside = float(pairs.weight[labels[pairs.low] == labels[pairs.high]].sum())
    return inside - resolution * float((sizes * (sizes - 1) / 2).sum())
