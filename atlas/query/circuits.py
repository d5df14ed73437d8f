"""Selections -> the edges between them, and the neighbourhood of a selection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from atlas.errors import InputError
from atlas.neuron import NeuronId
from atlas.query.answer import Answer
from atlas.query.selector import Selection, select
from atlas.query.subgraph import Link, Node, Subgraph

if TYPE_CHECKING:
    from atlas.query.atlas import Atlas

HEADLINE = (
    "src_layer", "src_neuron", "src_label", "tgt_layer", "tgt_neuron", "tgt_label", "mean_weight", "standard_error",
    "sign_consistency", "count",
)  # fmt: skip
WEIGHTS = (
    "mean_weight", "mean_abs_weight", "weight_sum", "weight_abs_sum", "weight_min", "weight_max", "standard_error",
    "sign_consistency", "count", "n_graphs",
)  # fmt: skip
_LINK_COLUMNS = ("mean_weight", "weight_abs_sum", "count", "n_graphs", "standard_error", "sign_consistency")
MOST_HOPS = 3  # as many as ego_nodes.sql is written for
CLUSTER_HEADLINE = (
    "src_cluster", "src_label", "tgt_cluster", "tgt_label", "n_edges", "observations", "mean_weight",
    "mean_abs_weight_sum", "sign_consistency",
)  # fmt: skip


@dataclass(frozen=True)
class Matrix:
    """Edges as scipy.sparse: value[i, j] = the weight of rows[i] -> columns[j]; no entry = no edge."""

    value: Any  # scipy.sparse.csr_array [sources, targets], float64
    rows: list[NeuronId]
    columns: list[NeuronId]


class Edges(Answer):
    """An answer of edges that can also be collapsed to modules or given as a matrix."""

    _atlas: Atlas
    _between: dict[str, object]  # the values of edges_between, also where another macro gives the rows

    def by_cluster(self, level: int | None = None, *, limit: int | None = 50) -> Answer:
        """Collapse the edges to modules of a level (1 = top, None = finest); the limit counts pairs of modules."""
        self._atlas.require("clusters")
        values = {**self._between, "of_level": level, "max_rows": limit}
        return self._atlas.ask("edges_by_cluster", values, headline=CLUSTER_HEADLINE, warnings=self.warnings)

    def matrix(self, weight: str = "mean_weight") -> Matrix:
        """Return a sparse matrix of ALL edges asked for (the limit does not apply), ids ascending on both sides.

        weight: a column of numbers, or "signed_share": weight_sum as a part of the sum of |F| over all edges into the
        target. NaN where the column is NULL. InputError when there is no edge.
        """
        try:
            from scipy.sparse import csr_array
        except ImportError as error:
            raise InputError("matrix() needs scipy, which is not installed; pip install scipy") from error
        import numpy as np

        src, tgt, weights = self._triples(weight)
        rows, at_row = np.unique(src, return_inverse=True)
        columns, at_column = np.unique(tgt, return_inverse=True)
        if weight == "signed_share":
            weights = weights / self._entering(columns.tolist())[at_column]
        value = csr_array((weights, (at_row, at_column)), shape=(len(rows), len(columns)))
        d_mlp = self._atlas.d_mlp
        return Matrix(value, *([NeuronId.of_feature(int(i), d_mlp) for i in ids] for ids in (rows, columns)))

    def _triples(self, weight: str) -> tuple[Any, Any, Any]:
        if weight not in (*WEIGHTS, "signed_share"):
            raise InputError(f"no column {weight!r} of edges for a matrix; use {', '.join(WEIGHTS)} or signed_share")
        column = "weight_sum" if weight == "signed_share" else weight
        values = {**self._between, "max_rows": None}
        every = self._atlas.ask("edges_between", values).statement
        table = self._atlas.free(f"SELECT src, tgt, {column}::DOUBLE AS w FROM ({every})", values).arrow()
        if not table.num_rows:
            raise InputError(
                "no edge between these selections, so no matrix; widen them, or lower min_count or min_weight"
            )
        src, tgt, weights = (table[name].to_numpy() for name in ("src", "tgt", "w"))
        return src, tgt, weights

    def _entering(self, targets: list[int]) -> Any:
        """Sum of |F| into each target, in the order of `targets` (ascending)."""
        return self._atlas.ask("edges_totals", {"of_targets": targets}).arrow()["weight_abs_sum"].to_numpy()

    def _count(self) -> int:
        if self._between.keys() == self._parameters.keys():
            return super()._count()
        return int(self._atlas.free("SELECT count(*) FROM edges", {}).fetchall()[0][0])


@dataclass(frozen=True)
class Ego:
    """A neighbourhood: nodes with their hop, and all edges among these nodes."""

    title: str
    nodes: Answer
    edges: Edges

    def to_dict(self) -> dict[str, Any]:
        """Nodes and edges as lists of dicts."""
        return {"nodes": self.nodes.rows(), "edges": self.edges.rows()}

    def to_subgraph(self) -> Subgraph:
        """The form that is drawn and exported; the neurons asked for (hop 0) have the role source."""
        atlas = self.edges._atlas
        return Subgraph(
            title=self.title,
            model=atlas.metadata.get("model", atlas.name),
            layers=atlas.layers,
            nodes=[_node(row) for row in sorted(self.nodes.rows(), key=lambda row: int(row["id"]))],
            links=[_link(row) for row in self.edges.rows()],
            facts={"nodes": len(self.nodes), "edges": self.edges.total, "edges not shown": self.edges.cut},
            warnings=self.edges.warnings,
        )


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
    if top < 1:
        raise InputError(f"ego follows at least 1 edge of each node, not {top}; use hops=0 for the neurons alone")
    chosen = select(atlas, selection)
    nodes = atlas.ask(
        "ego_nodes",
        {"of_ids": chosen, "hops": hops, "per_node": top, "of_direction": direction},
        headline=("hop", "layer", "neuron", "label", "cluster_path"),
        warnings=atlas.require("edges"),
    )
    ids = [row["id"] for row in nodes.rows()]
    among = _edges(atlas, of_sources=ids, of_targets=ids, at_least_weight=0.0, at_least_count=1, max_rows=limit)
    first = str(NeuronId.of_feature(chosen[0], atlas.d_mlp))
    around = first if len(chosen) == 1 else f"{first} and {len(chosen) - 1} more"
    return Ego(f"{hops} hops around {around}", nodes, among)


def _edges(atlas: Atlas, **values: object) -> Edges:
    macro, asked = "edges_between", values
    if _are_the_strongest(atlas, values):
        macro, asked = "edges_strongest", {"max_rows": values["max_rows"]}
    found = Edges(
        atlas,
        atlas.ask(macro, asked).statement,
        asked,
        warnings=atlas.require("edges") + atlas.truncation(),
        headline=HEADLINE,
    )
    found._atlas = atlas
    found._between = values
    return found


def _are_the_strongest(atlas: Atlas, values: dict[str, Any]) -> bool:
    """Whether edges_top holds the answer: reading all of 84M edges takes a second."""
    every = values["of_sources"] is None and values["of_targets"] is None
    if not every or values["at_least_weight"] > 0 or values["at_least_count"] > 1 or values["max_rows"] is None:
        return False
    kept = atlas.free("SELECT coalesce(max(rank), 0) FROM edges_top", {}).fetchall()[0][0]
    return bool(values["max_rows"] <= kept)


def _node(row: dict[str, Any]) -> Node:
    return Node(
        key=str(NeuronId(row["layer"], row["neuron"])),
        kind="neuron",
        layer=row["layer"],
        neuron=row["neuron"],
        label=row["label"],
        cluster_path=row["cluster_path"],
        role="source" if row["hop"] == 0 else "between",
    )


def _link(row: dict[str, Any]) -> Link:
    return Link(
        source=str(NeuronId(row["src_layer"], row["src_neuron"])),
        target=str(NeuronId(row["tgt_layer"], row["tgt_neuron"])),
        **{name: row[name] for name in _LINK_COLUMNS},
    )
