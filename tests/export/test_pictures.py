"""Pages and pictures of subgraphs: what a browser makes of them, no overlaps, inert text, files whole or not at all."""

from __future__ import annotations

import doctest
import json
import re
import struct
import subprocess
import sys
import xml.etree.ElementTree as ET
import zlib
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path

import pytest
from drawn_graphs import HOSTILE, SAMPLES, A, B, circuit, hostile, link, node, of

from atlas.errors import InputError
from atlas.export.pictures import lettering
from atlas.export.pictures.files import write_pictures
from atlas.export.pictures.layout import Card, place
from atlas.export.pictures.page import page
from atlas.export.pictures.svg import picture
from atlas.query.subgraph import Node, Subgraph

SVG = "{http://www.w3.org/2000/svg}"


def test_doctests() -> None:
    assert doctest.testmod(lettering).attempted >= 4
    assert doctest.testmod(lettering).failed == 0


# -- layout -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SAMPLES)
def test_cards_never_overlap_and_hold_their_text(name: str) -> None:
    layout = place(SAMPLES[name])
    for one, other in combinations(layout.cards, 2):
        assert apart(one, other), (one.node.key, other.node.key)
    for card in layout.cards:
        assert card.lines and all(lettering.width_of(line, card.letters) <= card.width - 10 for line in card.lines)
        assert card.height >= len(card.lines) * card.letters
        assert card.x - card.width / 2 >= 0 and card.x + card.width / 2 <= layout.width
        assert card.y - card.height / 2 >= 0 and card.y + card.height / 2 <= layout.height


def apart(one: Card, other: Card) -> bool:
    across, down = abs(one.x - other.x), abs(one.y - other.y)
    return across >= (one.width + other.width) / 2 + 8 or down >= (one.height + other.height) / 2 + 8


def test_layers_rise_and_every_node_stands_in_the_row_of_its_layer() -> None:
    layout = place(SAMPLES["large"])
    rows = {row.name: row for row in layout.rows}
    assert next(iter(rows)) == "embeddings" and list(rows)[-1] == "logits"
    layers = [int(name.split()[1]) for name in list(rows)[1:-1]]
    assert layers == sorted({card.node.layer for card in layout.cards if card.node.kind == "neuron"})  # no empty rows
    assert all(low.top > high.bottom for low, high in zip(layout.rows, layout.rows[1:], strict=False))
    for card in layout.cards:
        row = rows[{"embedding": "embeddings", "logit": "logits"}.get(card.node.kind, f"layer {card.node.layer}")]
        assert row.top <= card.y <= row.bottom


def test_the_order_in_rows_unties_crossings() -> None:
    """Ladders whose rungs are listed in reverse: one order of each row has no crossing, and it is found."""
    low, high = [node(0, i) for i in range(7)], [node(1, i) for i in range(7)]
    layout = place(of([*low, *high], [link(s, t, 1.0) for s, t in zip(low, high[::-1], strict=True)]))
    x = {card.node.key: card.x for card in layout.cards}
    order = sorted(low, key=lambda one: x[one.key])
    targets = {one.source: one.target for one in (curve.link for curve in layout.curves)}
    above = [x[targets[one.key]] for one in order]
    assert above == sorted(above)


def test_edges_run_from_card_to_card_and_under_none() -> None:
    layout = place(SAMPLES["circuit"])
    cards = {card.node.key: card for card in layout.cards}
    under = 0
    for curve in layout.curves:
        points = along(curve.path)
        source, target = cards[curve.link.source], cards[curve.link.target]
        assert touches(source, points[0]) and touches(target, points[-1])
        others = [card for key, card in cards.items() if key not in (curve.link.source, curve.link.target)]
        under += any(inside(card, point) for card in others for point in points)
    assert under <= 0.02 * len(layout.curves)


def along(path: str, steps: int = 12) -> list[tuple[float, float]]:
    """Points on a path of M, C and V."""
    at, found = (0.0, 0.0), []
    for letter, text in re.findall(r"([MCV])([^MCV]*)", path):
        v = [float(t) for t in text.split()]
        if letter == "M":
            at = (v[0], v[1])
            found.append(at)
        elif letter == "V":
            found += [(at[0], at[1] + (v[0] - at[1]) * k / steps) for k in range(1, steps + 1)]
            at = (at[0], v[0])
        else:
            a, b, c, d = at, (v[0], v[1]), (v[2], v[3]), (v[4], v[5])
            for k in range(1, steps + 1):
                t, s = k / steps, 1 - k / steps
                w = (s**3, 3 * s * s * t, 3 * s * t * t, t**3)
                found.append(tuple(sum(u * p[i] for u, p in zip(w, (a, b, c, d), strict=True)) for i in (0, 1)))  # type: ignore[arg-type]
            at = d
    return found


def inside(card: Card, point: tuple[float, float]) -> bool:
    return abs(point[0] - card.x) < card.width / 2 - 1 and abs(point[1] - card.y) < card.height / 2 - 1


def touches(card: Card, point: tuple[float, float]) -> bool:
    return abs(point[0] - card.x) <= card.width / 2 and abs(abs(point[1] - card.y) - card.height / 2) < 0.2


def test_widths_follow_the_weights_and_signs_the_colours() -> None:
    links = [link(A, B, -2.0, 5), link(A, node(3, 8), 1.0, 5), link(node(0, 2), B, 0.5, 5, sign_consistency=0.1)]
    drawn = ET.fromstring(picture(of([A, B, node(3, 8), node(0, 2)], links)))
    paths = {p[0].text: p for p in drawn.iter(f"{SVG}path") if p.get("class", "").startswith("link")}
    by_end = {text.split(":")[0]: path for text, path in paths.items() if text}
    widths = {k: float(p.get("stroke-width", "")) for k, p in by_end.items()}
    assert widths["L0/N1 → L3/N7"] == pytest.approx(2 * widths["L0/N1 → L3/N8"], rel=0.01)
    assert by_end["L0/N1 → L3/N7"].get("stroke") != by_end["L0/N1 → L3/N8"].get("stroke")
    assert [k for k, p in by_end.items() if p.get("stroke-dasharray")] == ["L0/N2 → L3/N7"]


def test_larger_influence_makes_a_larger_card() -> None:
    few, much = node(1, 1, "same", influence=0.01), node(1, 2, "same", influence=0.5)
    small, large = place(of([few, much], [])).cards
    assert large.width > small.width and large.height > small.height


def test_a_picture_names_the_edges_that_it_leaves_out() -> None:
    text = picture(SAMPLES["circuit"], max_links=30)
    assert "only the 30 strongest edges are drawn" in text and text.count('class="link ') == 30
    assert "strongest edges are drawn" not in picture(SAMPLES["circuit"])


def test_what_cannot_be_drawn_is_said() -> None:
    with pytest.raises(InputError, match="no nodes"):
        page(of([], []))
    with pytest.raises(InputError, match="has an end that is no node"):
        picture(of([A], [link(A, B, 1.0)]))
    with pytest.raises(InputError, match="only 1 different keys"):
        picture(of([A, A], []))


def test_equal_graphs_give_equal_pages_in_every_process(tmp_path: Path) -> None:
    code = "import sys; sys.path.insert(0, sys.argv[1]); from drawn_graphs import circuit\n"
    code += "from atlas.export.pictures.page import page; sys.stdout.buffer.write(page(circuit()).encode())"
    made = [
        subprocess.run([sys.executable, "-c", code, str(Path(__file__).parent)], env={"PYTHONHASHSEED": seed},
                       capture_output=True, check=True).stdout
        for seed in ("1", "2")
    ]  # fmt: skip
    assert made[0] == made[1] == page(circuit()).encode()


# -- text ---------------------------------------------------------------------------------------------------------


class Elements(HTMLParser):
    """Counts of the elements of a page, and every attribute that would load or run something."""

    def __init__(self) -> None:
        super().__init__()
        self.count: dict[str, int] = {}
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.count[tag] = self.count.get(tag, 0) + 1
        bad = {"src", "href", "xlink:href", "action", "srcset", "data", "style"}
        self.loads += [f"{tag} {name}={value}" for name, value in attrs if name in bad or name.startswith("on")]


@pytest.mark.parametrize("name", ["hostile", "circuit"])
def test_a_page_holds_everything_and_loads_nothing(name: str) -> None:
    text = page(SAMPLES[name])
    found = Elements()
    found.feed(text)
    assert found.loads == []
    assert found.count["script"] == 2 and found.count["style"] == 1 and "img" not in found.count
    assert "default-src 'none'" in text and ("{{" in text) == (name == "hostile")
    assert not re.search(r"url\((?!#)|@import|https?://(?!www\.w3\.org)", text)
    data = json.loads(re.search(r'<script id="data"[^>]*>(.*?)</script>', text, re.S)[1])  # type: ignore[index]
    assert len(data["nodes"]) == len(SAMPLES[name].nodes) and len(data["links"]) == len(SAMPLES[name].links)


@pytest.mark.parametrize("name", SAMPLES)
def test_svg_is_valid_xml_with_every_label(name: str) -> None:
    root = ET.fromstring(picture(SAMPLES[name]))
    titles = [
        t.text or ""
        for g in root.iter(f"{SVG}g")
        if "node" in g.get("class", "").split()
        for t in g
        if t.tag == f"{SVG}title"
    ]
    assert len(titles) == len(SAMPLES[name].nodes)
    for one, title in zip(SAMPLES[name].nodes, titles, strict=True):
        assert title.startswith(lettering.caption(one))
    assert {e.tag.removeprefix(SVG) for e in root.iter()} <= {
        "svg",
        "rect",
        "g",
        "path",
        "text",
        "title",
        "defs",
        "marker",
    }


def test_tokens_show_their_spaces_and_texts_what_is_invisible() -> None:
    assert lettering.caption(Node("E:1", "embedding", token_id=1, token=" doctor")) == "“␣doctor”"
    assert lettering.caption(Node("E:1", "embedding", token_id=1, token="\n")) == "“\\n”"
    assert lettering.caption(node(1, 2, "  ")) == "L1/N2"
    assert lettering.visible("\u202eabc") == "\\u202eabc"


def test_lines_are_cut_by_an_ellipsis_at_their_width() -> None:
    lines = lettering.wrapped("fires on dogs, cats and other animals of the house", 90, size=11, lines=2)
    assert len(lines) == 2 and lines[1].endswith("…") and all(lettering.width_of(x, 11) <= 90 for x in lines)
    assert lettering.wrapped("short", 90, size=11, lines=2) == ("short",)
    assert lettering.wrapped("", 90, size=11, lines=2) == ("",)


# -- files --------------------------------------------------------------------------------------------------------


def test_files_are_whole_or_as_they_were(tmp_path: Path) -> None:
    old = tmp_path / "old.svg"
    old.write_text("old")
    with pytest.raises(InputError, match="no nodes"):
        write_pictures(of([], []), {"svg": old})
    with pytest.raises(InputError, match="asked for as html and as svg"):
        write_pictures(SAMPLES["circuit"], {"html": old, "svg": tmp_path / "x" / ".." / "old.svg"})
    with pytest.raises(InputError, match="no form 'pdf'"):
        write_pictures(SAMPLES["circuit"], {"svg": old, "pdf": tmp_path / "new.pdf"})
    with pytest.raises(InputError, match="is a folder"):
        write_pictures(SAMPLES["circuit"], {"svg": tmp_path})
    with pytest.raises(InputError, match=r"cannot write .* is a file, expected a folder"):
        write_pictures(SAMPLES["circuit"], {"svg": old / "new.svg"})
    with pytest.raises(InputError, match="cannot write /proc/"):
        write_pictures(SAMPLES["circuit"], {"html": Path("/proc/none/new.html")})
    assert old.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["old.svg"]
    write_pictures(SAMPLES["circuit"], {"svg": old, "html": tmp_path / "new.html"})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["new.html", "old.svg"]
    assert old.read_text().startswith("<svg ")


# -- png ----------------------------------------------------------------------------------------------------------


def pixels(png: bytes) -> tuple[int, int, list[bytes]]:
    """Width, height and rows of an 8-bit RGBA PNG, decoded here."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    at, packed, size = 8, b"", (0, 0)
    while at < len(png):
        length, kind = struct.unpack(">I4s", png[at : at + 8])
        body = png[at + 8 : at + 8 + length]
        if kind == b"IHDR":
            size = struct.unpack(">II", body[:8])
            assert body[8:10] == b"\x08\x06"
        packed += body if kind == b"IDAT" else b""
        at += 12 + length
    raw, stride, rows = zlib.decompress(packed), size[0] * 4, []
    before = bytes(stride)
    for y in range(size[1]):
        at = y * (stride + 1)
        before = unfiltered(raw[at], bytearray(raw[at + 1 : at + 1 + stride]), before)
        rows.append(before)
    return size[0], size[1], rows


def unfiltered(method: int, line: bytearray, before: bytes) -> bytes:
    """One row of a PNG: filter methods 0 to 4 of its specification."""
    for i, up in enumerate(before):
        left, corner = (line[i - 4], before[i - 4]) if i > 3 else (0, 0)
        if method == 4:
            by_left, by_up, by_corner = abs(up - corner), abs(left - corner), abs(left + up - 2 * corner)
            guess = left if by_left <= by_up and by_left <= by_corner else up if by_up <= by_corner else corner
        else:
            guess = (0, left, up, (left + up) // 2)[method]
        line[i] = (line[i] + guess) & 255
    return bytes(line)


def test_a_png_shows_edges_cards_and_text(tmp_path: Path) -> None:
    pytest.importorskip("resvg_py", reason="resvg_py is not installed (extra: pictures)")
    graph = of([A, B, node(3, 8, "birds")], [link(A, B, 2.0), link(A, node(3, 8), -2.0)])
    write_pictures(graph, {"png": tmp_path / "a.png", "svg": tmp_path / "a.svg"})
    width, height, rows = pixels((tmp_path / "a.png").read_bytes())
    root = ET.fromstring((tmp_path / "a.svg").read_text())
    assert (width, height) == (2 * int(root.get("width", "")), 2 * int(root.get("height", "")))
    moved = next(g.get("transform") for g in root.iter(f"{SVG}g") if g.get("transform"))
    dx, dy = (float(v) for v in re.findall(r"-?[\d.]+", moved or ""))
    layout = place(graph)
    for curve in layout.curves:
        middle = along(curve.path)[6]
        red, _, blue, _ = at(rows, middle[0] + dx, middle[1] + dy)
        assert (blue - red) * curve.link.mean_weight > 120
    for card in layout.cards:
        ink = sum(dark(at(rows, x / 2 + dx, y / 2 + dy)) for x, y in points(card))
        assert 40 < ink < 0.5 * len(points(card)), card.node.key
    assert sum(dark(at(rows, x / 2, y / 2)) for x in range(24, 240) for y in range(16, 70)) > 100  # the title
    corner, blank = at(rows, 3, 60), at(rows, dx + layout.width - 8, dy + 3)
    assert min(corner) > 240 and min(blank) > 240


def at(rows: list[bytes], x: float, y: float) -> tuple[int, int, int, int]:
    x, y = int(x * 2), int(y * 2)
    r, g, b, a = rows[y][x * 4 : x * 4 + 4]
    return r, g, b, a


def dark(pixel: tuple[int, int, int, int]) -> bool:
    return sum(pixel[:3]) < 300


def points(card: Card) -> list[tuple[int, int]]:
    """Pixels (half a px apart) of the inside of a card."""
    xs = range(int(2 * (card.x - card.width / 2 + 4)), int(2 * (card.x + card.width / 2 - 4)))
    ys = range(int(2 * (card.y - card.height / 2 + 4)), int(2 * (card.y + card.height / 2 - 4)))
    return [(x, y) for x in xs for y in ys]


def test_a_png_without_its_package_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    with pytest.raises(InputError, match=r"atlas-neurons\[pictures\]"):
        write_pictures(SAMPLES["circuit"], {"png": tmp_path / "a.png", "html": tmp_path / "a.html"})
    assert list(tmp_path.iterdir()) == []


def test_every_hostile_text_is_on_its_page() -> None:
    text = page(hostile())
    assert len(HOSTILE) == len({lettering.visible(t) for t in HOSTILE})
    assert isinstance(hostile(), Subgraph) and "turned round" in text and "שלום" in text
