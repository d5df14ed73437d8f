"""One attribution graph -> the JSON value that Neuronpedia and circuit-tracer's frontend read.

Nodes are the prompt's tokens, the neurons and the target logits, links the signed flows between them. What this form
asks for and a shard does not know is null, never 0; what a cap left out is counted in `metadata.info.export`.

The frontends hide a node when its `influence` exceeds the threshold that a person sets, so `influence` is cumulative:
nodes by falling |relevance|, each with the share of all |relevance| that it and the stronger ones hold.
"""

from __future__ import annotations

import hashlib
import heapq
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from atlas.errors import ShardError
from atlas.export.graph_shards import GraphRows
from atlas.tables import UNIT_TYPE

_NODE_THRESHOLD = 1.0  # the frontends' slider at the start: every node is shown
_ABOUT = (
    "Attribution graph over MLP neurons. Weights are signed flows in units of the metric; a link into a logit is its "
    "part of the metric, so tokens that the metric subtracts count with the opposite sign. influence = cumulative "
    "share of |relevance| (an embedding's relevance: the sum of its links). feature = Cantor pair of layer and neuron. "
    "token_prob of a logit is null: the measurement keeps no probabilities."
)

Link = tuple[str, str, float]  # node_id, node_id, weight


@dataclass(frozen=True)
class GraphPlan:
    """Which graphs, and how much of each."""

    graphs: tuple[int, ...] = ()  # graph_ids; empty: the first `limit`
    limit: int | None = 100  # None for all; not applied to `graphs`
    top_nodes: int | None = None  # the strongest neurons of a graph by |relevance|
    top_edges: int | None = None  # the strongest links of a graph by |weight|, of all kinds
    scan: str | None = None  # what to call the model; its own name by default
    feature_type: str = UNIT_TYPE  # or "cross layer transcoder", for tools that read only that


@dataclass(frozen=True)
class Names:
    """What the numbers of a graph are called."""

    scan: str
    layers: int
    labels: dict[tuple[int, int], str]  # (layer, neuron)
    tokens: dict[int, str]
    source: str  # where labels and tokens come from

    def token(self, token_id: int) -> str:
        """Text of a token, "<token 17>" where it is not known."""
        return self.tokens.get(token_id, f"<token {token_id}>")


class NotFiniteError(ShardError):
    """A graph with numbers that are not finite."""


def graph_document(rows: GraphRows, names: Names, plan: GraphPlan) -> dict[str, Any]:
    """One graph as the JSON value; every link's ends are nodes.

    `influence` is of the whole graph, also when the plan cuts it. Raises ShardError for numbers that are not finite
    and for an edge between nodes that the graph does not list.
    """
    _check_finite(rows)
    neurons = {neuron_id(n["layer"], n["neuron"], n["position"]): n for n in rows.nodes.to_pylist()}
    links = _links(rows, names.layers)
    ends = _token_nodes(rows.row, names)
    _check_ends(rows.row["graph_id"], links, neurons.keys() | {node["node_id"] for node in ends})
    kept, cut = _cut(neurons, links, plan)
    nodes = [_neuron_node(neurons[i], names, plan.feature_type) for i in kept] + ends
    influence = _influence(neurons, links)
    return {
        "metadata": _metadata(rows.row, names, _exported(neurons, links, kept=kept, cut=cut, plan=plan)),
        "qParams": {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "", "sg_pos": ""},
        "nodes": [node | {"influence": influence.get(node["node_id"])} for node in nodes],
        "links": [{"source": source, "target": target, "weight": weight} for source, target, weight in cut],
    }


def slug_of(graph_id: int, prompt: str) -> str:
    """Name of a graph's file: its id, its first words, and a hash of the whole prompt.

    >>> slug_of(3, "The dog runs, and runs.")
    'graph-3-the-dog-runs-and-runs-7ceb77'
    """
    words = "-".join(re.findall(r"[a-z0-9]+", prompt.lower()))[:40].strip("-")
    digest = hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).hexdigest()[:6]
    return "-".join(filter(None, ("graph", str(graph_id), words, digest)))


def _check_finite(rows: GraphRows) -> None:
    for table, columns in (
        (rows.nodes, ("activation", "relevance")),
        (rows.edges, ("weight",)),
        (rows.tokens, ("weight",)),
    ):
        for column in columns:
            values = table[column].to_numpy()
            if not np.isfinite(values).all():
                raise NotFiniteError(
                    f"graph {rows.row['graph_id']} left out: {np.sum(~np.isfinite(values))} of {len(values)} values of "
                    f"{column} are not finite; measure it again"
                )


def _links(rows: GraphRows, layers: int) -> list[Link]:
    """Embedding -> neuron, neuron -> neuron, neuron -> logit, each in the order of the shard."""
    tokens = rows.tokens
    ends = zip(_ids(tokens, "layer", "neuron", "position"), tokens["weight"].to_pylist(), strict=True)
    others = zip(*(tokens[name].to_pylist() for name in ("kind", "token_id", "token_position")), strict=True)
    into: list[Link] = []
    out: list[Link] = []
    for (neuron, weight), (kind, token, position) in zip(ends, others, strict=True):
        if kind == "embedding":
            into.append((embedding_id(token, position), neuron, weight))
        else:
            out.append((neuron, logit_id(layers, token, position), weight))
    sources, targets = (_ids(rows.edges, f"{end}_layer", f"{end}_neuron", f"{end}_position") for end in ("src", "tgt"))
    return into + list(zip(sources, targets, rows.edges["weight"].to_pylist(), strict=True)) + out


def _ids(table: pa.Table, *names: str) -> list[str]:
    return [neuron_id(*place) for place in zip(*(table[name].to_pylist() for name in names), strict=True)]


def _check_ends(graph_id: int, links: Sequence[Link], known: set[str]) -> None:
    for source, target, _ in links:
        if source not in known or target not in known:
            raise ShardError(
                f"graph {graph_id} has an edge {source} -> {target} but no such node; measure its shard again"
            )


def _cut(neurons: dict[str, Any], links: list[Link], plan: GraphPlan) -> tuple[list[str], list[Link]]:
    """The strongest neurons, then the strongest links among what is left; both in their old order."""
    ids = list(neurons)
    kept = [ids[i] for i in _strongest([abs(n["relevance"]) for n in neurons.values()], plan.top_nodes)]
    gone = set(ids).difference(kept)
    left = [link for link in links if link[0] not in gone and link[1] not in gone]
    return kept, [left[i] for i in _strongest([abs(weight) for _, _, weight in left], plan.top_edges)]


def _strongest(values: Sequence[float], count: int | None) -> list[int]:
    """Indices of the `count` largest values (None: all), ascending; among equals the first."""
    if count is None or count >= len(values):
        return list(range(len(values)))
    return sorted(heapq.nlargest(count, range(len(values)), key=lambda i: (values[i], -i)))


def _influence(neurons: dict[str, Any], links: Sequence[Link]) -> dict[str, float]:
    """Cumulative share of |relevance| by node_id, strongest first; empty where no node has any."""
    relevance = {i: float(n["relevance"]) for i, n in neurons.items()}
    for source, _, weight in links:
        if source.startswith("E_"):
            relevance[source] = relevance.get(source, 0.0) + weight
    return cumulative_shares(relevance)


def cumulative_shares(values: dict[str, float]) -> dict[str, float]:
    """Each key with the share of all |value| that it and the stronger ones hold, strongest first; empty for none."""
    order = sorted(values, key=lambda i: (-abs(values[i]), i))
    sums = np.cumsum([abs(values[i]) for i in order])
    if not len(sums) or not sums[-1]:
        return {}
    return dict(zip(order, (sums / sums[-1]).tolist(), strict=True))


# -- its parts ----------------------------------------------------------------------------------------------------


def neuron_id(layer: int, neuron: int, position: int) -> str:
    """node_id of a neuron at a position."""
    return f"{layer}_{neuron}_{position}"


def embedding_id(token_id: int, position: int) -> str:
    """node_id of a token of the prompt."""
    return f"E_{token_id}_{position}"


def logit_id(layers: int, token_id: int, position: int) -> str:
    """node_id of a logit of a model of so many layers."""
    return f"{layers + 1}_{token_id}_{position}"  # circuit-tracer's: 27 for a model of layers 0 .. 25


def cantor_pair(layer: int, neuron: int) -> int:
    """`feature` of a neuron, as schema_version 1 says."""
    return (layer + neuron) * (layer + neuron + 1) // 2 + neuron


def graph_node(node_id: str, *, layer: str, position: int, kind: str, **more: Any) -> dict[str, Any]:
    """Return a node with every field that the frontends read."""
    usual = {"token_prob": 0.0, "is_target_logit": False, "run_idx": 0, "reverse_ctx_idx": 0, "activation": None}
    return {"node_id": node_id, "layer": layer, "ctx_idx": position, "feature_type": kind, **usual, **more}


def _neuron_node(row: dict[str, Any], names: Names, kind: str) -> dict[str, Any]:
    layer, neuron, position = row["layer"], row["neuron"], row["position"]
    return graph_node(
        neuron_id(layer, neuron, position),
        layer=str(layer),
        position=position,
        kind=kind,
        feature=cantor_pair(layer, neuron),
        jsNodeId=f"{layer}_{neuron}-0",
        clerp=names.labels.get((layer, neuron), ""),
        activation=row["activation"],
    )


def _token_nodes(row: dict[str, Any], names: Names) -> list[dict[str, Any]]:
    """Every token of the prompt, then the target logits, the first of them the target."""
    at = row["target_position"]
    embeddings = [
        graph_node(
            embedding_id(token, position),
            layer="E",
            position=position,
            kind="embedding",
            feature=position,
            jsNodeId=f"E_{token}-{position}",
            clerp=f'Emb: "{names.token(token)}"',
        )
        for position, token in enumerate(row["token_ids"])
    ]
    logits = [
        graph_node(
            logit_id(names.layers, token, at),
            layer=str(names.layers + 1),
            position=at,
            kind="logit",
            feature=token,
            jsNodeId=f"L_{token}-{at}",
            clerp=f'Output "{names.token(token)}" (p=?)',  # Neuronpedia fails on a logit's clerp without "(p="
            token_prob=None,
            is_target_logit=rank == 0,
        )
        for rank, token in enumerate(dict.fromkeys(row["targets"]))
    ]
    return embeddings + logits


def _metadata(row: dict[str, Any], names: Names, exported: dict[str, Any]) -> dict[str, Any]:
    from atlas import __version__

    measured = ("graph_id", "document", "metric", "metric_value", "targets", "target_position", "edge_method", "dtype")
    quality = ("n_nodes", "n_edges", "nodes_dropped", "relevance_dropped", "explained", "remainder")
    facts = {name: _finite(row[name]) for name in (*measured, *quality, "completeness_residual")}
    return {
        "slug": slug_of(row["graph_id"], row["prompt"]),
        "scan": names.scan,
        "transcoder_list": [],
        "prompt_tokens": [names.token(token) for token in row["token_ids"]],
        "prompt": row["prompt"],
        "node_threshold": _NODE_THRESHOLD,
        "schema_version": 1,
        "info": {
            "description": _ABOUT,
            "generator": {"name": "atlas", "version": __version__},
            "names": names.source,
            "measured": facts,
            "export": exported,
        },
        "generation_settings": {"max_n_logits": len(row["targets"]), "tau": row["tau"]},
    }


def _exported(
    neurons: dict[str, Any], links: Sequence[Link], *, kept: Sequence[str], cut: Sequence[Link], plan: GraphPlan
) -> dict[str, Any]:
    """What is written and what the caps left out."""
    return {
        "top_nodes": plan.top_nodes,
        "top_edges": plan.top_edges,
        "nodes": len(kept),
        "nodes_dropped": len(neurons) - len(kept),
        "links": len(cut),
        "links_dropped": len(links) - len(cut),
        "weight_dropped": _weight(links) - _weight(cut) if len(cut) < len(links) else 0.0,
    }


def _weight(links: Sequence[Link]) -> float:
    return float(sum(abs(weight) for _, _, weight in links))


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not np.isfinite(value) else value
