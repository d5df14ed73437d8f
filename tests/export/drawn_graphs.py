"""Subgraphs to draw: small ones by hand, a circuit drawn at random, one with every hostile text."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

from atlas.query.subgraph import Link, Node, Subgraph

WORDS = [
    "dog",
    "drug",
    "aspirin",
    "verb",
    "French",
    "digit",
    "comma",
    "medical",
    "doctor",
    "nurse",
    "she",
    "he",
    "pronoun",
    "past",
    "tense",
    "code",
    "bracket",
    "quote",
    "negation",
    "city",
    "state",
    "capital",
    "Texas",
    "Austin",
]
HOSTILE = (
    '</script><img src="x" onerror="document.documentElement.dataset.hacked=1">',
    "<svg/onload=document.documentElement.dataset.hacked=2>",
    "\"><script>document.documentElement.dataset.hacked='3'</script>",
    "]]>&amp;&lt;b&gt; & 'quotes' \"double\"",
    "two\nlines\r\nand\ttabs, a NUL \x00 and an escape \x1b[31m",
    "\u202eturned round\u202c \u200bzero width\ufeff",
    "שלום עולם مرحبا بالعالم",
    "漢字とかな 👩‍⚕️ é combining e\u0301",
    "a lone surrogate \ud83d and a non-character \uffff",
    "longwithoutanyspace" * 20,
    "a very long label with many words " * 12,
    "{{data}} }} {{ ${0} \\u003c \\",
    "   ",
    "",
    "--> <!-- <![CDATA[ \u2028 \u2029",
)


def node(layer: int, neuron: int, label: str | None = None, **more: Any) -> Node:
    return Node(f"L{layer}/N{neuron}", "neuron", layer, neuron, label=label, **more)


def link(source: Node, target: Node, weight: float, count: int = 3, **more: Any) -> Link:
    return Link(source.key, target.key, weight, abs(weight) * count, count, **more)


def of(nodes: list[Node], links: list[Link], **more: Any) -> Subgraph:
    return Subgraph(**{"title": "Module 1", "model": "toy", "layers": 12, "nodes": nodes, "links": links} | more)


def circuit(count: int = 40, links: int = 120, layers: int = 12, seed: int = 3) -> Subgraph:
    """A circuit from three tokens through `count` neurons to two logits."""
    dice = random.Random(seed)
    nodes = [
        Node(f"E:{i}", "embedding", token_id=i, token=token, influence=dice.random() / 5, role="source")
        for i, token in enumerate([" The", " doctor", "\n"])
    ]
    for i, layer in enumerate(sorted(dice.randrange(layers) for _ in range(count))):
        label = "fires on " + ", ".join(dice.sample(WORDS, dice.randint(1, 6))) if dice.random() < 0.9 else None
        path = f"{dice.randint(1, 9)}.{dice.randint(1, 4)}"
        nodes.append(node(layer, i * 37, label, cluster_path=path, influence=dice.random() ** 4 / 3))
    nodes += [
        Node(f"L:{50 + i}", "logit", token_id=50 + i, token=token, influence=dice.random() / 2, role="target")
        for i, token in enumerate([" she", " he"])
    ]
    pairs: dict[tuple[str, str], Link] = {}
    while len(pairs) < links:
        source, target = sorted(dice.sample(nodes, 2), key=_depth)
        if _depth(source) == _depth(target) or dice.random() > 2.5 / (min(_depth(target), layers) - _depth(source) + 1):
            continue
        weight = dice.gauss(0, 1) * dice.random() ** 2
        pairs[source.key, target.key] = link(
            source, target, weight, dice.randint(1, 90), n_graphs=dice.randint(1, 9), standard_error=abs(weight) / 5,
            sign_consistency=dice.random(), share=dice.random() / 5, influence=abs(weight) * dice.random() / 20,
        )  # fmt: skip
    facts = {"share_kept": 0.812, "unexplained": 0.093, "nodes_cut": 1204}
    warnings = ("edges were cut to the 100 strongest of a neuron",)
    strongest = sorted(pairs.values(), key=lambda one: -one.weight_abs_sum)
    return Subgraph("Circuit from “ doctor” to “ she”", "toy", layers, nodes, strongest, facts, warnings)


def hostile() -> Subgraph:
    """Every place for a text holds every hostile text."""
    nodes = [
        Node(f"L{i % 3}/N{i}", "neuron", i % 3, i, label=text, cluster_path=text or None, influence=i / 100)
        for i, text in enumerate(HOSTILE)
    ]
    nodes += [Node(f"E:{i}", "embedding", token_id=i, token=text) for i, text in enumerate(HOSTILE)]
    nodes += [Node(f"L:{i}", "logit", token_id=i, token=text, role="target") for i, text in enumerate(HOSTILE)]
    links = [link(s, t, 1.0 - 2 * (i % 2)) for i, (s, t) in enumerate(pairwise(nodes))]
    facts: dict[str, Any] = {text: text for text in HOSTILE}
    return of(nodes, links, title=" ".join(HOSTILE), model=HOSTILE[0], facts=facts, warnings=HOSTILE)


def awkward() -> Subgraph:
    """Edges in a layer, downward, from a node to itself, of weight 0 and not finite; a neuron without any edge."""
    a, b, c, d, alone = node(0, 1, "a"), node(1, 2, "b"), node(1, 3, "c"), node(5, 4, "d"), node(5, 9, "alone")
    links = [
        link(a, b, 1.0), link(b, c, -0.5), link(c, b, 0.4), link(d, a, 0.7), link(b, b, 0.2), link(a, d, 0.0),
        link(c, d, float("nan")), link(a, c, float("inf"), sign_consistency=0.1),
    ]  # fmt: skip
    return of([a, b, c, d, alone], links)


def _depth(one: Node) -> int:
    return {"embedding": -1, "logit": 99}.get(one.kind, one.layer or 0)


A, B = node(0, 1, "cats"), node(3, 7, "dogs")
SAMPLES = {
    "circuit": circuit(),
    "large": circuit(195, 800, 24),
    "hostile": hostile(),
    "awkward": awkward(),
    "one node": of([A], []),
    "no edges": of([A, B, node(3, 8)], []),
    "one layer": of([node(2, i, "fires on " + "x" * i) for i in range(30)], []),
}
