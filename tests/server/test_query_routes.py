"""Questions over HTTP: each answer is that of the command line for the same question, and so is each refusal."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from served import Served

from atlas.cli import main as cli
from atlas.cli.options import View
from atlas.cli.render import show
from atlas.query.atlas import Atlas
from atlas.query.macros import macros
from atlas.store.sqlfiles import sql_files

# command line, path, query parameters
QUESTIONS: list[tuple[str, str, dict[str, Any]]] = [
    ("neuron L1/N2", "/neurons/L1%2FN2", {}),
    ("neuron 1_2 --limit 1", "/neurons/L1/N2", {"limit": 1}),
    ("neuron 10", "/neurons/10", {}),
    ("tokens L0/N0", "/tokens", {"neurons": "L0/N0"}),
    ("tokens cluster:1 --polarity + --limit 2", "/tokens", {"neurons": "cluster:1", "polarity": "+", "limit": 2}),
    ("tokens 0_0 1_2 --contexts", "/tokens", {"neurons": ["0_0", "1_2"], "contexts": True}),
    ("tokens 0_0 --contexts --polarity -", "/exemplars", {"neurons": "0_0", "polarity": "-"}),
    ("fires-on dog", "/fires-on", {"words": "dog"}),
    ("fires-on dog cat --at-least 2", "/fires-on", {"words": ["dog", "cat"], "at_least": 2}),
    ("fires-on dog --contexts", "/fires-on", {"words": "dog", "contexts": True}),
    ("search dog", "/search", {"query": "dog"}),
    ("search 'dgo cat*' --mode fuzzy --layer 0:1",
     "/search", {"query": "dgo cat*", "mode": "fuzzy", "layers": "0:1"}),
    ("search o --mode substring --page 2 --limit 2",
     "/search", {"query": "o", "mode": "substring", "page": 2, "limit": 2}),
    ("search d.g --mode regex --cluster 1", "/search", {"query": "d.g", "mode": "regex", "cluster": "1"}),
    ("search dog --field label --source llm --offset 1",
     "/search", {"query": "dog", "field": "label", "source": "llm", "offset": 1}),
    ("search 'dog cat' --explain", "/search", {"query": "dog cat", "explain": True}),
    ("search --like L0/N0", "/search", {"like": "L0/N0"}),
    ("edges", "/edges", {}),
    ("edges --from layer:0 --to L2/N7 --min-count 2", "/edges", {"from": "layer:0", "to": "L2/N7", "min_count": 2}),
    ("edges --min-weight 1.0 --limit 2", "/edges", {"min_weight": 1.0, "limit": 2}),
    ("edges --by-cluster", "/edges", {"by_cluster": True}),
    ("edges --from cluster:1 --level 1", "/edges", {"from": "cluster:1", "level": 1}),
    ("ego L1/N2 --hops 2 --top 2", "/ego", {"neurons": "L1/N2", "hops": 2, "top": 2}),
    ("ego L1/N2 --direction upstream", "/ego", {"neurons": "L1/N2", "direction": "upstream"}),
    ("common L1/N2 L1/N3 --at-least 1", "/common", {"neurons": ["L1/N2", "L1/N3"], "at_least": 1}),
    ("common layer:0 --direction outputs", "/common", {"neurons": "layer:0", "direction": "outputs"}),
    ("similar L0/N0", "/similar", {"neurons": "L0/N0"}),
    ("similar L0/N0 --by tokens --layers 0 1", "/similar", {"neurons": "L0/N0", "by": "tokens", "layers": "0:1"}),
    ("circuit L2/N7", "/circuit", {"target": "L2/N7"}),
    ("circuit 'embedding: dog' 'logit: runs' --budget 0.5",
     "/circuit", {"source": "embedding: dog", "target": "logit: runs", "budget": 0.5}),
    ("circuit L2/N7 --no-tokens --max-nodes 2", "/circuit", {"target": "L2/N7", "tokens": False, "max_nodes": 2}),
    ("paths L0/N0 L2/N7", "/paths", {"source": "L0/N0", "target": "L2/N7"}),
    ("paths layer:0 layer:2 --hops 2 --score bottleneck --limit 3",
     "/paths", {"source": "layer:0", "target": "layer:2", "hops": 2, "score": "bottleneck", "limit": 3}),
    ("graphs L0/N0 L1/N2", "/graphs", {"neurons": ["L0/N0", "L1/N2"]}),
    ("motifs --null 3 --seed 1", "/motifs", {"null": 3, "seed": 1}),
    ("motifs layer:0-2 --kind ffl --null 2", "/motifs", {"neurons": "layer:0-2", "kind": "ffl", "null": 2}),
    ("cluster list", "/clusters", {}),
    ("cluster list --level 2 --below 1 --min-size 2", "/clusters", {"level": 2, "below": "1", "min_size": 2}),
    ("cluster list --search animals", "/clusters", {"search": "animals"}),
    ("cluster show 1", "/clusters/1", {}),
    ("cluster show 1.2 --words --limit 1", "/clusters/1.2", {"words": True, "limit": 1}),
    ("cluster members 1", "/clusters/1/members", {}),
    ("cluster quotient --between", "/quotient", {"between": True}),
    ("cluster enrich 1 --min-hits 1", "/enrich", {"neurons": "1", "min_hits": 1}),
    ("cluster enrich --all --level 2 --min-hits 1", "/enrich", {"all": True, "level": 2, "min_hits": 1}),
    ("cluster runs", "/clusterings", {}),
    ("cluster compare infomap primary --draws 2",
     "/clusterings/compare", {"a": "infomap", "b": "primary", "draws": 2}),
    ("label stats --generic 2", "/label-stats", {"generic": 2}),
    ("info", "/info", {}),
    ("info --hash", "/info", {"hash": True}),
    ("check", "/check", {}),
    ("prune --threshold 25", "/prune", {"threshold": 25}),
    ("prune --all --layer 1 --scope global --limit 3",
     "/prune", {"all": True, "layer": 1, "scope": "global", "limit": 3}),
    ("prune --summary --threshold 25", "/prune/summary", {"threshold": 25}),
    ("sql 'SELECT layer, sum(1e3) AS s, list(neuron) FROM neurons GROUP BY layer ORDER BY layer'",
     "/sql", {"q": "SELECT layer, sum(1e3) AS s, list(neuron) FROM neurons GROUP BY layer ORDER BY layer"}),
]  # fmt: skip

REFUSED: list[tuple[str, str, dict[str, Any], int]] = [
    ("neuron L9/N1", "/neurons/L9/N1", {}, 404),
    ("neuron nonsense", "/neurons/nonsense", {}, 404),
    ("tokens L9/N1", "/tokens", {"neurons": "L9/N1"}, 400),
    ("tokens cluster:7", "/tokens", {"neurons": "cluster:7"}, 400),
    ("tokens 'label:nothing like it'", "/tokens", {"neurons": "label:nothing like it"}, 400),
    ("fires-on zzz", "/fires-on", {"words": "zzz"}, 400),
    ("search '(' --mode regex", "/search", {"query": "(", "mode": "regex"}, 400),
    ("search '  '", "/search", {"query": "  "}, 400),
    ("circuit L2/N7 L0/N0", "/circuit", {"source": "L2/N7", "target": "L0/N0"}, 400),
    ("paths L0/N0 L0/N0", "/paths", {"source": "L0/N0", "target": "L0/N0"}, 400),
    ("common L0/N0", "/common", {"neurons": "L0/N0"}, 400),
    ("cluster show 7", "/clusters/7", {}, 404),
    ("cluster members 1.9", "/clusters/1.9/members", {}, 404),
    ("cluster quotient --level 9", "/quotient", {"level": 9}, 400),
    ("label stats --source nobody", "/label-stats", {"source": "nobody"}, 400),
    ("prune --layer 9", "/prune", {"layer": 9}, 400),
    ("prune --eval-id x", "/prune", {"eval_id": "x"}, 400),
    ("sql 'SELECT nothing'", "/sql", {"q": "SELECT nothing"}, 400),
]  # fmt: skip


@pytest.fixture
def ask(small_server: Served, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """What the command line answers on the atlas of the server."""

    def asked(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            cli.main([*arguments, "--format", "json", "--atlas", str(small_server.settings.atlas)])
        out, err = capsys.readouterr()
        return int(stop.value.code or 0), out, err

    return asked


@pytest.fixture(scope="module")
def opened(small_server: Served) -> Iterator[Atlas]:
    """The atlas of the server, opened once more."""
    with Atlas(small_server.settings.atlas) as atlas:
        yield atlas


@pytest.mark.parametrize(("command", "path", "given"), QUESTIONS, ids=[q[0] for q in QUESTIONS])
def test_an_answer_is_that_of_the_command_line(
    small_server: Served, ask: Callable[..., Any], command: str, path: str, given: dict[str, Any]
) -> None:
    reply = small_server.client.get(f"/api/v1{path}", params=given)
    assert reply.status_code == 200, reply.text
    told = reply.json()["data"]
    expected = json.loads(ask(*shlex.split(command))[1], parse_constant=lambda _: None)  # NaN, which JSON lacks
    assert told_by_cli(expected, told) == expected


@pytest.mark.parametrize(("command", "path", "given"), QUESTIONS, ids=[q[0] for q in QUESTIONS])
def test_a_question_by_post_has_the_same_answer(
    small_server: Served, command: str, path: str, given: dict[str, Any]
) -> None:
    if path == "/clusterings":
        pytest.skip("by POST a clustering is made, see test_clusters_routes")
    by_address = small_server.client.get(f"/api/v1{path}", params=given)
    if path.startswith(("/neurons/", "/clusters/")) or path in ("/info", "/check", "/clusterings"):
        pytest.skip("its address is short")
    body = {"sql" if key == "q" else key: as_body(path, key, value) for key, value in given.items()}
    reply = small_server.client.post(f"/api/v1{path}", json=body)
    assert reply.status_code == 200, reply.text
    assert reply.json() == by_address.json()


@pytest.mark.parametrize(("command", "path", "given", "status"), REFUSED, ids=[q[0] for q in REFUSED])
def test_a_refusal_is_the_line_of_the_command_line(  # noqa: PLR0917
    small_server: Served, ask: Callable[..., Any], command: str, path: str, given: dict[str, Any], status: int
) -> None:
    code, _, err = ask(*shlex.split(command))
    assert code == 2 and err.startswith("atlas: ")
    reply = small_server.client.get(f"/api/v1{path}", params=given)
    assert (reply.status_code, reply.json()["error"]) == (status, err.strip().removeprefix("atlas: "))


@pytest.mark.parametrize("path", sql_files("queries"), ids=lambda path: path.stem)
def test_a_macro_by_name_is_its_example_on_the_command_line(
    small_server: Served, opened: Atlas, capsys: pytest.CaptureFixture[str], path: Path
) -> None:
    macro = next(one for one in macros() if one.name == path.stem)
    call = re.search(rf"FROM {macro.name}\((.*)\)$", macro.example, re.DOTALL)
    assert call, macro.example
    given = {}
    for place, argument in enumerate(arguments_of(call[1])):
        name, named, value = argument.partition(":=")
        text = value if named else argument
        found = opened.sql(f"SELECT {text} AS v").fetchall()[0][0]
        value = float(found) if isinstance(found, Decimal) else found
        given[name.strip() if named else macro.parameters[place].name] = value
    reply = small_server.client.post(f"/api/v1/macros/{macro.name}", json=given)
    assert reply.status_code == 200, reply.text
    show(opened.sql(f"FROM {macro.name}({call[1]})"), View(None, "json", None, None))  # all that `atlas sql` does
    expected = json.loads(capsys.readouterr().out, parse_constant=lambda _: None)
    assert reply.json()["data"]["rows"] == expected
    by_address = small_server.client.get(f"/api/v1/macros/{macro.name}", params={"arguments": json.dumps(given)})
    assert by_address.json() == reply.json()


def test_the_list_of_macros_has_every_file_with_types(small_server: Served) -> None:
    listed = small_server.client.get("/api/v1/macros").json()["data"]
    assert [one["name"] for one in listed] == [path.stem for path in sql_files("queries")]
    assert not [one["name"] for one in listed for p in one["parameters"] if p["type"] == "any"], "atlas/query/macros.py"
    edges = next(one for one in listed if one["name"] == "edges_from")
    assert edges["parameters"][0] == {"name": "of_layer", "type": "integer"}
    assert {"name": "max_rows", "type": "integer", "default": 20} in edges["parameters"]


@pytest.mark.parametrize(
    ("name", "given", "status", "said"),
    [
        ("edges_from", {"of_layer": "0", "of_neuron": 1}, 400, "of_layer of edges_from is a integer"),
        ("edges_from", {"of_layer": 0}, 400, "edges_from needs of_neuron"),
        ("edges_from", {"of_layer": 0, "of_neuron": 1, "x": 2}, 400, "no parameter x"),
        ("edges_from", {"of_layer": 0, "of_neuron": 2**70}, 400, "of_neuron"),
        ("edges_between", {"of_sources": ["a"], "of_targets": None}, 400, "list of integer"),
        ("prune_candidates", {"of_scope": "everywhere"}, 400, "of_scope is layer or global"),
        ("nothing", {}, 404, "no macro 'nothing'"),
        ("edges_from(0, 1); --", {}, 400, "match pattern"),
    ],
)
def test_a_macro_refuses_what_does_not_fit(
    small_server: Served, name: str, given: dict[str, Any], status: int, said: str
) -> None:
    reply = small_server.client.post(f"/api/v1/macros/{name}", json=given)
    assert (reply.status_code, said in reply.json()["error"]) == (status, True), reply.text


def test_selections_are_listed_by_every_condition(small_server: Served) -> None:
    def ids(**given: Any) -> list[int]:
        reply = small_server.client.get("/api/v1/neurons", params=given)
        return [row["feature_id"] for row in reply.json()["data"]["rows"]]

    assert ids(limit=0) == list(range(24))
    assert ids(layers="1:2", label="DOG") == [11, 23]
    assert ids(cluster="1.2") == [2, 10, 11]
    assert ids(neurons=["layer:0", "L2/N7"], cluster="1") == [0, 1, 2]
    assert ids(min_count=2) == [0]
    assert ids(layers="2", cluster="1") == []
    reply = small_server.client.get("/api/v1/neurons", params={"limit": 5}).json()["data"]
    assert (len(reply["rows"]), reply["total"]) == (5, 24)
    assert reply["warnings"] == ["5 of 24 rows; limit=0 with Accept: application/x-ndjson, text/csv or Arrow gives all"]


@pytest.mark.parametrize("part", ["labels", "tokens", "exemplars", "logit-lens", "read-tokens", "edges-in", "edges-out",
                                  "token-edges", "wiring", "pruning", "impacts"])  # fmt: skip
def test_parts_of_a_card_are_those_of_the_card(small_server: Served, part: str) -> None:
    names = {"tokens": "top_tokens"}
    place = "0:0" if part in ("logit-lens", "read-tokens") else "1:2"
    card = small_server.client.get(f"/api/v1/neurons/{place}", params={"limit": 20}).json()["data"]
    rows = small_server.client.get(f"/api/v1/neurons/{place}/{part}").json()["data"]["rows"]
    if part == "token-edges":  # not on the card
        assert [
            row["token"] for row in small_server.client.get("/api/v1/neurons/0:0/token-edges").json()["data"]["rows"]
        ]
        return
    assert rows == card[names.get(part, part.replace("-", "_"))] and rows


def test_weights_and_impacts_are_those_of_the_library(small_server: Served) -> None:
    with Atlas(small_server.settings.atlas) as atlas:
        for path, answer in (
            ("/weights", atlas.weights()), ("/weights/summary", atlas.weight_summary()), ("/impacts", atlas.impacts()),
            ("/impacts?singles=true&layer=1", atlas.impacts(singles=True, layer=1)),
        ):  # fmt: skip
            rows = small_server.client.get(f"/api/v1{path}").json()["data"]["rows"]
            assert rows == json.loads(json.dumps(answer.rows(), default=str)) and rows


def test_many_queries_in_one_pass(small_server: Served) -> None:
    body = {"queries": ["dog", "aspirin"], "limit": 2, "field": {"label": 3}}
    rows = small_server.client.post("/api/v1/search", json=body).json()["data"]["rows"]
    assert {row["query"] for row in rows} == {"dog", "aspirin"} and len(rows) == 3
    reply = small_server.client.post("/api/v1/search", json={**body, "query": "dog"})
    assert (reply.status_code, "give one of" in reply.json()["error"]) == (400, True)


def test_a_json_answer_is_cut_at_the_servers_rows_and_says_so(start: Callable[..., Served]) -> None:
    served = start(max_rows=4)
    data = served.client.get("/api/v1/edges", params={"limit": 0}).json()["data"]
    assert (len(data["rows"]), data["total"]) == (4, 9)
    assert data["warnings"][-1].startswith("4 of 9 rows; limit=0 with Accept")
    data = served.client.post("/api/v1/macros/layer_neurons", json={"of_layer": 0}).json()["data"]
    assert (len(data["rows"]), data["total"]) == (4, 8)
    data = served.client.get("/api/v1/sql", params={"q": "FROM edges"}).json()["data"]
    assert (len(data["rows"]), data["truncated"]) == (4, True) and data["warnings"]


@pytest.mark.parametrize(
    ("path", "given"),
    [
        ("/tokens", {}), ("/tokens", {"neurons": "0:0", "signs": "+"}), ("/tokens", {"neurons": "0:0", "limit": -1}),
        ("/tokens", {"neurons": "0:0", "polarity": "0"}), ("/edges", {"min_weight": "nan"}), ("/edges", {"level": 0}),
        ("/paths", {"source": "0:0", "target": "2:7", "hops": 7}), ("/search", {"query": "x" * 1001}), ("/search", {}),
        ("/search", {"query": "a", "like": "0:0"}), ("/neurons/0:0", {"limit": "many"}), ("/neurons/0:0/nothing", {}),
        ("/enrich", {}), ("/enrich", {"all": True, "neurons": "0:0"}), ("/clusters", {"search": "a", "level": 1}),
        ("/clusterings/compare", {"b": "../../etc/passwd"}), ("/macros/edges_from", {"arguments": "[1]"}),
        ("/macros/edges_from", {"arguments": "{"}), ("/macros/edges_from", {"arguments": "[" * 5_000}),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_400_in_one_shape(small_server: Served, path: str, given: dict[str, Any]) -> None:
    reply = small_server.client.get(f"/api/v1{path}", params=given)
    assert (reply.status_code, set(reply.json())) == (400, {"error", "details"}), reply.text


def test_a_bare_plus_in_an_address_is_the_sign(small_server: Served) -> None:
    bare = small_server.client.get("/api/v1/tokens?neurons=0:0&polarity=+").json()
    assert bare == small_server.client.get("/api/v1/tokens?neurons=0:0&polarity=%2B").json()
    assert {row["polarity"] for row in bare["data"]["rows"]} == {1}


def test_another_atlas_of_the_folder_can_be_compared_with(
    start: Callable[..., Served], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    far = tmp_path / "far"
    far.mkdir()
    served = start(also=(far / "other.duckdb",))
    shutil.copyfile(served.settings.atlas, far / "other.duckdb")
    shutil.copyfile(served.settings.atlas, far / "hidden.duckdb")
    names = [one["name"] for one in served.client.get("/api/v1/atlases").json()["data"]]
    assert names == ["other.duckdb", "small.duckdb"]
    for what in ("summary", "edges", "labels", "clusters", "tokens"):
        with pytest.raises(SystemExit):
            files = [str(served.settings.atlas), str(far / "other.duckdb")]
            cli.main(["diff", *files, "--what", what, "--all", "--format", "json"])
        rows = json.loads(capsys.readouterr().out)
        given = {"b": "other.duckdb", "what": what, "all": True}
        assert served.client.get("/api/v1/diff", params=given).json()["data"]["rows"] == rows
    for name in ("hidden.duckdb", "nothing.duckdb", ".."):
        assert served.client.get("/api/v1/diff", params={"b": name}).status_code == 404
    for name in ("../far/hidden.duckdb", str(far / "hidden.duckdb"), "a\x00b", ""):
        assert served.client.get("/api/v1/diff", params={"b": name}).status_code == 400


def test_questions_of_seconds_are_asked_one_at_a_time(small_server: Served) -> None:
    alone = small_server.app.state.server.alone
    with alone:
        for path in ("/motifs", "/diff?b=small.duckdb"):
            reply = small_server.client.get(f"/api/v1{path}")
            assert (reply.status_code, reply.headers["retry-after"]) == (503, "10")
    for _ in range(2):
        assert small_server.client.get("/api/v1/motifs?null=1").status_code == 200
        assert small_server.client.get("/api/v1/diff?b=small.duckdb").status_code == 200
        assert small_server.client.get("/api/v1/motifs?neurons=9:9").status_code == 400


def test_graphs_are_drawn_on_request(small_server: Served) -> None:
    for path, given in (
        ("/circuit", {"target": "L2/N7"}), ("/ego", {"neurons": "L1/N2"}), ("/clusters/1", {}),
    ):  # fmt: skip
        for kind, begin in (("image/svg+xml", "<svg"), ("application/graphml+xml", "<?xml")):
            reply = small_server.client.get(f"/api/v1{path}", params=given, headers={"accept": kind})
            assert (reply.status_code, reply.headers["content-type"].split(";")[0]) == (200, kind), reply.text
            assert reply.text.startswith(begin)


def told_by_cli(expected: Any, told: Any) -> Any:
    """The part of an answer that the command line prints: rows of a table; warnings go to stderr there."""
    if isinstance(expected, list) and isinstance(told, dict):
        return told["rows"]
    if isinstance(told, dict):
        assert set(told) - set(expected) <= {"warnings", "total_edges"}
        return {key: told[key] for key in expected}
    return told


def as_body(path: str, key: str, value: Any) -> Any:
    """A parameter that may be repeated in an address is a list in a body."""
    many = key in ("neurons", "words", "from", "to") or (key in ("source", "target") and path != "/search")
    return [value] if many and not isinstance(value, list) else value


def arguments_of(text: str) -> Iterator[str]:
    """The arguments of a call, split at commas outside brackets."""
    depth, begin = 0, 0
    for place, letter in enumerate(text):
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and not depth:
            yield text[begin:place]
            begin = place + 1
    if text[begin:].strip():
        yield text[begin:]
