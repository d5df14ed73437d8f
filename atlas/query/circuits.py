"""Selections -> the edges between them, and the neighbourhood of a selection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from atlas.errors import InputError
from atlas.neuron import NeuronId
from atlas.query.answer import Answer
from atlas.query.selector import Selection, select

if TYPE_CHECKING:
    from atlas.query.atlas import Atlas

HEADLINE = (
    "src_layer", "src_neuron", "src_label", "tgt_layer", "tgt_neuron", "tgt_label", "mean_weight", "standard_error",
    "sign_consistency", "count",
)  # fmt: skip
MOST_HOPS = 3  # as many as ego_nodes.sql is written for
CLUSTER_HEADLINE = (
    "src_cluster", "src_label", "tgt_cluster", "tgt_label", "n_edges", "observations", "mean_weight",
    "mean_abs_weight_sum", "sign_consistency",
)  # fmt: skip


@dataclass(frozen=True)
class Matrix:
    """Edges as scipy.sparse: value[i, j] = mean_weight of rows[i] -> columns[j]; no entry = no edge."""

    value: Any  # scipy.sparse.csr_array [sources, targets], float64
    rows: list[NeuronId]
    columns: list[NeuronId]


class Edges(Answer):
    """An answer of edges that can also be collapsed to modules or given as a matrix."""

    _atlas: Atlas

    def by_cluster(self, level: int | None = None, *, limit: int | None = 50) -> Answer:
        """Collapse the edges to modules of a level (1 = top, None = finest); the limit counts pairs of modules."""
        self._atlas.require("clusters")
        values = {**self._parameters, "of_level": level, "max_rows": limit}
        return self._atlas.ask("edges_by_cluster", values, headline=CLUSTER_HEADLINE, warnings=self.warnings)

    def matrix(self, weight: str = "mean_weight") -> Matrix:
        """Return a sparse matrix of ALL edges asked for (the limit does not apply), ids ascending on both sides."""
        try:
            from scipy.sparse import csr_array
        except ImportError as error:
            raise InputError("matrix() needs scipy, which is not installed; pip install scipy") from error
        values = {**self._parameters, "max_rows": None}
        table = self._atlas.ask("edges_between", values).arrow()
        if weight not in table.column_names:
            raise InputError(f"no column {weight!r} of edges; choose among {', '.join(table.column_names)}")
        import numpy as np

        rows, at_row = np.unique(table["src"].to_numpy(), return_inverse=True)
        columns, at_column = np.unique(table["tgt"].to_numpy(), return_inverse=True)
        weights = table[weight].to_numpy().astype("float64")
        value = csr_array((weights, (at_row, at_column)), shape=(len(rows), len(columns)))
        d_mlp = self._atlas.d_mlp
        return Matrix(value, *([NeuronId.of_feature(int(i), d_mlp) for i in ids] for ids in (rows, columns)))


@dataclass(frozen=True)
class Ego:
    """A neighbourhood: nodes with their hop, and all edges among these nodes."""

    nodes: Answer
    edges: Edges

    def to_dict(self) -> dict[str, Any]:
        """Nodes and edges as lists of dicts."""
        return {"nodes": self.nodes.rows(), "edges": self.edges.rows()}


def edges(
    atlas: Atlas,
    sources: Selection | None = None,
    targets: Selection | None = None,
    *,
    min_weight: float = 0.0,
    min_count: int = 1,
    limit: int | None = 50,
) -> Edges:
    """Columns of edges_between, by sum of |F|; min_weight bounds the mean |F| of an edge."""
    return _edges(
        atlas,
        of_sources=None if sources is None else select(atlas, sources),
        of_targets=None if targets is None else select(atlas, targets),
        at_least_weight=min_weight, at_least_count=min_count, max_rows=limit,
    )  # fmt: skip


def ego(
    atlas: Atlas,
    selection: Selection,
    *,
    hops: int = 1,
    top: int = 10,
    direction: str = "both",
    limit: int | None = None,
) -> Ego:
    """Nodes within `hops` steps over the `top` strongest edges of each node, and every edge among them."""
    if direction not in ("both", "downstream", "upstream"):
        raise InputError(f"unknown direction {direction!r}; use both, downstream or upstream")
    if not 0 <= hops <= MOST_HOPS:
        raise InputError(f"ego goes 0 to {MOST_HOPS} hops, not {hops}; start from more neurons to reach further")
    nodes = atlas.ask(
        "ego_nodes",
        {"of_ids": select(atlas, selection), "hops": hops, "per_node": top, "of_direction": direction},
        headline=("hop", "layer", "neuron", "label", "cluster_path"),
        warnings=atlas.require("edges"),
    )
    ids = [row["id"] for row in nodes.rows()]
    among = _edges(atlas, of_sources=ids, of_targets=ids, at_least_weight=0.0, at_least_count=1, max_rows=limit)
    return Ego(nodes, among)


def _edges(atlas: Atlas, **values: object) -> Edges:
    found = Edges(
        atlas,
        atlas.ask("edges_between", values).statement,
        values,
        warnings=atlas.require("edges") + atlas.truncation(),
        headline=HEADLINE,
    )
    found._atlas = atlas
    return found
