"""Circuits as graph JSON: the public form's rules, the fields of real files, and the weights of the circuit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from drawn_graphs import SAMPLES, A, B, circuit, hostile, link, of
from test_graph_json import schema_faults

from atlas.errors import InputError
from atlas.export.subgraph_json import ANYWHERE, subgraph_document, subgraph_json

DRAWN = circuit()


@pytest.mark.parametrize("name", SAMPLES)
def test_the_form_is_the_public_one(name: str) -> None:
    document = json.loads(subgraph_json(SAMPLES[name]))
    assert schema_faults(document) == []
    nodes, tokens = document["nodes"], document["metadata"]["prompt_tokens"]
    ids = [node["node_id"] for node in nodes]
    assert len(set(ids)) == len(ids) == len(SAMPLES[name].nodes)
    assert all({one["source"], one["target"]} <= set(ids) for one in document["links"])
    assert all(isinstance(node["layer"], str) and 0 <= node["ctx_idx"] < len(tokens) for node in nodes)
    assert all(node["influence"] is None or 0 <= node["influence"] <= 1 + 1e-12 for node in nodes)


def test_nodes_weights_and_positions_are_those_of_the_circuit() -> None:
    document = subgraph_document(DRAWN)
    place = {one.key: node for one, node in zip(DRAWN.nodes, document["nodes"], strict=True)}
    found = {(one["source"], one["target"]): one["weight"] for one in document["links"]}
    assert found == {(place[e.source]["node_id"], place[e.target]["node_id"]): e.mean_weight for e in DRAWN.links}
    assert document["metadata"]["prompt_tokens"] == [" The", " doctor", "\\n", ANYWHERE]
    assert [place[f"E:{i}"]["ctx_idx"] for i in range(3)] == [0, 1, 2]
    others = [node for key, node in place.items() if not key.startswith("E:")]
    assert {node["ctx_idx"] for node in others} == {3} and ANYWHERE in document["metadata"]["info"]["description"]
    assert place["E:1"]["node_id"] == "E_1_1" and place["L:50"]["node_id"] == "13_50_3"
    neuron = next(one for one in DRAWN.nodes if one.kind == "neuron" and one.label)
    assert place[neuron.key]["node_id"] == f"{neuron.layer}_{neuron.neuron}_3"
    assert place[neuron.key]["clerp"] == neuron.label and place["L:50"]["is_target_logit"]


def test_influence_is_cumulative_strongest_first() -> None:
    document = subgraph_document(DRAWN)
    ranked = sorted((one for one in DRAWN.nodes if one.kind != "logit"), key=lambda one: -(one.influence or 0.0))
    total = sum(one.influence or 0.0 for one in ranked)
    at = {one.key: node["influence"] for one, node in zip(DRAWN.nodes, document["nodes"], strict=True)}
    running = 0.0
    for one in ranked:
        running += one.influence or 0.0
        assert at[one.key] == pytest.approx(running / total)
    assert at["L:50"] is None


def test_links_that_are_not_finite_are_left_out_and_counted() -> None:
    document = subgraph_document(of([A, B], [link(A, B, float("nan"))]))
    assert document["links"] == [] and document["metadata"]["info"]["export"]["links_dropped"] == 1


def test_text_of_any_kind_is_json_that_all_read() -> None:
    text = subgraph_json(hostile())
    text.encode("utf-8")
    assert "\x00" not in text and "\\u0000" not in text


def test_no_nodes_are_refused() -> None:
    with pytest.raises(InputError, match="no nodes"):
        subgraph_json(of([], []))


def test_fields_are_those_of_real_graphs(shared: Path) -> None:
    real = json.loads((shared / "graphs" / "dallas-austin.json").read_text())
    document = subgraph_document(DRAWN)
    assert set(document) == set(real) and set(document["qParams"]) == set(real["qParams"])
    assert set(real["metadata"]) <= set(document["metadata"])
    assert {kind(node) for node in document["nodes"]} == {"embedding", "logit", "neuron"}
    for what in ("embedding", "logit", "neuron"):
        ours, theirs = (next(n for n in d["nodes"] if kind(n) == what) for d in (document, real))
        assert set(ours) == set(theirs)
        assert {k: type(v) for k, v in ours.items() if v is not None and theirs[k] is not None} == {
            k: type(v) for k, v in theirs.items() if v is not None and ours[k] is not None
        }
    assert set(document["links"][0]) == set(real["links"][0])


def kind(node: dict[str, Any]) -> str:
    return node["feature_type"] if node["feature_type"] in ("embedding", "logit") else "neuron"
