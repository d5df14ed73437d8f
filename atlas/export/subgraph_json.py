"""A subgraph -> the JSON value that Neuronpedia and circuit-tracer's frontend read.

An atlas sums over prompts, so its circuits have no positions, which that form demands. Here every embedding has a
position of its own, in the order of the nodes, and neurons and logits share one more, the last; `metadata.info` says
so. Weights are the mean over observations. The other rules are those of graph_form.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from typing import Any

from atlas.export.graph_form import (
    cantor_pair,
    cumulative_shares,
    embedding_id,
    graph_node,
    logit_id,
    neuron_id,
)
from atlas.export.pictures.layout import require_drawable, strongest_links
from atlas.export.pictures.lettering import visible
from atlas.query.subgraph import Node, Subgraph
from atlas.tables import UNIT_TYPE

ANYWHERE = "(any position)"
_ABOUT = (
    "Circuit of an atlas, which sums attribution graphs of many prompts. Its nodes have no positions: each embedding "
    f"is shown at a position of its own, neurons and logits at the last, {ANYWHERE}. A link's weight is the mean "
    "signed flow over its observations, in units of the metric. influence = cumulative share, strongest node first. "
    "feature = Cantor pair of layer and neuron. activation and the logits' token_prob are null: not of one prompt."
)


def subgraph_json(subgraph: Subgraph) -> str:
    """Return the JSON text; every link's ends are nodes. InputError for a subgraph that is no graph."""
    return json.dumps(subgraph_document(subgraph), ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n"


def subgraph_document(subgraph: Subgraph) -> dict[str, Any]:
    """The JSON value; links whose mean weight is not finite are left out and counted."""
    require_drawable(subgraph)
    embeddings = [node for node in subgraph.nodes if node.kind == "embedding"]
    position = {node.key: k for k, node in enumerate(embeddings)}
    last = len(embeddings)
    ids = {node.key: _node_id(node, position.get(node.key, last), subgraph.layers) for node in subgraph.nodes}
    influence = cumulative_shares(_strengths(subgraph))
    kept = [link for link in subgraph.links if math.isfinite(link.mean_weight)]
    return {
        "metadata": _metadata(subgraph, [_token(node) for node in embeddings], len(subgraph.links) - len(kept)),
        "qParams": {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "", "sg_pos": ""},
        "nodes": [
            _form(node, ids[node.key], position.get(node.key, last)) | {"influence": influence.get(node.key)}
            for node in subgraph.nodes
        ],
        "links": [{"source": ids[k.source], "target": ids[k.target], "weight": k.mean_weight} for k in kept],
    }


def _node_id(node: Node, position: int, layers: int) -> str:
    if node.kind == "embedding":
        return embedding_id(node.token_id or 0, position)
    if node.kind == "logit":
        return logit_id(layers, node.token_id or 0, position)
    return neuron_id(node.layer or 0, node.neuron or 0, position)


def _form(node: Node, node_id: str, position: int) -> dict[str, Any]:
    layer, number, _ = node_id.split("_")
    if node.kind == "neuron":
        return graph_node(
            node_id,
            layer=layer,
            position=position,
            kind=UNIT_TYPE,
            feature=cantor_pair(int(layer), int(number)),
            jsNodeId=f"{layer}_{number}-0",
            clerp=visible(node.label or ""),
        )
    logit = node.kind == "logit"
    return graph_node(
        node_id,
        layer=layer,
        position=position,
        kind=node.kind,
        feature=int(number) if logit else position,
        jsNodeId=f"{'L' if logit else 'E'}_{number}-{position}",
        clerp=f'Output "{_token(node)}" (p=?)' if logit else f'Emb: "{_token(node)}"',
        token_prob=None if logit else 0.0,
        is_target_logit=logit and node.role == "target",
    )


def _token(node: Node) -> str:
    return visible(node.token) if node.token is not None else f"<token {node.token_id}>"


def _strengths(subgraph: Subgraph) -> dict[str, float]:
    """What ranks nodes other than logits: influence where all have one, else the sum of |weight| of their links."""
    nodes = [node for node in subgraph.nodes if node.kind != "logit"]
    if all(node.influence is not None and math.isfinite(node.influence) for node in nodes):
        return {node.key: node.influence or 0.0 for node in nodes}
    sums = {node.key: 0.0 for node in nodes}
    for link in strongest_links(subgraph)[0]:
        for end in (link.source, link.target):
            if end in sums and math.isfinite(link.weight_abs_sum):
                sums[end] += abs(link.weight_abs_sum)
    return sums


def _metadata(subgraph: Subgraph, tokens: list[str], dropped: int) -> dict[str, Any]:
    from atlas import __version__

    exported = {"nodes": len(subgraph.nodes), "links": len(subgraph.links) - dropped, "links_dropped": dropped}
    return {
        "slug": _slug(subgraph),
        "scan": visible(subgraph.model),
        "transcoder_list": [],
        "prompt_tokens": [*tokens, ANYWHERE],
        "prompt": visible(subgraph.title),
        "node_threshold": 1.0,
        "schema_version": 1,
        "info": {
            "description": _ABOUT,
            "generator": {"name": "atlas", "version": __version__},
            "facts": {visible(str(key)): _plain(value) for key, value in subgraph.facts.items()},
            "warnings": [visible(text) for text in subgraph.warnings],
            "export": exported,
        },
    }


def _slug(subgraph: Subgraph) -> str:
    words = "-".join(re.findall(r"[a-z0-9]+", subgraph.title.lower()))[:48].strip("-")
    keys = "\n".join(node.key for node in subgraph.nodes)
    digest = hashlib.sha256(f"{subgraph.title}\n{keys}".encode("utf-8", "surrogatepass")).hexdigest()[:6]
    return "-".join(filter(None, ("circuit", words, digest)))


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int) else visible(str(value))
