"""Pages of neurons: what they show against the single-neuron answers, inert markup, reruns, refusals."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from synthetic import drawn, random_tables, small, small_tables, write_atlas  # noqa: F401

import atlas
from atlas import InputError
from atlas.cli import main as cli
from atlas.export.reports import panels as panels_module
from atlas.export.reports.page import page_name
from atlas.export.reports.panels import panels
from atlas.export.reports.write import ReportPlan, write_reports
from atlas.query import similar_edges
from atlas.query.similar_edges import SimilarByEdges

SCHEMA = json.loads(Path(__file__).with_name("neuron_dashboard.schema.json").read_text())
HOSTILE = '</style><script>document.title="hacked"</script><img src=x onerror=alert(1)> & "quoted" \u202e'
_VOID = {"meta", "link", "br", "img", "input", "hr"}


@pytest.fixture(scope="module")
def big(drawn: Path) -> Iterator[atlas.Atlas]:  # noqa: F811
    with atlas.open(drawn) as opened:
        yield opened


@pytest.fixture(scope="module")
def a(small: Path) -> Iterator[atlas.Atlas]:  # noqa: F811
    with atlas.open(small) as opened:
        yield opened


class Page(HTMLParser):
    """Tags that do not nest, and every attribute that could load or run something."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.faults: list[str] = []
        self.links: list[str] = []
        self.scripts = 0
        self.words: list[str] = []
        self.feed(text)
        self.close()
        self.faults += [f"<{tag}> is not closed" for tag in self.open]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        for name, value in attrs:
            if name in ("src", "srcset", "action", "data", "poster") or name.startswith("on"):
                self.faults.append(f"<{tag} {name}>")
            if name == "href":
                self.links.append(value or "")
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in _VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}> closes nothing")

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)


def test_every_panel_is_the_answer_for_that_neuron_alone(big: atlas.Atlas, a: atlas.Atlas) -> None:
    for opened in (big, a):
        ids = list(range(opened.layers * opened.d_mlp))
        for found in panels(opened, ids, k=4, similar=3):
            card = opened.neuron(found.id, k=4)
            assert {**found.about} == card.about
            for name, answer in (
                ("labels", card.labels), ("tokens", card.top_tokens), ("exemplars", card.exemplars),
                ("logit_lens", card.logit_lens), ("edges_in", card.edges_in), ("edges_out", card.edges_out),
                ("wiring", card.wiring), ("pruning", card.pruning), ("impacts", card.impacts),
            ):  # fmt: skip
                assert found.lists[name] == answer.rows(), (found.id, name)


def test_large_atlases_are_asked_one_by_one_with_the_same_result(
    big: atlas.Atlas, monkeypatch: pytest.MonkeyPatch
) -> None:
    joined = list(panels(big, range(40), k=3))
    monkeypatch.setattr(panels_module, "_JOINED", 0)
    monkeypatch.setattr(similar_edges, "MOST_EDGES", 0)
    assert list(panels(big, range(40), k=3)) == joined


def test_similar_neurons_are_those_of_the_macro(big: atlas.Atlas, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = range(big.layers * big.d_mlp)
    at_once = SimilarByEdges(big).nearest(ids, 6)
    for one in ids:
        rows = big.similar(one, by="both", k=6).rows()
        assert len(rows) == len(at_once[one])
        for ours, theirs in zip(at_once[one], rows, strict=True):
            assert (ours["layer"], ours["neuron"], ours["shared"]) == (
                theirs["layer"],
                theirs["neuron"],
                theirs["shared"],
            )
            assert ours["cosine"] == pytest.approx(theirs["cosine"], abs=1e-11)
            assert ours["jaccard"] == pytest.approx(theirs["jaccard"], abs=1e-12)


def test_what_is_written(big: atlas.Atlas, tmp_path: Path) -> None:
    ids = list(range(0, 200, 7))
    done = write_reports(big, tmp_path / "out", ReportPlan(ids, ["1", "1.2"]))
    assert (done.pages, done.written, done.unchanged) == (len(ids) + 2, len(ids) + 2, 0)
    names = {page_name(*divmod(one, big.d_mlp)) for one in ids}
    assert {path.stem for path in (tmp_path / "out" / "html").iterdir()} == names | {"C1", "C1.2"}
    for name in names:
        document = json.loads((tmp_path / "out" / "json" / f"{name}_dashboard.json").read_text())
        jsonschema.validate(document, SCHEMA)
        assert page_name(document["layer"], document["neuron"]) == name
    index = json.loads((tmp_path / "out" / "index.json").read_text())
    assert {entry["file"] for entry in index["reports"]} == names | {"C1", "C1.2"}


def test_pages_are_sound_and_load_nothing(big: atlas.Atlas, tmp_path: Path) -> None:
    write_reports(big, tmp_path, ReportPlan(range(60), ["1"]))
    pages = sorted((tmp_path / "html").iterdir())
    for path in pages:
        text = path.read_text()
        page = Page(text)
        assert page.faults == [] and page.scripts == 0, path.name
        assert "default-src 'none'" in text and "script-src" not in text
        for link in page.links:
            assert not link.startswith(("http", "//")) and (path.parent / link).resolve().is_file(), link
    assert sum(len(Page(path.read_text()).links) > 1 for path in pages) > 30  # neighbours are linked
    index = Page((tmp_path / "index.html").read_text())
    assert index.faults == [] and index.scripts == 1
    assert all((tmp_path / link).is_file() for link in index.links) and len(index.links) == 61


def test_a_page_says_what_the_atlas_says(a: atlas.Atlas, tmp_path: Path) -> None:
    write_reports(a, tmp_path, ReportPlan([a.id_of("L1/N2")]))
    words = " ".join(" ".join(Page((tmp_path / "html" / "L1_N2.html").read_text()).words).split())
    card = a.neuron("L1/N2", k=10)
    for row in card.edges_in.rows() + card.edges_out.rows():
        assert f"L{row['layer']}/N{row['neuron']}" in words and f"{row['mean_weight']:+.3g}" in words
    for row in card.labels.rows():
        assert (row["label"] or row["status"]) in words
    for row in card.top_tokens.rows():
        assert f"“{row['token'].replace(' ', '␣')}”" in words


def test_text_of_the_atlas_stays_text(tmp_path: Path) -> None:
    tables = small_tables()
    for row in tables["neurons"]:
        row["label"] = row["description"] = HOSTILE
    for row in tables["labels"]:
        row["label"] = row["description"] = row["source"] = HOSTILE
    for row in tables["vocab"]:
        row["token"] = HOSTILE
    for row in tables["clusters"]:
        row["label"] = HOSTILE
    file = write_atlas(tmp_path / "h.duckdb", tables, model=HOSTILE, corpora=HOSTILE)
    with atlas.open(file) as opened:
        done = write_reports(opened, tmp_path / "out", ReportPlan(range(12), ["1"]))
        assert done.pages == 13
    for path in [*(tmp_path / "out" / "html").iterdir(), tmp_path / "out" / "index.html"]:
        page = Page(path.read_text())
        assert page.faults == [] and page.scripts == (path.name == "index.html")
        assert not any(link.startswith("x") for link in page.links)
        assert "\u202e" not in path.read_text()


def test_a_rerun_writes_what_changed(tmp_path: Path) -> None:
    tables = random_tables(3)
    file = write_atlas(tmp_path / "a.duckdb", tables, layers=5, d_mlp=40)
    plan = ReportPlan(range(30), similar=0)

    def run() -> tuple[int, int]:
        with atlas.open(file) as opened:
            done = write_reports(opened, tmp_path / "out", plan)
        return done.written, done.unchanged

    assert run() == (30, 0)
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert run() == (0, 30)
    assert {path: path.stat().st_mtime_ns for path in times} == times
    for row in tables["pruning"]:
        if (row["layer"], row["neuron"]) == (0, 4):
            row["importance"] = 123.0
    write_atlas(file, tables, layers=5, d_mlp=40)
    assert run() == (1, 29)
    changed = {path.name for path, before in times.items() if path.stat().st_mtime_ns != before}
    assert changed == {"L0_N4.html", "L0_N4_dashboard.json"}


def test_the_index_covers_earlier_runs(big: atlas.Atlas, tmp_path: Path) -> None:
    write_reports(big, tmp_path, ReportPlan([3]))
    write_reports(big, tmp_path, ReportPlan([99], ["2"]))
    files = [entry["file"] for entry in json.loads((tmp_path / "index.json").read_text())["reports"]]
    assert files == ["C2", "L0_N3", "L2_N19"]
    (tmp_path / "html" / "L0_N3.html").unlink()
    write_reports(big, tmp_path, ReportPlan([100]))
    files = [entry["file"] for entry in json.loads((tmp_path / "index.json").read_text())["reports"]]
    assert files == ["C2", "L2_N19", "L2_N20"]


def test_folders_of_something_else_are_refused(a: atlas.Atlas, big: atlas.Atlas, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file, expected a folder"):
        write_reports(a, tmp_path / "file", ReportPlan([1]))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="is not empty and holds no reports"):
        write_reports(a, tmp_path / "full", ReportPlan([1]))
    write_reports(a, tmp_path / "full", ReportPlan([1], force=True))
    assert (tmp_path / "full" / "mine.txt").read_text() == "mine"
    other = write_atlas(tmp_path / "o.duckdb", small_tables(), model="other")
    with atlas.open(other) as opened, pytest.raises(InputError, match="holds reports of toy, this atlas is of other"):
        write_reports(opened, tmp_path / "full", ReportPlan([1]))


def test_an_atlas_with_nothing_but_neurons_has_pages(tmp_path: Path) -> None:
    tables = {"neurons": small_tables()["neurons"]}
    for row in tables["neurons"]:
        row |= {"label": None, "description": None, "cluster_path": None, "max_activation": None}
    with atlas.open(write_atlas(tmp_path / "a.duckdb", tables)) as opened:
        assert write_reports(opened, tmp_path / "out", ReportPlan([0, 5])).pages == 2
    page = Page((tmp_path / "out" / "html" / "L0_N0.html").read_text())
    assert page.faults == [] and "No activations were measured." in " ".join(page.words)
    jsonschema.validate(json.loads((tmp_path / "out" / "json" / "L0_N0_dashboard.json").read_text()), SCHEMA)


def run_cli(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        cli.main(list(arguments))
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), out, err


def test_the_command(
    capsys: pytest.CaptureFixture[str],
    drawn: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ATLAS_FILE", str(drawn))
    code, out, _ = run_cli(capsys, "report", "--top", "5", "L2/N3", "-q")
    assert code == 0 and re.match(r"neuron_reports/index\.html  [56] pages, [56] written, 0 unchanged", out)
    assert (tmp_path / "neuron_reports" / "html" / "L2_N3.html").is_file()
    code, out, _ = run_cli(capsys, "report", "--cluster", "2.1", "-o", "m", "-q")
    with atlas.open(drawn) as opened:
        members = opened.select("cluster:2.1")
    assert code == 0 and f"{len(members) + 1} pages" in out and (tmp_path / "m" / "html" / "C2.1.html").is_file()
    for arguments, message in (
        ((), "nothing to report: give neurons"),
        (("L99/N0",), "out of range"),
        (("--cluster", "77"), "77"),
        (("label:nothing like it",), "no neuron matches"),
    ):
        code, _, err = run_cli(capsys, "report", *arguments, "-o", "n")
        assert code == 2 and message in err and not (tmp_path / "n").exists()


USE = """<script>
const form = document.querySelector("form"), log = {};
const rows = () => [...document.querySelectorAll("#neurons tbody tr")].filter((row) => !row.hidden);
const visible = () => rows().map((row) => row.cells[0].textContent);
const set = (name, value) => {
  form[name].value = value;
  form.dispatchEvent(new Event("input", { bubbles: true }));
};
const press = (n) => document.querySelectorAll("#neurons th button")[n].click();
log.all = visible(); set("layer", "2"); log.layer = visible(); set("layer", "");
set("text", "dog cat"); log.text = visible(); set("text", "");
set("module", "3"); log.module = visible(); set("module", "");
press(6); log.high = visible(); press(6); log.low = visible(); press(0); log.id = visible();
log.told = form.querySelector("output").textContent;
document.body.dataset.log = JSON.stringify(log);
</script>"""


def test_the_index_searches_sorts_and_filters(big: atlas.Atlas, tmp_path: Path) -> None:
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("no chromium on PATH")
    write_reports(big, tmp_path / "out", ReportPlan(range(0, 200, 3), similar=0))
    entries = json.loads((tmp_path / "out" / "index.json").read_text())["reports"]
    file = tmp_path / "out" / "index.html"
    file.write_text(file.read_text().replace("</body>", USE + "</body>"))
    done = subprocess.run(
        [chromium, "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0",
         f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", file.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
    found = re.search(r'data-log="([^"]*)"', done.stdout)
    assert found, "the test's own script did not end"
    log: dict[str, Any] = json.loads(unescape(found[1]))
    assert log["all"] == [one["id"] for one in entries] == log["id"]
    assert log["layer"] == [one["id"] for one in entries if one["layer"] == 2]
    assert log["text"] == [one["id"] for one in entries if {"dog", "cat"} <= set((one["label"] or "").split())] != []
    assert log["module"] == [one["id"] for one in entries if (one["module"] or "").split(".")[0] == "3"] != []
    scores = {one["id"]: one["pruning_score"] for one in entries}
    assert [scores[one] for one in log["high"]] == sorted(scores.values(), reverse=True)
    assert [scores[one] for one in log["low"]] == sorted(scores.values())
    assert log["told"] == f"{len(entries)} of {len(entries)}"
