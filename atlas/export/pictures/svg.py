"""A layout -> SVG: the drawing alone for a page, or a picture of its own with title, legend and facts.

Colours are presentation attributes, which every program reads and a page's style sheet overrides. Blue and orange-red
are told apart with every common colour vision; a sign that changes between observations is dashed.
"""

from __future__ import annotations

from html import escape

from atlas.export.pictures.layout import FINEST_LINE, WIDEST_LINE, Card, Curve, Layout, Row, place
from atlas.export.pictures.lettering import caption, in_words, name, number, percent, visible, width_of, wrapped
from atlas.query.subgraph import Link, Node, Subgraph

FONTS = "Helvetica, Arial, 'Liberation Sans', 'DejaVu Sans', sans-serif"
POSITIVE, NEGATIVE, INK, MUTED, PAPER, BAND = "#2a6fb5", "#d1531f", "#1b2330", "#66707f", "#ffffff", "#f5f7fa"
MOST_LINKS = 600  # of a picture; more lines are one blot
_MIXED = 0.5  # sign consistency below which a line is dashed: the larger sign has less than 3/4 of the weight
_DASH = ' stroke-dasharray="7 4"'
_FILLS = {"embedding": ("#f4efe3", "#b8a878"), "neuron": ("#ffffff", "#a8b3c2"), "logit": ("#e9e6f4", "#8f86b8")}


def picture(subgraph: Subgraph, *, max_links: int | None = MOST_LINKS) -> str:
    """Return a standalone SVG on white: title, facts, drawing, legend; it names what it leaves out."""
    layout = place(subgraph, max_links=max_links)
    width = max(layout.width, 720.0)
    head, top = _head(subgraph, layout, width)
    foot, height = _legend(layout, top + layout.height + 14, width)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'height="{height:.0f}" font-family="{FONTS}" role="img" aria-label="{_text(heading(subgraph))}">\n'
        f'<rect width="{width:.0f}" height="{height:.0f}" rx="10" fill="{PAPER}"/>\n{head}\n'
        f'<g transform="translate({(width - layout.width) / 2:.1f} {top:.1f})">\n{drawing(layout)}\n</g>\n'
        f"{foot}\n</svg>\n"
    )


def drawing(layout: Layout, *, live: bool = False) -> str:
    """The rows, links and cards of a layout; live = numbered for a script, to be focused, without <title> tips."""
    rows = [_row(row, layout.width, beyond=6000.0 if live else 0.0) for row in layout.rows]
    order = sorted(enumerate(layout.curves), key=lambda pair: (pair[1].strength, -pair[0]))  # strongest drawn last
    links = [_link(curve, k, live) for k, curve in order]
    cards = [_card(card, k, live) for k, card in enumerate(layout.cards)]
    return "\n".join([
        f'<defs>{_arrow("positive", POSITIVE)}{_arrow("negative", NEGATIVE)}</defs>',
        '<g class="rows">', *rows, "</g>",
        '<g class="links" fill="none">', *links, "</g>",
        '<g class="nodes" text-anchor="middle">', *cards, "</g>",
    ])  # fmt: skip


def describe_node(node: Node) -> str:
    """One node in words."""
    text = caption(node)
    parts = [text] if text == name(node) else [text, name(node)]
    if node.cluster_path:
        parts.append(f"module {visible(node.cluster_path)}")
    return "; ".join(parts if node.influence is None else [*parts, f"influence {percent(node.influence)}"])


def describe_link(link: Link) -> str:
    """One link in words."""
    parts = [f"mean weight {link.mean_weight:+.3g} over {link.count:,} observations"]
    parts += [f"standard error {number(link.standard_error)}"] if link.standard_error is not None else []
    parts += [f"share of what enters the target {percent(link.share)}"] if link.share is not None else []
    return f"{visible(link.source)} → {visible(link.target)}: {', '.join(parts)}"


# -- parts of the drawing -----------------------------------------------------------------------------------------


def _row(row: Row, width: float, *, beyond: float) -> str:
    """A band and its name; `beyond` = how far it goes on at both sides, on a page that is wider than the drawing."""
    top, height = row.top - 14, row.bottom - row.top + 28
    band = (
        f'<rect class="band" x="{0 - beyond:.0f}" y="{top:.1f}" width="{width + 2 * beyond:.1f}" height="{height:.1f}" '
        f'rx="8" fill="{BAND}"/>'
    )
    middle = (row.top + row.bottom) / 2 + 4
    return (
        f'{band}<text class="row" x="12" y="{middle:.1f}" font-size="11" font-weight="600" '
        f'fill="{MUTED}">{_text(row.name)}</text>'
    )


def _link(curve: Curve, k: int, live: bool) -> str:
    sign = "positive" if curve.link.mean_weight >= 0 else "negative"
    colour = POSITIVE if curve.link.mean_weight >= 0 else NEGATIVE
    dash = _DASH if _changes(curve.link) else ""
    arrow = f' marker-end="url(#{sign})"' if curve.against else ""
    shown = (
        f'class="link {sign}" d="{curve.path}" stroke="{colour}" stroke-width="{curve.width:.2f}" '
        f'stroke-opacity="{0.38 + 0.5 * curve.strength:.2f}"{dash}{arrow}'
    )
    return (
        f'<path id="e{k}" {shown}/>'
        if live
        else f"<path {shown}><title>{_text(describe_link(curve.link))}</title></path>"
    )


def _card(card: Card, k: int, live: bool) -> str:
    node = card.node
    fill, edge = _FILLS[node.kind]
    ends = node.role != "between"
    x, y = card.x - card.width / 2, card.y - card.height / 2
    radius = 7 if node.kind == "neuron" else card.height / 2
    box = (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{card.width:.1f}" height="{card.height:.1f}" rx="{radius:.1f}" '
        f'fill="{fill}" stroke="{INK if ends else edge}" stroke-width="{2 if ends else 1}"/>'
    )
    what = _text(describe_node(node))
    opening = f'<g id="n{k}" class="node {node.kind} {node.role}"'
    opening += f' tabindex="0" role="button" aria-label="{what}">' if live else f"><title>{what}</title>"
    return f"{opening}{box}{_lines(card, y)}</g>"


def _lines(card: Card, top: float) -> str:
    size = card.letters
    texts = [
        f'<text x="{card.x:.1f}" y="{top + 5 + size * (1.2 * k + 0.95):.1f}" font-size="{size:.1f}" '
        f'font-weight="500" fill="{INK}">{_text(line)}</text>'
        for k, line in enumerate(card.lines)
    ]
    if card.small:
        texts.append(
            f'<text class="small" x="{card.x:.1f}" y="{top + card.height - 6:.1f}" font-size="{size * 0.8:.1f}" '
            f'fill="{MUTED}">{_text(card.small)}</text>'
        )
    return "".join(texts)


def _arrow(sign: str, colour: str) -> str:
    return (
        f'<marker id="{sign}" class="{sign}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="9" markerHeight="9" '
        f'markerUnits="userSpaceOnUse" orient="auto"><path d="M0 0L8 4L0 8Z" fill="{colour}"/></marker>'
    )


# -- around it ----------------------------------------------------------------------------------------------------


def about(subgraph: Subgraph, drawn: int) -> list[str]:
    """What a picture is of and what is not in it, in phrases."""
    counts = f"{_count(len(subgraph.nodes), 'node')}, {_count(len(subgraph.links), 'edge')}"
    cut = [f"only the {drawn:,} strongest edges are drawn"] if drawn < len(subgraph.links) else []
    return [f"model {visible(subgraph.model)}", counts, *cut, *in_words(subgraph.facts)]


def heading(subgraph: Subgraph) -> str:
    """The title, starting with a capital."""
    title = visible(subgraph.title)
    return title[:1].upper() + title[1:]


def _fitting(phrases: list[str], width: float) -> str:
    """As many phrases as two lines hold, whole ones only: a page shows the others."""
    text = phrases[0]
    for phrase in phrases[1:]:
        if width_of(f"{text} · {phrase}", 11.5) > width:
            break
        text = f"{text} · {phrase}"
    return text


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _head(subgraph: Subgraph, layout: Layout, width: float) -> tuple[str, float]:
    """Title, facts and warnings above the drawing, and where they end."""
    warning = [(f"Note: {visible(text)}", 11.5, f'fill="{NEGATIVE}"', 2) for text in subgraph.warnings]
    lines: list[str] = []
    y = 8.0
    for text, size, look, most in (
        (heading(subgraph), 16, f'font-weight="700" fill="{INK}"', 2),
        (_fitting(about(subgraph, len(layout.curves)), 1.8 * (width - 24)), 11.5, f'fill="{MUTED}"', 4),
        *warning,
    ):
        for line in wrapped(text, (width - 24) / (1.1 if "700" in look else 1), size=size, lines=most):
            y += size * 1.42
            lines.append(f'<text x="12" y="{y:.1f}" font-size="{size}" {look}>{_text(line.removesuffix(" ·"))}</text>')
    return "\n".join(lines), y + 10


def explain_layout(layout: Layout) -> dict[str, str]:
    """What signs, widths, sizes and directions mean; "mixed" only where a line is dashed."""
    mixed = any(_changes(curve.link) for curve in layout.curves)
    against = any(curve.against for curve in layout.curves)
    return {
        "positive": "positive",
        "negative": "negative",
        **({"mixed": "sign varies"} if mixed else {}),
        "width": f"width of a line: {layout.measure}",
        "size": f"size of a card: {layout.size}",
        "way": "edges run upward" + ("; arrows mark those that do not" if against else ""),
    }


def _legend(layout: Layout, y: float, width: float) -> tuple[str, float]:
    """Legend from a height on, and where it ends."""
    x, parts = 12.0, []
    looks = {"positive": (POSITIVE, ""), "negative": (NEGATIVE, ""), "mixed": (MUTED, _DASH)}
    for key, text in explain_layout(layout).items() if layout.curves else ():
        wide = width_of(text, 11) + (34 if key in looks else 0)
        if x + wide > width - 12:
            x, y = 12.0, y + 18
        if key in looks:
            parts.append(_sample(x, y, *looks[key]))
        left = x + (34 if key in looks else 0)
        parts.append(f'<text x="{left:.1f}" y="{y + 4:.1f}" font-size="11" fill="{MUTED}">{text}</text>')
        x += wide + 18
    return "\n".join(parts), y + 16


def _changes(link: Link) -> bool:
    return link.sign_consistency is not None and link.sign_consistency < _MIXED


def _sample(x: float, y: float, colour: str, dash: str) -> str:
    width = (WIDEST_LINE + FINEST_LINE) / 2
    return f'<path d="M{x:.1f} {y:.1f}h26" stroke="{colour}" stroke-width="{width:.1f}" fill="none"{dash}/>'


def _text(text: str) -> str:
    return escape(visible(text))
