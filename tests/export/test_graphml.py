"""GraphML read back by igraph and by a plain XML reader: the same nodes, edges and types."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from drawn_graphs import HOSTILE, SAMPLES, circuit, hostile

from atlas.errors import InputError
from atlas.export.pictures.graphml import graphml
from atlas.export.pictures.lettering import visible
from atlas.query.subgraph import Link, Node, Subgraph

NS = "{http://graphml.graphdrawing.org/xmlns}"
TYPES = {"string": str, "int": int, "double": float}
NODE_FIELDS = ("key", "kind", "layer", "neuron", "token_id", "token", "label", "cluster_path", "influence", "role")
LINK_FIELDS = ("weight_abs_sum", "count", "n_graphs", "standard_error", "sign_consistency", "share", "influence")


def test_igraph_reads_the_same_graph(tmp_path: Path) -> None:
    igraph = pytest.importorskip("igraph")
    graph, file = circuit(), tmp_path / "circuit.graphml"
    file.write_text(graphml(graph), encoding="utf-8")
    read = igraph.Graph.Read_GraphML(str(file))
    assert read.is_directed() and read["title"] == graph.title and read["fact: share_kept"] == "0.812"
    assert [node_of(vertex.attributes()) for vertex in read.vs] == list(graph.nodes)
    keys = read.vs["key"]
    assert [link_of(keys, edge) for edge in read.es] == list(graph.links)
    assert read.es["abs_weight"] == [abs(link.mean_weight) for link in graph.links]
    assert any(weight < 0 for weight in read.es["weight"])


def node_of(found: dict[str, Any]) -> Node:
    """A Node of what igraph read, where missing numbers are NaN and missing texts empty."""
    numbers = {k: None if math.isnan(found[k]) else int(found[k]) for k in ("layer", "neuron", "token_id")}
    texts = {k: found[k] or None for k in ("token", "label", "cluster_path")}
    return Node(found["key"], found["kind"], influence=found["influence"], role=found["role"], **numbers, **texts)


def link_of(keys: list[str], edge: Any) -> Link:
    values = {field: edge[field] for field in LINK_FIELDS}
    values |= {"count": int(edge["count"]), "n_graphs": int(edge["n_graphs"])}
    return Link(keys[edge.source], keys[edge.target], edge["weight"], **values)


@pytest.mark.parametrize("name", SAMPLES)
def test_every_value_is_there_with_its_type(name: str) -> None:
    graph = SAMPLES[name]
    root = ET.fromstring(graphml(graph))
    keys = {key.get("id"): (key.get("attr.name"), TYPES[key.get("attr.type", "")]) for key in root.iter(f"{NS}key")}
    nodes = list(root.iter(f"{NS}node"))
    for one, element in zip(graph.nodes, nodes, strict=True):
        check(values(element, keys), {field: getattr(one, field) for field in NODE_FIELDS})
    ids = {element.get("id"): one.key for one, element in zip(graph.nodes, nodes, strict=True)}
    for link, element in zip(graph.links, root.iter(f"{NS}edge"), strict=True):
        assert (ids[element.get("source")], ids[element.get("target")]) == (link.source, link.target)
        check(values(element, keys), {"weight": link.mean_weight} | {f: getattr(link, f) for f in LINK_FIELDS})


def values(element: ET.Element, keys: dict[str | None, Any]) -> dict[str, Any]:
    found = {}
    for data in element.iter(f"{NS}data"):
        name, kind = keys[data.get("key")]
        found[name] = kind(data.text)
    return found


def check(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Each wanted value, or none where it is not known, empty or not finite; text without what XML forbids."""
    for field, value in wanted.items():
        unknown = value is None or value == "" or (isinstance(value, float) and not math.isfinite(value))
        if unknown:
            assert field not in found
        elif isinstance(value, str) and value in HOSTILE:
            assert visible(found[field]) == visible(value), field
        else:
            assert found[field] == value, field


def test_the_text_that_xml_forbids_is_written_visibly() -> None:
    text = graphml(hostile())
    assert "\\x00" in text and "\\x1b" in text and "\\ud83d" in text and "\\uffff" in text
    assert not any(c in text for c in "\x00\x1b\ufffe\uffff") and "two\nlines&#13;\n" in text
    text.encode("utf-8")


def test_no_nodes_are_refused() -> None:
    with pytest.raises(InputError, match="no nodes"):
        graphml(Subgraph("Module 1", "toy", 4, [], []))
