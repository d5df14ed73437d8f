"""A selection of neurons -> the graph of the edges among them, for GraphML and graph JSON."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atlas.errors import InputError
from atlas.export.plain.files import new_file
from atlas.query.module_graph import neuron_links, neuron_nodes
from atlas.query.subgraph import Subgraph

if TYPE_CHECKING:
    from atlas.query.atlas import Atlas
    from atlas.query.selector import Selection

FORMATS = ("graphml", "graph-json")
MOST_NODES = 100_000  # a graph is held as one text: 100 MB


@dataclass(frozen=True)
class EdgeCut:
    """Which edges a graph has: fewest observations, smallest mean |F|, the strongest so many (None: all)."""

    min_count: int = 1
    min_weight: float = 0.0
    limit: int | None = 50_000


def selection_graph(atlas: Atlas, selection: Selection, *, cut: EdgeCut | None = None) -> Subgraph:
    """The neurons of a selection as nodes, also those without an edge, and the strongest edges among them as links.

    Facts say how many edges there are and how many were left out. InputError for over MOST_NODES neurons.
    """
    cut, warnings = cut or EdgeCut(), atlas.require("edges")
    ids = atlas.select(selection)
    if len(ids) > MOST_NODES:
        raise InputError(
            f"{len(ids):,} neurons are too many for a graph in one file (at most {MOST_NODES:,}); select fewer, or "
            'write their edges with "atlas export edges"'
        )
    members = atlas.free(
        "SELECT layer, neuron, label, cluster_path FROM neurons WHERE feature_id IN (SELECT unnest($ids))", {"ids": ids}
    )
    found = atlas.ask(
        "edges_between",
        {"of_sources": ids, "of_targets": ids, "at_least_weight": cut.min_weight, "at_least_count": cut.min_count,
         "max_rows": cut.limit},
        warnings=warnings + atlas.truncation(),
    )  # fmt: skip
    facts: dict[str, Any] = {"neurons": len(members), "edges": found.total}
    facts |= {"weaker edges left out": found.cut} if found.cut else {}
    return Subgraph(
        title=_title(selection),
        model=atlas.metadata.get("model") or atlas.name,
        layers=atlas.layers,
        nodes=neuron_nodes(members.rows()),
        links=neuron_links(found.rows()),
        facts=facts,
        warnings=found.warnings,
    )


def write_graph(graph: Subgraph, target: Path, form: str, *, force: bool = False) -> int:
    """Write a graph as one of FORMATS, whole or not at all, and return its bytes; refusals as of plain files."""
    from atlas.export.pictures.files import render

    with new_file(target, force=force) as draft:
        return draft.write_bytes(render(graph, form))


def _title(selection: Selection) -> str:
    some = selection if isinstance(selection, list) else [selection]
    told = ", ".join(map(str, some[:5]))
    return f"Edges among {told}" + (f" and {len(some) - 5} more" if len(some) > 5 else "")
