"""The neurons of a circuit -> its token ends: the embeddings that feed its first neurons, the logits its last write to.

A token's share: of the influence that starts at a neuron, the part of that neuron's input which the token brings
(embeddings), or of the influence that ends at a neuron, the token's part of all that it writes to logits. These tokens
are beside the circuit, not on its paths, except where the source is everything: then paths do start at embeddings.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from atlas.neuron import NeuronId
from atlas.query.circuit_ends import name_token
from atlas.query.circuit_graph import Graph
from atlas.query.influence import Circuit
from atlas.query.subgraph import Link, Node

if TYPE_CHECKING:
    from atlas.query.atlas import Atlas

MOST_TOKENS = 10  # of each kind: more cannot be read in a picture
Row = dict[str, Any]


@dataclass(frozen=True)
class TokenEnds:
    """Nodes and links to add, and how much of each kind they show."""

    nodes: list[Node]
    links: list[Link]
    facts: dict[str, Any]


@dataclass(frozen=True)
class _Scored:
    """Rows of token_edges with the share each holds, and the tokens chosen by the sum of these."""

    rows: list[tuple[Row, float]]
    by_token: dict[int, float]
    chosen: list[int]


def token_ends(atlas: Atlas, graph: Graph, kept: Circuit, *, budget: float, min_count: int) -> TokenEnds:
    """At most MOST_TOKENS embeddings and as many logits: the fewest that hold the budget of their kind."""
    ends: list[TokenEnds] = []
    if not graph.tokens_in:
        rows = _rows(atlas, graph, kept, "embedding", min_count)
        ends.append(_shown(atlas, "embedding", _scored(rows, _entering(graph, kept), budget), graph))
    if not graph.tokens_out:
        rows = _rows(atlas, graph, kept, "logit", min_count)
        ends.append(_shown(atlas, "logit", _scored(rows, _leaving(graph, kept, rows), budget), graph))
    return TokenEnds(
        [node for end in ends for node in end.nodes],
        [link for end in ends for link in end.links],
        {name: value for end in ends for name, value in end.facts.items()},
    )


def token_link(kind: str, row: Row, share: float | None, influence: float | None) -> Link:
    """A link from a row of circuit_token_edges."""
    neuron = str(NeuronId(row["layer"], row["neuron"]))
    ends = (f"E:{row['token_id']}", neuron) if kind == "embedding" else (neuron, f"L:{row['token_id']}")
    return Link(
        *ends, mean_weight=row["mean_weight"], weight_abs_sum=row["weight_abs_sum"], count=row["count"],
        n_graphs=row["n_graphs"], standard_error=row["standard_error"], sign_consistency=row["sign_consistency"],
        share=share, influence=influence,
    )  # fmt: skip


def _rows(atlas: Atlas, graph: Graph, kept: Circuit, kind: str, min_count: int) -> list[Row]:
    ends = kept.entry if kind == "embedding" else kept.exit
    ids = [i for node in kept.nodes[ends > 0].tolist() if (i := graph.packed(node)) is not None]
    if not ids:
        return []
    values = {"of_kind": kind, "of_ids": ids, "at_least_count": min_count, "of_width": atlas.d_mlp}
    return atlas.ask("circuit_token_edges", values).rows()


def _entering(graph: Graph, kept: Circuit) -> dict[int, float]:
    """Per packed id: influence that a unit of |F| from an embedding carries."""
    flow, nodes = graph.flow, kept.nodes
    starts = graph.ends.start[nodes]
    live = starts > 0
    units = kept.entry[live] / starts[live] * flow.scale[nodes[live]]
    return {
        i: unit
        for node, unit in zip(nodes[live].tolist(), units.tolist(), strict=True)
        if (i := graph.packed(node)) is not None
    }


def _leaving(graph: Graph, kept: Circuit, rows: list[Row]) -> dict[int, float]:
    """Per packed id: influence that a unit of |F| to a logit stands for; all that a neuron writes shares what ends."""
    written: dict[int, float] = defaultdict(float)
    for row in rows:
        written[row["id"]] += row["weight_abs_sum"]
    ends = {graph.packed(node): share for node, share in zip(kept.nodes.tolist(), kept.exit.tolist(), strict=True)}
    return {i: ends[i] / total for i, total in written.items() if total > 0}


def _scored(rows: list[Row], unit: dict[int, float], budget: float) -> _Scored:
    scored = [(row, unit.get(row["id"], 0.0) * row["weight_abs_sum"]) for row in rows]
    by_token: dict[int, float] = defaultdict(float)
    for row, share in scored:
        by_token[row["token_id"]] += share
    ranked = sorted(by_token, key=lambda token: (-by_token[token], token))
    held, goal, chosen = 0.0, budget * sum(by_token.values()), []
    for token in ranked[:MOST_TOKENS]:
        if held >= goal:
            break
        chosen.append(token)
        held += by_token[token]
    return _Scored(scored, dict(by_token), chosen)


def _shown(atlas: Atlas, kind: Literal["embedding", "logit"], found: _Scored, graph: Graph) -> TokenEnds:
    texts = name_token(atlas, found.chosen)
    letter = "E" if kind == "embedding" else "L"
    nodes = [Node(f"{letter}:{t}", kind, token_id=t, token=texts[t], influence=found.by_token[t]) for t in found.chosen]
    share = _share_of_target(atlas, kind, found.chosen, graph)
    links = [token_link(kind, row, share(row), part) for row, part in found.rows if row["token_id"] in texts and part]
    facts = {
        f"{kind}s_shown": len(nodes),
        f"{kind}s_there": len(found.by_token),
        f"{kind}s_share": sum(found.by_token[t] for t in found.chosen),
    }
    return TokenEnds(nodes, links, facts)


def _share_of_target(atlas: Atlas, kind: str, tokens: list[int], graph: Graph) -> Callable[[Row], float]:
    """The function that gives a row's part of all that enters its head: the neuron, or the logit."""
    if kind == "embedding":
        before = len(graph.tokens_in)
        return lambda row: float(row["weight_abs_sum"] * graph.flow.scale[row["id"] + before])
    rows = atlas.ask("circuit_logit_inputs", {"of_tokens": tokens}) if tokens else ()
    totals = {token: total for token, total, _ in rows}
    return lambda row: float(row["weight_abs_sum"] / totals[row["token_id"]])
