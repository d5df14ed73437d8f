"""Pages in headless Chromium: the console stays silent, every control works, hostile text stays text."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import pytest
from drawn_graphs import SAMPLES, link, node, of

from atlas.export.pictures import lettering
from atlas.export.pictures.page import page

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
USE = f"<script>{Path(__file__).with_name('use_page.js').read_text()}</script>"


def browse(text: str, folder: Path) -> tuple[str, list[str]]:
    """The page's DOM after its scripts have run, and what the console said."""
    if CHROMIUM is None:
        pytest.skip("no chromium on PATH")
    file = folder / "page.html"
    file.write_text(text, encoding="utf-8")
    done = subprocess.run(
        [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1400,1000",
         "--enable-logging=stderr", "--v=0", f"--user-data-dir={folder / 'profile'}", "--dump-dom", file.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.parametrize("name", [name for name in SAMPLES if name != "one layer"])
def test_pages_run_in_a_browser_without_a_word_on_the_console(name: str, tmp_path: Path) -> None:
    graph = SAMPLES[name]
    dom, said = browse(page(graph).replace("</body>", USE + "</body>"), tmp_path)
    assert said == []
    assert 'data-ready="true"' in dom and "data-hacked" not in dom
    log = logged(dom)
    shown, links = min(len(graph.links), max(80, min(2 * len(graph.nodes), 400))), len(graph.links)
    assert log["start"] == f"0,{links - shown}"
    assert log["none"] == f"0,{links}" and log["all"] == "0,0" and log["escaped"] == f"0,{links - shown}"
    assert log["images"] == 0 and log["tabled"] == [min(len(graph.nodes), 300), min(links, 300)]
    assert log["card"] == lettering.caption(graph.nodes[0])


def logged(dom: str) -> dict[str, object]:
    found = re.search(r'data-log="([^"]*)"', dom)
    assert found, "the test's own script did not end"
    value = json.loads(unescape(found[1]))
    assert isinstance(value, dict)
    return value


def test_a_click_highlights_what_is_up_and_down_stream_and_tables_sort(tmp_path: Path) -> None:
    a, b, c, d, e = node(0, 1, "cats"), node(1, 2, "dogs"), node(2, 3), node(0, 4), node(2, 5)
    graph = of([a, b, c, d, e], [link(a, b, 2.0), link(b, c, -3.0), link(d, e, 1.5), link(d, b, 0.1)])
    dom, said = browse(page(graph).replace("</body>", USE + "</body>"), tmp_path)
    log = logged(dom)
    assert said == []
    assert log["picked"] == "3,0"  # a -> b -> c, not d or e
    assert log["card"] == "cats" and log["cardLinks"] == 1
    assert log["found"] == ["dogs"]
    assert log["falling"] == ["+2", "+1.5", "+0.1", "−3"] and log["rising"] == ["−3", "+0.1", "+1.5", "+2"]


def test_faults_in_a_page_would_be_seen(tmp_path: Path) -> None:
    """An uncaught exception, a word on the console, and something loaded that the page's policy forbids."""
    faults = "console.error('bad'); setTimeout(() => nodes[0].missing.part); fetch('x.json').catch(() => {});"
    _, said = browse(page(SAMPLES["one node"]).replace("limit(data.start);", faults), tmp_path)
    for word in ("bad", "Uncaught TypeError", "Content Security Policy"):
        assert any(word in line for line in said), word
