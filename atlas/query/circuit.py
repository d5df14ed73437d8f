"""A source and a target -> the smallest part of the graph found that carries a stated share of the influence.

The question is "by which neurons does the source act on the target". Influence is the share of the target's input that
stems from the source over all paths (atlas.query.influence). Paths start at the last node of the source they pass and
run to the target; a target of several neurons means their mean, each with the same weight. Nodes are kept by the share
of the influence that passes them, then edges, until the kept part holds the budget; that share is recomputed on the
kept part, where only paths inside it count. Without a source paths start wherever the target's input comes from:
at embeddings, and at neurons that nothing stored enters.

What the numbers are of: edges of an atlas are sums over many prompts, not the graph of one, and a path need not occur
in any single prompt. Shares are of everything stored (embeddings included, edges below min_count too); what was cut
when the atlas was built, attention's and norms' remainders are in no edge (facts explained_median and edges_cut).
Signed influence is the sum of the same paths with signs, at most as large: towards a logit, what raises (+) or lowers
(-) the metric through it; towards a neuron, what pushes its activation further the way it goes (+) or back (-).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isnan
from typing import TYPE_CHECKING, Any

from atlas.errors import InputError, StoreError
from atlas.neuron import NeuronId
from atlas.query.circuit_ends import End, read_end
from atlas.query.circuit_graph import Graph, load
from atlas.query.circuit_tokens import token_ends, token_link
from atlas.query.influence import Circuit, Influence, influence, on_paths, prune
from atlas.query.selector import Selection
from atlas.query.subgraph import Link, Node, Role, Subgraph

if TYPE_CHECKING:
    from atlas.query.atlas import Atlas

_ORDER = {"embedding": 0, "neuron": 1, "logit": 2}


@dataclass(frozen=True)
class Cut:
    """How much to keep: share of the influence, at most so many nodes, edges of at least so many observations."""

    budget: float = 0.8
    max_nodes: int = 200
    min_count: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.budget <= 1:
            raise InputError(f"the budget is a share above 0 and at most 1, not {self.budget}; 0.8 keeps 80%")
        if self.max_nodes < 1:
            raise InputError(f"max_nodes is at least 1, not {self.max_nodes}")
        if self.min_count < 1:
            raise InputError(f"min_count is at least 1, not {self.min_count}")


@dataclass(frozen=True)
class _Found:
    """Everything one answer is put together from."""

    atlas: Atlas
    source: End | None
    target: End
    graph: Graph
    all: Influence
    kept: Circuit


def circuit(
    atlas: Atlas, source: Selection | None, target: Selection | None, *, cut: Cut, tokens: bool = True
) -> Subgraph:
    """The circuit between two ends; with tokens also the embeddings that feed it and the logits it writes to.

    source: neurons, "embedding: doctor" (or a list), or None for everything that feeds the target. target: neurons or
    "logit: she". Raises InputError when there is no path, the ends share a neuron or the source is above the target.
    """
    warnings = _warnings(atlas)
    if target is None:
        raise InputError('a circuit needs a target: neurons, or a logit such as "logit: she"')
    to = read_end(atlas, target, "logit")
    since = None if source is None else read_end(atlas, source, "embedding")
    _check_ends(since, to)
    graph = load(atlas, since, to, min_count=cut.min_count)
    _check_order(atlas, since, to, graph)
    found = influence(graph.flow, graph.ends)
    if isnan(found.total):
        raise StoreError(f"{atlas.name} has edges whose weights are not numbers; run atlas check to see which")
    if not found.total > 0:
        raise InputError(_disconnected(since, to, cut))
    kept = prune(graph.flow, graph.ends, found, budget=cut.budget, max_nodes=cut.max_nodes)
    whole = _Found(atlas, since, to, graph, found, kept)
    return _subgraph(whole, cut, warnings=(*warnings, *_shortfall(whole, cut)), tokens=tokens)


def _subgraph(found: _Found, cut: Cut, *, warnings: tuple[str, ...], tokens: bool) -> Subgraph:
    atlas = found.atlas
    nodes, links, facts = _nodes(found), _links(found), _facts(found, cut)
    if tokens and not atlas.require("token_edges"):
        ends = token_ends(atlas, found.graph, found.kept, budget=cut.budget, min_count=cut.min_count)
        nodes, links, facts = nodes + ends.nodes, links + ends.links, facts | ends.facts
    since = found.source.text if found.source else "everything that feeds it"
    return Subgraph(
        title=f"circuit from {since} to {found.target.text}",
        model=atlas.metadata.get("model", "unknown model"),
        layers=atlas.layers,
        nodes=sorted(nodes, key=lambda n: (_ORDER[n.kind], n.layer or 0, n.neuron or 0, n.token_id or 0)),
        links=sorted(links, key=lambda e: (-e.weight_abs_sum, e.source, e.target)),
        facts=facts,
        warnings=warnings,
    )


def _nodes(found: _Found) -> list[Node]:
    graph, kept = found.graph, found.kept
    through = dict(zip(kept.nodes.tolist(), kept.through.tolist(), strict=True))
    packed = {i: node for node in through if (i := graph.packed(node)) is not None}
    names = found.atlas.ask("circuit_nodes", {"of_ids": list(packed)}).rows() if packed else []
    nodes = [
        Node(
            key=str(NeuronId(r["layer"], r["neuron"])), kind="neuron", layer=r["layer"], neuron=r["neuron"],
            label=r["label"], cluster_path=r["cluster_path"], influence=through[packed[r["id"]]],
            role=_role(found, r["id"]),
        )
        for r in names
    ]  # fmt: skip
    ends = {n for n in through if graph.packed(n) is None}
    return nodes + [_token_node(found, n, through[n]) for n in sorted(ends)]


def _token_node(found: _Found, node: int, share: float) -> Node:
    token = found.graph.token(node)
    if node < len(found.graph.tokens_in):
        assert found.source is not None
        text = found.source.tokens[token]
        return Node(f"E:{token}", "embedding", token_id=token, token=text, influence=share, role="source")
    text = found.target.tokens[token]
    return Node(f"L:{token}", "logit", token_id=token, token=text, influence=share, role="target")


def _role(found: _Found, packed: int) -> Role:
    if found.source and packed in found.source.neurons:
        return "source"
    return "target" if packed in found.target.neurons else "between"


def _links(found: _Found) -> list[Link]:
    flow, kept, graph = found.graph.flow, found.kept, found.graph
    shares = (flow.weight[kept.edges] * flow.scale[flow.tgt[kept.edges]]).tolist()
    ends = zip(flow.src[kept.edges].tolist(), flow.tgt[kept.edges].tolist(), strict=True)
    wanted = {pair: (s, o) for pair, s, o in zip(ends, shares, kept.over.tolist(), strict=True)}
    ids = sorted({i for pair in wanted for node in pair if (i := graph.packed(node)) is not None})
    before = len(graph.tokens_in)
    among = {"of_sources": ids, "of_targets": ids, "at_least_weight": 0.0, "at_least_count": 1, "max_rows": None}
    rows = found.atlas.ask("edges_between", among).rows() if ids else []
    links = [_neuron_link(r, wanted[pair]) for r in rows if (pair := (r["src"] + before, r["tgt"] + before)) in wanted]
    return links + _token_links(found, wanted, ids)


def _token_links(found: _Found, wanted: dict[tuple[int, int], tuple[float, float]], ids: list[int]) -> list[Link]:
    graph, width = found.graph, found.atlas.d_mlp
    before = len(graph.tokens_in)
    sides = (("embedding", graph.tokens_in, 0), ("logit", graph.tokens_out, before + graph.neurons))
    links = []
    for kind, tokens, first in sides:
        values = {"of_kind": kind, "of_tokens": list(tokens), "of_ids": ids, "at_least_count": 1, "of_width": width}
        for row in found.atlas.ask("circuit_token_edges", values).rows() if tokens and ids else ():
            at, neuron = first + tokens.index(row["token_id"]), row["id"] + before
            pair = (at, neuron) if kind == "embedding" else (neuron, at)
            if pair in wanted:
                links.append(token_link(kind, row, *wanted[pair]))
    return links


def _neuron_link(row: dict[str, Any], shares: tuple[float, float]) -> Link:
    return Link(
        source=str(NeuronId(row["src_layer"], row["src_neuron"])),
        target=str(NeuronId(row["tgt_layer"], row["tgt_neuron"])),
        mean_weight=row["mean_weight"], weight_abs_sum=row["weight_abs_sum"], count=row["count"],
        n_graphs=row["n_graphs"], standard_error=row["standard_error"], sign_consistency=row["sign_consistency"],
        share=shares[0], influence=shares[1],
    )  # fmt: skip


def _facts(found: _Found, cut: Cut) -> dict[str, Any]:
    nodes, edges = on_paths(found.graph.flow, found.all)
    meta = found.atlas.metadata
    facts: dict[str, Any] = {
        "influence": found.all.total, "signed_influence": found.all.signed,
        "budget": cut.budget, "share_kept": found.kept.share, "signed_kept": found.kept.signed,
        "nodes_kept": len(found.kept.nodes), "nodes_on_paths": nodes,
        "edges_kept": len(found.kept.edges), "edges_on_paths": edges,
        "target_from_embeddings": found.graph.from_embeddings, "target_from_neurons": found.graph.from_neurons,
        "explained_median": _explained(found.atlas), "min_count": cut.min_count,
        "min_edge_count": _number(meta, "min_edge_count"), "edges_cut": _number(meta, "edges_cut"),
    }  # fmt: skip
    if not found.graph.flow.acyclic:
        facts["hops_remainder"] = found.all.remainder
    return facts


def _number(metadata: dict[str, str], key: str) -> int | None:
    return int(metadata[key]) if metadata.get(key, "").isdigit() else None


def _explained(atlas: Atlas) -> float | None:
    found: float | None = atlas.cursor().execute("SELECT median(explained) FROM graphs").fetchall()[0][0]
    return found


def _warnings(atlas: Atlas) -> tuple[str, ...]:
    if atlas.require("edges"):
        raise StoreError(f"table edges is empty: {atlas.name} was built without attribution graphs; see atlas info")
    warnings = atlas.truncation()
    if "token_edges" in atlas.missing or atlas.require("token_edges"):
        warnings += ("no token edges: what embeddings bring is in no share, so shares are too large",)
    if cut := _number(atlas.metadata, "edges_cut"):
        fewest = atlas.metadata.get("min_edge_count", "?")
        warnings += (f"{cut:,} edges of fewer than {fewest} observations were left out of the atlas and of all shares",)
    return warnings


def _shortfall(found: _Found, cut: Cut) -> tuple[str, ...]:
    warnings: tuple[str, ...] = ()
    if found.kept.nodes_share < cut.budget * (1 - 1e-9):
        warnings += (
            f"{cut.max_nodes} nodes hold {found.kept.nodes_share:.1%} of the influence, not {cut.budget:.0%}; "
            "raise max_nodes to keep more",
        )
    if not found.graph.flow.acyclic:
        warnings += (
            "some edges stay in a layer or go down: paths were summed hop by hop, "
            f"{found.all.remainder:.1e} was still moving at the end",
        )
    return warnings


def _check_ends(source: End | None, target: End) -> None:
    if source and (both := len(set(source.neurons) & set(target.neurons))):
        shared = f"{both} neurons" if both > 1 else "a neuron"
        raise InputError(
            f"source and target share {shared} ({source.text} and {target.text}); "
            "a circuit runs between different neurons: take them out of one end"
        )


def _check_order(atlas: Atlas, source: End | None, target: End, graph: Graph) -> None:
    if source is None or source.tokens or target.tokens or not graph.flow.acyclic:
        return
    lowest, highest = min(source.neurons) // atlas.d_mlp, max(target.neurons) // atlas.d_mlp
    if lowest >= highest:
        raise InputError(
            f"the source {source.text} (layer {lowest} up) is not below the target {target.text} (up to layer "
            f"{highest}); edges go up the layers: swap the ends"
        )


def _disconnected(source: End | None, target: End, cut: Cut) -> str:
    since = f"no path from {source.text} to" if source else "nothing stored feeds"
    return (
        f"{since} {target.text} over edges of at least {cut.min_count} observations; "
        "choose other ends (atlas ego shows what is near a neuron) or a smaller min_count"
    )
