"""A subgraph -> GraphML, which Gephi, igraph, yEd and networkx read: typed attributes of nodes and edges.

`weight` is signed, as in the atlas; layouts that need positive weights take `abs_weight`. A value that is not known
has no entry. Characters that XML 1.0 forbids are written visibly.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from atlas.export.pictures.layout import require_drawable
from atlas.export.pictures.lettering import caption, visible
from atlas.query.subgraph import Link, Node, Subgraph

_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_HEAD = (
    '<?xml version="1.0" encoding="UTF-8"?>\n<graphml xmlns="http://graphml.graphdrawing.org/xmlns" '
    'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:schemaLocation="http://graphml.graphdrawing.org/xmlns '
    'http://graphml.graphdrawing.org/xmlns/1.0/graphml.xsd">'
)

# attribute: (GraphML type, value). `key` is the node's name; caption is what a drawing writes on it.
NODE_COLUMNS: dict[str, tuple[str, Callable[[Node], Any]]] = {
    "key": ("string", lambda n: n.key),
    "caption": ("string", caption),
    "label": ("string", lambda n: n.label),
    "kind": ("string", lambda n: n.kind),
    "layer": ("int", lambda n: n.layer),
    "neuron": ("int", lambda n: n.neuron),
    "token_id": ("int", lambda n: n.token_id),
    "token": ("string", lambda n: n.token),
    "cluster_path": ("string", lambda n: n.cluster_path),
    "influence": ("double", lambda n: n.influence),
    "role": ("string", lambda n: n.role),
}
LINK_COLUMNS: dict[str, tuple[str, Callable[[Link], Any]]] = {
    "weight": ("double", lambda e: e.mean_weight),
    "abs_weight": ("double", lambda e: abs(e.mean_weight)),
    "weight_abs_sum": ("double", lambda e: e.weight_abs_sum),
    "count": ("int", lambda e: e.count),
    "n_graphs": ("int", lambda e: e.n_graphs),
    "standard_error": ("double", lambda e: e.standard_error),
    "sign_consistency": ("double", lambda e: e.sign_consistency),
    "share": ("double", lambda e: e.share),
    "influence": ("double", lambda e: e.influence),
}


def graphml(subgraph: Subgraph) -> str:
    """Return the document: nodes n0, n1, ... and edges in the subgraph's order; title, model and facts on the graph."""
    require_drawable(subgraph)
    index = {node.key: f"n{i}" for i, node in enumerate(subgraph.nodes)}
    about = {"title": subgraph.title, "model": subgraph.model, "warnings": "\n".join(subgraph.warnings)}
    about |= {f"fact: {key}": value for key, value in subgraph.facts.items()}
    lines = [_HEAD]
    lines += [_key("graph", f"g{i}", name, "string") for i, name in enumerate(about)]
    lines += [_key("node", f"v{i}", name, kind) for i, (name, (kind, _)) in enumerate(NODE_COLUMNS.items())]
    lines += [_key("edge", f"e{i}", name, kind) for i, (name, (kind, _)) in enumerate(LINK_COLUMNS.items())]
    lines.append('<graph id="G" edgedefault="directed">')
    lines += [_data(f"g{i}", value) for i, value in enumerate(about.values())]
    for node in subgraph.nodes:
        lines.append(f"<node id={quoteattr(index[node.key])}>{_entries('v', node, NODE_COLUMNS)}</node>")
    for link in subgraph.links:
        ends = f'source="{index[link.source]}" target="{index[link.target]}"'
        lines.append(f"<edge {ends}>{_entries('e', link, LINK_COLUMNS)}</edge>")
    return "\n".join([*filter(None, lines), "</graph>", "</graphml>", ""])


def _key(of: str, key: str, name: str, kind: str) -> str:
    return f'<key id="{key}" for="{of}" attr.name={quoteattr(visible(name))} attr.type="{kind}"/>'


def _entries(letter: str, of: Any, columns: dict[str, tuple[str, Callable[[Any], Any]]]) -> str:
    return "".join(_data(f"{letter}{i}", value(of)) for i, (_, value) in enumerate(columns.values()))


def _data(key: str, value: Any) -> str:
    if value is None or value == "" or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    text = repr(float(value)) if isinstance(value, float) else str(value)
    legal = _FORBIDDEN.sub(lambda match: visible(match[0]), text)
    return f'<data key="{key}">{escape(legal, {chr(13): "&#13;"})}</data>'
