"""A subgraph -> one self-contained HTML page: the drawing, tables, search, and what must be said, in words.

The page loads nothing: its policy forbids every connection. Text of the atlas reaches it in two ways, both inert:
escaped in HTML, and in a JSON block in which <, > and & are written as escapes.
"""

from __future__ import annotations

import json
import math
from html import escape
from importlib.resources import files
from typing import Any

from atlas.export.pictures.layout import Layout, place, strongest_links
from atlas.export.pictures.lettering import caption, name, visible
from atlas.export.pictures.svg import about, drawing, explain_layout, heading
from atlas.query.subgraph import Link, Node, Subgraph

MOST_LINKS = 3000  # drawn; the table lists all
_PER_NODE, _FEWEST, _MOST_FIRST = 2, 80, 400  # edges shown at first: the slider brings the others


def page(subgraph: Subgraph) -> str:
    """Return the page; equal subgraphs give equal text. InputError for a subgraph that cannot be drawn."""
    layout = place(subgraph, max_links=MOST_LINKS)
    parts = {
        "generator": "atlas",
        "title": escape(heading(subgraph)),
        "facts": " ".join(f"<span>{escape(text)}</span>" for text in about(subgraph, len(layout.curves))),
        "warnings": "\n".join(f'<p class="warning">{escape(visible(text))}</p>' for text in subgraph.warnings),
        "box": f"0 0 {layout.width:.0f} {layout.height:.0f}",
        "drawing": drawing(layout, live=True),
        "legend": _legend(layout),
        "style": _asset("page.css"),
        "data": _json(_data(subgraph, layout)),
        "script": _asset("page.js"),
    }
    pieces = _asset("page.html").split("{{")
    return pieces[0] + "".join(parts[key] + rest for key, _, rest in (piece.partition("}}") for piece in pieces[1:]))


def _asset(file: str) -> str:
    return files(__package__).joinpath(file).read_text(encoding="utf-8")


def _data(subgraph: Subgraph, layout: Layout) -> dict[str, Any]:
    """What the script works on; ends of links are indices of nodes."""
    index = {node.key: i for i, node in enumerate(subgraph.nodes)}
    links, measure = strongest_links(subgraph)
    drawn = len(layout.curves)
    return {
        "nodes": [_node(node, i) for i, node in enumerate(subgraph.nodes)],
        "links": [_link(link, index, measure) for link in links],
        "drawn": drawn,
        "start": min(drawn, max(_FEWEST, min(_PER_NODE * len(subgraph.nodes), _MOST_FIRST))),
        "measure": measure,
    }


def _node(node: Node, order: int) -> dict[str, Any]:
    token = node.kind != "neuron" and node.token is not None and node.label
    return {
        "name": name(node),
        "text": caption(node),
        "full": f"{caption(node)} {visible(node.label or '')}" if token else caption(node),
        "order": order,
        "module": visible(node.cluster_path) if node.cluster_path else None,
        "influence": _finite(node.influence),
    }


def _link(link: Link, index: dict[str, int], measure: str) -> dict[str, Any]:
    return {
        "source": index[link.source],
        "target": index[link.target],
        "mean": _finite(link.mean_weight),
        "sum": _finite(link.weight_abs_sum),
        "count": link.count,
        "graphs": link.n_graphs,
        "error": _finite(link.standard_error),
        "sign": _finite(link.sign_consistency),
        "share": _finite(link.share),
        "influence": _finite(link.influence),
        "strength": _finite(link.influence if measure == "influence" else link.weight_abs_sum),
    }


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _json(value: Any) -> str:
    """JSON that no HTML parser takes for markup: ASCII only, <, > and & as escapes."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _legend(layout: Layout) -> str:
    if not layout.curves:
        return "<span>no edges among these nodes</span>"
    words = explain_layout(layout)
    samples = [
        f'<span><i class="{key}"></i>{escape(words[key])}</span>'
        for key in ("positive", "negative", "mixed")
        if key in words
    ]
    return "".join([*samples, *(f"<span>{escape(words[key])}</span>" for key in ("width", "size", "way"))])
