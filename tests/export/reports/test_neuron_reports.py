"""Pages of neurons: what they show against the single-neuron answers, inert markup, reruns, refusals."""

from __future__ import annotations

import json
import re
import resource
import shutil
import subprocess
import sys
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
from atlas.export.reports.dashboard import dashboard
from atlas.export.reports.page import neuron_page, page_name
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
                ("logit_lens", card.logit_lens), ("read_tokens", card.read_tokens),
                ("edges_in", card.edges_in), ("edges_out", card.edges_out),
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


def sections(text: str) -> dict[str, str]:
    """Text of every box by its heading, the heading left out."""
    found = re.findall(r"<section\b[^>]*>(.*?)</section>", text, re.DOTALL)
    heads = [re.search(r"<h2[^>]*>(.*?)</h2>", one, re.DOTALL) for one in found]
    assert all(heads)
    return {unescape(head[1]): one.replace(head[0], "") for head, one in zip(heads, found, strict=True) if head}


def words_of(html: str) -> str:
    return " ".join(" ".join(Page(html).words).split())


def test_an_atlas_with_nothing_but_neurons_has_pages(tmp_path: Path) -> None:
    tables = {"neurons": small_tables()["neurons"]}
    for row in tables["neurons"]:
        row |= {"label": None, "description": None, "cluster_path": None, "max_activation": None}
    with atlas.open(write_atlas(tmp_path / "a.duckdb", tables)) as opened:
        assert write_reports(opened, tmp_path / "out", ReportPlan([0, 5])).pages == 2
    text = (tmp_path / "out" / "html" / "L0_N0.html").read_text()
    assert Page(text).faults == [] and list(sections(text)) == ["Not in this atlas", "Where this comes from"]
    document = json.loads((tmp_path / "out" / "json" / "L0_N0_dashboard.json").read_text())
    jsonschema.validate(document, SCHEMA)
    assert len(document["missing"]) == 10 and document["activation"] is None


@pytest.mark.parametrize(
    ("table", "boxes", "told"),
    [
        ("labels", ["Labels"], 'labels: "atlas label rules" makes some'),
        (
            "exemplars",
            ["Texts that fire it", "Texts that drive it negative"],
            "texts that fire neurons: a build with a",
        ),
        ("logit_lens", ["Writes"], "(logit lens): a build measures them from the weights"),
        ("read_tokens", ["Reads"], "tokens that neurons read: a build"),
        ("token_stats", ["Tokens, positive", "Tokens, negative"], "tokens that fire neurons: a build"),
        ("wiring", ["Wiring"], "wiring: a build"),
        ("edges", ["Fed by (0)", "Feeds (0)", "Similar edges"], "edges: a build makes them from attribution graphs"),
        ("clusters", ["Module"], 'modules: "atlas cluster ATLAS" finds them'),
        ("neuron_stats", ["Activation"], "activation statistics: a build"),
    ],
    ids=lambda value: value if isinstance(value, str) and " " not in value else "",
)
def test_what_the_atlas_lacks_is_said_and_has_no_box(tmp_path: Path, table: str, boxes: list[str], told: str) -> None:
    with atlas.open(write_atlas(tmp_path / "a.duckdb", small_tables())) as opened:
        write_reports(opened, tmp_path / "whole", ReportPlan([0]))
    with atlas.open(write_atlas(tmp_path / "b.duckdb", small_tables() | {table: []})) as opened:
        write_reports(opened, tmp_path / "out", ReportPlan([0]))
    whole = sections((tmp_path / "whole" / "html" / "L0_N0.html").read_text())
    found = sections((tmp_path / "out" / "html" / "L0_N0.html").read_text())
    assert {re.sub(r"\d+", "0", name) for name in whole.keys() - found.keys()} == set(boxes)
    assert "Not in this atlas" not in whole and told in words_of(found["Not in this atlas"])
    document = json.loads((tmp_path / "out" / "json" / "L0_N0_dashboard.json").read_text())
    jsonschema.validate(document, SCHEMA)
    assert [one["table"] for one in document["missing"]] == [table]


def test_no_box_is_empty(a: atlas.Atlas, tmp_path: Path) -> None:
    """Also of neurons of which hardly anything is known, in an atlas that knows it of others."""
    write_reports(a, tmp_path, ReportPlan(range(24), ["1", "2"]))
    for path in (tmp_path / "html").iterdir():
        for name, inner in sections(path.read_text()).items():
            assert words_of(inner) or "<svg" in inner, (path.name, name)


def test_a_neuron_without_activations(tmp_path: Path) -> None:
    tables = small_tables()
    gone = (0, 3)
    for name in ("neuron_stats", "exemplars", "token_stats"):
        tables[name] = [row for row in tables[name] if (row["layer"], row["neuron"]) != gone]
    dead = next(row for row in tables["neuron_stats"] if (row["layer"], row["neuron"]) == (0, 4))
    names = ("s1", "s2", "s3", "s4", "abs_sum", "min", "max", "hist_lo", "hist_hi")
    dead |= dict.fromkeys(names, 0.0) | {"n_active": 0, "hist": [0] * 66, "fire_pos": None, "fire_neg": None}
    with atlas.open(write_atlas(tmp_path / "a.duckdb", tables)) as opened:
        write_reports(opened, tmp_path / "out", ReportPlan([3, 4]))
    boxes = sections((tmp_path / "out" / "html" / "L0_N3.html").read_text())
    assert "No activations of it were measured." in boxes["Activation"] and "None kept." in boxes["Texts that fire it"]
    assert "No strong firing of this sign was counted." in boxes["Tokens, positive"]
    never = sections((tmp_path / "out" / "html" / "L0_N4.html").read_text())["Activation"]
    assert "<svg" not in never and "It was 0 at all 800 positions." in words_of(never) and "nan" not in never
    for name in ("L0_N3", "L0_N4"):
        text = (tmp_path / "out" / "json" / f"{name}_dashboard.json").read_text()
        jsonschema.validate(json.loads(text, parse_constant=pytest.fail), SCHEMA)


def test_read_tokens_are_those_of_the_atlas(a: atlas.Atlas, tmp_path: Path) -> None:
    write_reports(a, tmp_path, ReportPlan([0, 9]))
    document = json.loads((tmp_path / "json" / "L0_N0_dashboard.json").read_text())
    rows = a.neuron("L0/N0").read_tokens.rows()
    found = {
        (part.partition("_")[0], -1 if part.endswith("negative") else 1, row["token_id"]): row["value"]
        for part, listed in document["read_tokens"].items() for row in listed
    }  # fmt: skip
    assert found == {(row["part"], row["polarity"], row["token_id"]): row["value"] for row in rows} and len(found) == 4
    box = sections((tmp_path / "html" / "L0_N0.html").read_text())["Reads"]
    assert re.findall(r"<h3>(.*?)</h3>", box) == ["open its gate", "push it up", "push it down"]
    for row in rows:
        assert f"“{row['token'].replace(' ', '␣')}”" in box and f"{row['value']:+.3g} of the pre-activation" in box
    assert "Its read tokens were not measured." in sections((tmp_path / "html" / "L1_N1.html").read_text())["Reads"]


ODD = "a\x00b\x1b[31m\u202ec\u2066d\u200be\ufefff\x85\u2028 \\xe2\\x80 é"


def test_text_that_is_no_plain_text_is_shown_visibly(tmp_path: Path) -> None:
    """Control and bidi characters and escaped bytes wherever the atlas holds text, on pages, in JSON and the index."""
    tables = small_tables()
    for name, columns in (
        ("neurons", ("label", "description", "input_label")), ("clusters", ("label",)), ("vocab", ("token",)),
        ("labels", ("label", "type", "interpretability", "source", "model", "description")),
        ("pruning", ("score_method",)), ("impacts", ("reason",)),
    ):  # fmt: skip
        for row in tables[name]:
            row.update(dict.fromkeys(columns, ODD))
    with atlas.open(write_atlas(tmp_path / "a.duckdb", tables, corpora=ODD)) as opened:
        write_reports(opened, tmp_path / "out", ReportPlan(range(12), ["1"]))
    for path in (tmp_path / "out").rglob("*.html"):
        text = path.read_bytes().decode()
        assert Page(text).faults == [] and not re.search(
            "[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066\u200b\ufeff]", text
        )
        assert "\\u202ec\\u2066d\\u200be" in text
    for path in (tmp_path / "out").rglob("*.json"):
        document = json.loads(path.read_bytes().decode())
        assert "\0" not in str(document) and "a\\\\x00b" in json.dumps(document, ensure_ascii=False)
        if "L" in path.name:
            jsonschema.validate(document, SCHEMA)


def test_half_of_a_surrogate_pair_is_spelled_out(a: atlas.Atlas) -> None:
    """An atlas cannot hold one, other sources of panels can."""
    (found,) = panels(a, [0])
    found.about["label"] = found.lists["exemplars"][0]["tokens"][0] = "x\ud83d"
    document = dashboard(found, a)
    assert document["label"] == "x\\ud83d" == document["exemplars"]["positive"][0]["tokens"][0]
    text = neuron_page(document, layers=3)
    assert "x\\ud83d" in text and text.encode() and json.dumps(document, ensure_ascii=False).encode()


def test_neurons_that_are_not_listed_are_refused(tmp_path: Path) -> None:
    tables = {"neurons": [row for row in small_tables()["neurons"] if row["feature_id"] not in (5, 9)]}
    refused = pytest.raises(InputError, match=r"2 of 12 neurons are not in a\.duckdb, the first L0/N5")
    with atlas.open(write_atlas(tmp_path / "a.duckdb", tables)) as opened, refused:
        write_reports(opened, tmp_path / "out", ReportPlan(range(12)))
    assert not (tmp_path / "out").exists()


def test_tokens_without_a_text(tmp_path: Path) -> None:
    tables = small_tables()
    tables["vocab"] = [row for row in tables["vocab"] if row["token_id"] != 5]
    tables["vocab"][1]["token"] = ""
    with atlas.open(write_atlas(tmp_path / "a.duckdb", tables)) as opened:
        write_reports(opened, tmp_path / "out", ReportPlan([0]))
    boxes = sections((tmp_path / "out" / "html" / "L0_N0.html").read_text())
    assert "&lt;token 5&gt;" in boxes["Writes"] and "(empty)" in boxes["Writes"] and "(empty)" in boxes["Reads"]


def test_a_full_disk_is_one_line_and_a_rerun_ends_it(tmp_path: Path, drawn: Path) -> None:  # noqa: F811
    words = [sys.executable, "-m", "atlas", "report", "--top", "12", "--atlas", str(drawn), "-o", str(tmp_path / "out")]
    assert subprocess.run([*words, "-q"], check=True, capture_output=True).returncode == 0
    pages = sorted((tmp_path / "out" / "html").iterdir(), key=lambda path: path.stat().st_size)
    whole, limit = {path: path.read_bytes() for path in pages}, pages[len(pages) // 2].stat().st_size
    for path in (tmp_path / "out").rglob("*.html"):
        path.write_text("old")
    done = subprocess.run(
        [*words, "-q"], capture_output=True, text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )  # fmt: skip
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("atlas: cannot write ") and "free some space, or give another -o" in done.stderr
    assert all(path.read_bytes() in (b"old", whole[path]) for path in pages)
    assert not [path for path in (tmp_path / "out").rglob(".*")]
    subprocess.run([*words, "-q"], check=True, capture_output=True)
    assert {path: path.read_bytes() for path in pages} == whole


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
    code, out, err = run_cli(capsys, "report", "--top", "5", "L2/N3", "-q")
    assert "note: pages show no wiring: a build measures them from the weights" in err and "no labels" not in err
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


def test_pages_in_a_browser_are_quiet(a: atlas.Atlas, tmp_path: Path) -> None:
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("no chromium on PATH")
    write_reports(a, tmp_path / "out", ReportPlan([0], ["1"]))
    for name, title in (("L0_N0", "L0/N0 dog words"), ("C1", "Module 1 animals")):
        file = tmp_path / "out" / "html" / f"{name}.html"
        done = subprocess.run(
            [chromium, "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0",
             f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", file.as_uri()],
            capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip
        assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
        assert f"<title>{title}</title>" in done.stdout


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
