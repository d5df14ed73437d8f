"""A module -> its strongest members and the edges among them, ready to be drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from atlas.errors import InputError
from atlas.query.subgraph import Link, Node, Subgraph

if TYPE_CHECKING:
    from atlas.query.atlas import Atlas

Row = dict[str, Any]


def cluster_subgraph(atlas: Atlas, path: str, *, max_nodes: int | None = 60, max_links: int | None = 2000) -> Subgraph:
    """Members by falling flow and the strongest edges among them; facts say what was cut.

    Token ends are left out: the graph is the module's own wiring. InputError for an unknown path or a limit below 1.
    """
    for name, value in (("max_nodes", max_nodes), ("max_links", max_links)):
        if value is not None and value < 1:
            raise InputError(f"{name} is {value}; use at least 1")
    warnings = atlas.require("edges")
    atlas.require_cluster(path)
    about = atlas.ask("cluster_card", {"of_path": path}).rows()[0]
    members = atlas.ask("cluster_members", {"of_path": path, "max_rows": max_nodes}).rows()
    ids = [row["feature_id"] for row in members]
    values = {"of_sources": ids, "of_targets": ids, "max_rows": max_links}
    found = atlas.ask("edges_between", values, warnings=warnings + atlas.truncation())
    edges = found.rows()
    label = f": {about['label'].partition(' | ')[0]}" if about["label"] else ""
    return Subgraph(
        title=f"Module {path}{label}",
        model=atlas.metadata.get("model") or atlas.name,
        layers=atlas.layers,
        nodes=neuron_nodes(members),
        links=neuron_links(edges),
        facts=_facts(about, members=len(members), edges=edges),
        warnings=found.warnings,
    )


def neuron_nodes(rows: list[Row]) -> list[Node]:
    """Nodes of rows with layer, neuron, label and cluster_path, by layer and neuron."""
    return [
        Node(
            key=f"L{row['layer']}/N{row['neuron']}",
            kind="neuron",
            layer=row["layer"],
            neuron=row["neuron"],
            label=row["label"],
            cluster_path=row["cluster_path"],
        )
        for row in sorted(rows, key=lambda row: (row["layer"], row["neuron"]))
    ]


def neuron_links(rows: list[Row]) -> list[Link]:
    """Links of the rows of edges_between, in their order."""
    return [
        Link(
            source=f"L{row['src_layer']}/N{row['src_neuron']}",
            target=f"L{row['tgt_layer']}/N{row['tgt_neuron']}",
            mean_weight=row["mean_weight"],
            weight_abs_sum=row["weight_abs_sum"],
            count=row["count"],
            n_graphs=row["n_graphs"],
            standard_error=row["standard_error"],
            sign_consistency=row["sign_consistency"],
        )
        for row in rows
    ]


def _facts(about: Row, *, members: int, edges: list[Row]) -> Row:
    """What the module is, and how much of its internal weight (sum of mean |F|) is shown."""
    facts: Row = {"neurons": about["size"]}
    if members < about["size"]:
        facts["shown, by largest flow"] = members
    facts["layers"] = f"{about['layer_min']} to {about['layer_max']}"
    internal, shown = about["internal_weight"], sum(row["mean_abs_weight"] for row in edges)
    if internal:
        facts["share of the module's internal weight shown"] = min(shown / internal, 1.0)
    if about["conductance"] is not None:
        facts["conductance"] = about["conductance"]
    return facts
