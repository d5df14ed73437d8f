"""Rows in a stream: those of the JSON, in every form; also when a client goes, or an atlas is replaced meanwhile."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow.ipc
import pytest
from served import Served, serving
from synthetic import edge_sums, random_tables, write_atlas

from atlas.query.answer import Answer
from atlas.query.atlas import Atlas
from atlas.server.answers import JSON, Reading, Streamed, View, choose, notes_header

LINES, CSV, ARROW = "application/x-ndjson", "text/csv", "application/vnd.apache.arrow.stream"
LAYERS, D_MLP, EDGES = 5, 120, 40_000


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server over 40,000 edges: 17 MB as lines, more than sockets hold."""
    with serving(large(tmp_path_factory.mktemp("stream") / "large.duckdb")) as found:
        yield found


def large(path: Path) -> Path:
    """A drawn atlas with many edges."""
    dice, tables = random.Random(0), random_tables(0, LAYERS, D_MLP)
    pairs = [(s, t) for s in range(LAYERS * D_MLP) for t in range(LAYERS * D_MLP) if s // D_MLP < t // D_MLP]
    tables["edges"] = [
        {"src": s, "tgt": t, "src_layer": s // D_MLP, "src_neuron": s % D_MLP, **edge_sums([dice.gauss(0, 1)])}
        for s, t in sorted(dice.sample(pairs, EDGES))
    ]
    tables["edges_top"] = []
    return write_atlas(path, tables, layers=LAYERS, d_mlp=D_MLP)


def get(served: Served, path: str, kind: str, **given: Any) -> Any:
    return served.client.get(f"/api/v1{path}", params=given, headers={"accept": kind})


@pytest.mark.parametrize(
    ("path", "given"),
    [
        ("/edges", {"limit": 30}), ("/edges", {"from": "layer:0", "by_cluster": True}), ("/neurons", {"limit": 0}),
        ("/tokens", {"neurons": "layer:1"}), ("/search", {"query": "dog", "limit": 5}), ("/clusters", {}),
        ("/quotient", {}), ("/enrich", {"all": True}), ("/paths", {"source": "0:0", "target": "layer:4", "limit": 3}),
        ("/common", {"neurons": "layer:4"}), ("/prune/summary", {}), ("/clusters/1/members", {}),
        ("/neurons/0:0/edges-out", {}), ("/macros/neuron_card", {"arguments": '{"of_layer": 0, "of_neuron": 3}'}),
    ],
)  # fmt: skip
def test_a_stream_has_the_rows_of_the_json_table(served: Served, path: str, given: dict[str, Any]) -> None:
    rows = get(served, path, "application/json", **given).json()["data"]["rows"]
    assert rows
    for kind in (LINES, "application/jsonl"):
        assert [json.loads(line) for line in get(served, path, kind, **given).text.splitlines()] == rows
    table = list(csv.DictReader(io.StringIO(get(served, path, CSV, **given).text)))
    assert [list(row) for row in table] == [list(row) for row in rows]
    assert [list(row.values()) for row in table] == [[as_text(value) for value in row.values()] for row in rows]
    arrow = pyarrow.ipc.open_stream(get(served, path, ARROW, **given).content).read_all()
    assert json.loads(json.dumps(arrow.to_pylist(), default=str)) == rows


def test_limit_0_is_all_in_a_stream_and_a_cut_in_json(served: Served) -> None:
    reply = get(served, "/edges", LINES, limit=0)
    assert len(reply.text.splitlines()) == EDGES and "content-length" not in reply.headers
    data = get(served, "/edges", "application/json", limit=0).json()["data"]
    assert (len(data["rows"]), data["total"]) == (10_000, EDGES)
    assert [json.loads(line) for line in reply.text.splitlines()[:10_000]] == data["rows"]
    assert get(served, "/edges", ARROW, limit=0).status_code == 200


def test_by_post_too(served: Served) -> None:
    body = {"from": ["layer:0"], "limit": 7}
    lines = served.client.post("/api/v1/edges", json=body, headers={"accept": LINES}).text.splitlines()
    assert [json.loads(one) for one in lines] == served.client.post("/api/v1/edges", json=body).json()["data"]["rows"]


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("*/*", JSON), ("text/html,application/xhtml+xml,*/*;q=0.8", JSON), ("text/*", CSV), ("", JSON),
        ("text/csv;q=0.5, application/x-ndjson", LINES), ("application/json;q=0.1, text/csv;q=0.2", CSV),
        ("application/vnd.apache.arrow.stream, */*;q=0.1", ARROW), ("TEXT/CSV", CSV), ("text/csv;q=0, */*", JSON),
    ],
)  # fmt: skip
def test_the_form_is_what_the_client_prefers(served: Served, accept: str, kind: str) -> None:
    reply = get(served, "/clusters", accept)
    assert (reply.status_code, reply.headers["content-type"].split(";")[0]) == (200, kind)
    assert "accept" in reply.headers["vary"]


@pytest.mark.parametrize("accept", ["image/png", "text/html", "application/xml;q=0.9", "*/*;q=0", "text/csv;q=x"])
def test_a_form_that_there_is_not_is_406(served: Served, accept: str) -> None:
    reply = get(served, "/clusters", accept)
    assert (reply.status_code, set(reply.json())) == (406, {"error", "details"})
    assert "text/csv" in reply.json()["details"]
    assert get(served, "/neurons/0:0", CSV).status_code == 406  # a card is no table


def test_what_is_wrong_before_the_first_row_is_an_error_like_any_other(served: Served) -> None:
    for path, given, status in (
        ("/tokens", {"neurons": "9:9"}, 400), ("/neurons/9:9/labels", {}, 404), ("/macros/nothing", {}, 404),
        ("/macros/prune_candidates", {"arguments": '{"of_scope": "x"}'}, 400), ("/tokens", {}, 400),
    ):  # fmt: skip
        reply = get(served, path, LINES, **given)
        assert (reply.status_code, set(reply.json())) == (status, {"error", "details"}), reply.text


def test_warnings_are_in_a_header_in_ascii(served: Served) -> None:
    reply = get(served, "/paths", LINES, source="layer:1", target="layer:0")
    assert (reply.status_code, reply.text) == (200, "")
    assert json.loads(reply.headers["x-atlas-warnings"])[0].startswith("no path of at most 5 edges")
    assert json.loads(notes_header(("é ␣ \n",))["x-atlas-warnings"]) == ["é ␣ \n"]
    assert notes_header(("é",))["x-atlas-warnings"].isascii()
    many = json.loads(notes_header(tuple("x" * 100 for _ in range(100)))["x-atlas-warnings"])
    assert many[-1] == f"and {100 - len(many) + 1} more" and len(many) > 30


def test_an_atlas_that_is_replaced_stays_open_until_its_streams_end(tmp_path: Path) -> None:
    file = large(tmp_path / "large.duckdb")
    other = write_atlas(tmp_path / "next.duckdb", random_tables(1, LAYERS, D_MLP), layers=LAYERS, d_mlp=D_MLP)
    with serving(file) as served:
        with served.client.stream("GET", "/api/v1/edges", params={"limit": 0}, headers={"accept": LINES}) as reply:
            parts = reply.iter_raw()
            begun = next(parts)
            other.replace(file)
            assert served.client.get("/api/v1/edges", params={"limit": 0}).json()["data"]["total"] == 600
            rest = b"".join(parts)
        assert (begun + rest).count(b"\n") == EDGES


def test_a_client_that_goes_away_ends_the_query(served: Served) -> None:
    done = threading.Event()
    with Atlas(served.settings.atlas) as atlas:
        pairs = "range(1000000) AS a, range(1000000) AS b"
        reading = Reading(Answer(atlas, f"SELECT count(*) FROM {pairs} WHERE a.range * b.range % 7 = 3"), "jsonl")

        def read() -> None:
            assert reading.next() is None
            done.set()

        threading.Thread(target=read, daemon=True).start()
        time.sleep(0.3)
        assert not done.is_set()
        reading.stop()
        assert done.wait(10)


def test_a_client_that_takes_nothing_is_left(served: Served) -> None:
    """Of the response itself: what a socket holds depends on the machine."""
    sent: list[dict[str, Any]] = []

    async def stuck(message: dict[str, Any]) -> None:
        sent.append(message)
        if message["type"] == "http.response.body":
            await asyncio.sleep(60)

    async def still() -> dict[str, Any]:
        await asyncio.sleep(60)
        return {"type": "http.disconnect"}

    with Atlas(served.settings.atlas) as atlas:
        response = Streamed(atlas.edges(limit=None), View(LINES, 100, 0.2))
        closed = threading.Event()
        response.held.callback(closed.set)
        with pytest.raises(Exception, match="takes nothing"):
            asyncio.run(response({"type": "http"}, still, stuck))  # type: ignore[arg-type]
    assert [one["type"] for one in sent] == ["http.response.start", "http.response.body"] and closed.is_set()


def test_many_streams_at_once_in_bounded_memory(served: Served) -> None:
    get(served, "/edges", LINES, limit=0)
    before, counts = psutil.Process().memory_info().rss, []

    def read() -> None:
        with served.client.stream("GET", "/api/v1/edges", params={"limit": 0}, headers={"accept": LINES}) as reply:
            counts.append(sum(part.count(b"\n") for part in reply.iter_raw()))

    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert counts == [EDGES] * 4
    assert psutil.Process().memory_info().rss - before < 150 << 20  # less than 4 times the rows and lines


def test_a_tie_goes_to_what_is_offered_first() -> None:
    assert choose("text/csv, application/json", ("application/json", "text/csv")) == "application/json"
    assert choose(None, ("application/json", "text/csv")) == "application/json"


def as_text(value: Any) -> str:
    """A value as CSV has it."""
    if value is None:
        return ""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list) else str(value)
