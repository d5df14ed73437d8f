"""Tokens that fire a neuron or a module, over HTTP, against SQL over the tables."""

from __future__ import annotations

import json
from typing import Any

import duckdb
import pytest
from seed_examples import FILES, QUERY, form_faults
from served import Served

_NEURON = """SELECT v.token, t.sum / t.n FROM token_stats AS t JOIN vocab AS v USING (token_id)
    WHERE t.layer = 1 AND t.neuron = 42 AND t.polarity = $1 ORDER BY $1 * t.sum / t.n DESC, token_id LIMIT 5"""
_MODULE = """SELECT v.token, sum(t.sum) / sum(t.n) AS mean FROM token_stats AS t JOIN vocab AS v USING (token_id)
    JOIN neurons AS n ON n.layer = t.layer AND n.neuron = t.neuron
    WHERE t.polarity = 1 AND (n.cluster_path = $1 OR n.cluster_path LIKE $1 || '.%')
    GROUP BY v.token, token_id ORDER BY mean DESC, token_id LIMIT 7"""


def rows(served: Served, statement: str, *values: object) -> list[Any]:
    with duckdb.connect(str(served.settings.atlas), read_only=True) as con:
        return con.execute(statement, list(values)).fetchall()


def pairs(found: list[dict[str, Any]]) -> list[tuple[str, Any]]:
    return [(one["token"], pytest.approx(one["activation"])) for one in found]


def test_tokens_of_a_neuron(demo_server: Served) -> None:
    told = demo_server.client.post(
        "/api/queries/neuron", json={"layer_index": 1, "neuron_index": 42, "top_k": 5}
    ).json()
    assert form_faults(told, QUERY) == []
    assert (told["query_type"], told["layer_index"], told["neuron_index"]) == ("neuron", 1, 42)
    assert rows(demo_server, _NEURON, 1) == pairs(told["top_tokens"]) != []
    assert rows(demo_server, _NEURON, -1) == pairs(told["top_tokens_negative"])


def test_tokens_of_a_module_by_number_and_by_path(demo_server: Served) -> None:
    largest = rows(demo_server, "SELECT cluster_path FROM clusters ORDER BY size DESC, cluster_path LIMIT 1")[0][0]
    by_path = demo_server.client.post("/api/queries/cluster", json={"cluster_id": largest, "top_k": 7}).json()
    assert form_faults(by_path, {"query_type": "cluster", "top_tokens": QUERY["top_tokens"], "cluster_id": 0}) == []
    assert rows(demo_server, _MODULE, largest) == pairs(by_path["top_tokens"]) != []
    by_number = demo_server.client.post(
        "/api/v1/queries/cluster", json={"cluster_id": by_path["cluster_id"], "top_k": 7}
    ).json()
    assert by_number["data"] == by_path and by_path["cluster_path"] == largest


def test_answers_are_kept_as_files(demo_server: Served) -> None:
    body = {"layer_index": 3, "neuron_index": 17, "top_k": 2}
    unsaved = demo_server.client.post("/api/queries/neuron", json=body | {"save": False}).json()
    assert "L3_N17.json" not in demo_server.client.get("/api/queries/files").json()["files"]
    saved = demo_server.client.post("/api/queries/neuron", json=body).json()
    assert saved == unsaved
    listed = demo_server.client.get("/api/queries/files").json()
    assert form_faults(listed, FILES) == [] and "L3_N17.json" in listed["files"]
    assert demo_server.client.get("/api/queries/L3_N17.json").json() == saved
    assert json.loads((demo_server.settings.folder / "queries" / "L3_N17.json").read_text()) == saved


@pytest.mark.parametrize(
    ("kind", "body", "said"),
    [
        ("neuron", {"layer_index": 4, "neuron_index": 0}, "layers 0..3"),
        ("neuron", {"layer_index": 0, "neuron_index": 384}, "neurons 0..383"),
        ("neuron", {"layer_index": 0}, "neuron_index"),
        ("neuron", {"layer_index": "0", "neuron_index": 1}, "layer_index"),
        ("neuron", {"layer_index": 0, "neuron_index": 1, "top_k": 0}, "top_k"),
        ("neuron", {"layer_index": 0, "neuron_index": 1, "top_k": 10_001}, "top_k"),
        ("neuron", {"layer_index": 0, "neuron_index": 1.5}, "neuron_index"),
        ("cluster", {"cluster_id": 999_999}, "no module of number 999999"),
        ("cluster", {"cluster_id": "999"}, "no module '999'"),
        ("cluster", {"cluster_id": "../x"}, "cluster_id"),
        ("cluster", {"cluster_id": -1}, "cluster_id"),
        ("cluster", {"cluster_id": None}, "cluster_id"),
        ("cluster", {}, "cluster_id"),
    ],
)
def test_bad_questions(demo_server: Served, kind: str, body: dict[str, Any], said: str) -> None:
    found = demo_server.client.post(f"/api/queries/{kind}", json=body)
    assert found.status_code == 400 and said in found.json()["error"], found.text


def test_unknown_files(demo_server: Served) -> None:
    assert demo_server.client.get("/api/queries/none.json").status_code == 404
    assert demo_server.client.get("/api/v1/queries/%2e%2e").status_code == 400  # no name of a file
