"""Circuits of atlas files against every path written out in fractions; token ends, ends a person gets wrong."""

import itertools
import os
import random
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from synthetic import Tables, edge_sums, random_tables, small, small_tables, write_atlas  # noqa: F401

import atlas
from atlas import InputError
from atlas.errors import ResourceError, StoreError
from atlas.query.atlas import Atlas
from atlas.query.subgraph import Subgraph
from atlas.store.connection import Limits

LAYERS, WIDTH = 5, 40
Flows = dict[tuple[int, int], list[float]]
TokenFlows = dict[tuple[str, int, int], list[float]]  # (kind, token, packed id)
Shares = dict[tuple[str, str], Fraction]


def made(flows: Flows, tokens: TokenFlows) -> Tables:
    """The drawn atlas (5 x 40) with other edges."""
    tables = random_tables(1)
    tables["edges"] = [
        {"src": s, "tgt": t, "src_layer": s // WIDTH, "src_neuron": s % WIDTH, **edge_sums(flows[s, t])}
        for s, t in sorted(flows)
    ]
    tables["token_edges"] = [
        {"kind": kind, "token_id": token, "layer": i // WIDTH, "neuron": i % WIDTH, **edge_sums(values)}
        for (kind, token, i), values in sorted(tokens.items(), key=lambda kv: (kv[0][0], kv[0][2], kv[0][1]))
    ]
    return tables


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[..., Atlas]]:
    held: list[Atlas] = []

    def build(flows: Flows, tokens: TokenFlows | None = None, **facts: object) -> Atlas:
        file = write_atlas(
            tmp_path / f"{len(held)}.duckdb", made(flows, tokens or {}), layers=LAYERS, d_mlp=WIDTH, **facts
        )
        held.append(atlas.open(file))
        return held[-1]

    yield build
    for a in held:
        a.close()


@pytest.fixture(scope="module")
def a(small: Path) -> Iterator[Atlas]:  # noqa: F811
    with atlas.open(small) as found:
        yield found


def drawn(seed: int) -> tuple[Flows, TokenFlows]:
    """12 neurons of 5 layers, 3 embeddings, 2 logits, whole-number flows."""
    dice = random.Random(seed)
    ids = [layer * WIDTH + n for layer, many in enumerate((3, 3, 3, 2, 1)) for n in dice.sample(range(WIDTH), many)]

    def flow() -> list[float]:
        return [float(dice.choice([-1, 1]) * dice.randint(1, 9)) for _ in range(dice.randint(1, 3))]

    flows = {
        (s, t): flow() for s, t in itertools.combinations(ids, 2) if s // WIDTH < t // WIDTH and dice.random() < 0.6
    }
    tokens: TokenFlows = {("embedding", e, i): flow() for e in (4, 7, 9) for i in ids if dice.random() < 0.5}
    tokens |= {("logit", out, i): flow() for out in (4, 8) for i in ids if dice.random() < 0.6}
    return flows, tokens


def name(i: int) -> str:
    return f"L{i // WIDTH}/N{i % WIDTH}"


def all_edges(flows: Flows, tokens: TokenFlows) -> dict[tuple[str, str], list[float]]:
    named = {(name(s), name(t)): v for (s, t), v in flows.items()}
    for (kind, token, i), values in tokens.items():
        named[(f"E:{token}", name(i)) if kind == "embedding" else (name(i), f"L:{token}")] = values
    return named


def size(values: list[float]) -> Fraction:
    return sum((Fraction(abs(f)) for f in values), Fraction(0))


def shares_of(flows: Flows, tokens: TokenFlows, *, min_count: int = 1) -> Shares:
    """A of every edge of enough observations; all edges count in what enters a node."""
    edges = all_edges(flows, tokens)
    total: dict[str, Fraction] = {}
    for (_, t), values in edges.items():
        total[t] = total.get(t, Fraction(0)) + size(values)
    return {(s, t): size(v) / total[t] for (s, t), v in edges.items() if len(v) >= min_count}


def walks(shares: Shares, sources: set[str], targets: set[str]) -> Iterator[tuple[tuple[str, ...], Fraction]]:
    stack: list[tuple[tuple[str, ...], Fraction]] = [((s,), Fraction(1)) for s in sources]
    while stack:
        path, worth = stack.pop()
        if path[-1] in targets and len(path) > 1:
            yield path, worth
        stack += [((*path, t), worth * x) for (s, t), x in shares.items() if s == path[-1] and t not in sources]


def links_of(found: Subgraph) -> set[tuple[str, str]]:
    return {(link.source, link.target) for link in found.links}


def check_against_paths(found: Subgraph, shares: Shares, sources: set[str], targets: set[str]) -> None:
    paths = list(walks(shares, sources, targets))
    total = sum((worth for _, worth in paths), Fraction(0))
    assert found.facts["influence"] == pytest.approx(float(total) / len(targets), rel=1e-6)
    assert found.facts["nodes_on_paths"] == len({v for path, _ in paths for v in path})
    assert found.facts["edges_on_paths"] == len({e for path, _ in paths for e in itertools.pairwise(path)})
    inside = list(walks({e: x for e, x in shares.items() if e in links_of(found)}, sources, targets))
    kept = float(sum((worth for _, worth in inside), Fraction(0)) / total)
    assert found.facts["share_kept"] == pytest.approx(kept, rel=1e-6)
    assert kept >= found.facts["budget"] * (1 - 1e-6)
    for node in found.nodes:
        passing = sum((worth for path, worth in inside if node.key in path), Fraction(0))
        assert node.influence == pytest.approx(float(passing / total), rel=1e-6)
    for link in found.links:
        passing = sum((w for path, w in inside if (link.source, link.target) in itertools.pairwise(path)), Fraction(0))
        assert link.influence == pytest.approx(float(passing / total), rel=1e-6)
        assert link.share == pytest.approx(float(shares[link.source, link.target]), rel=1e-6)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("budget", [0.5, 0.9, 1.0])
def test_a_circuit_holds_the_paths_it_says(opened: Callable[..., Atlas], seed: int, budget: float) -> None:
    flows, tokens = drawn(seed)
    a = opened(flows, tokens)
    low = sorted({s for s, _ in flows})[:2]
    top = max(t for _, t in flows)
    ends: list[tuple[Any, Any, set[str], set[str]]] = [
        (low, top, {name(i) for i in low}, {name(top)}),
        ("embedding:#4", "logit:#8", {"E:4"}, {"L:8"}),
        (["embedding:#4", "embedding:#9", low[0]], [top, "logit:#4"], {"E:4", "E:9", name(low[0])}, {name(top), "L:4"}),
    ]
    for source, target, sources, targets in ends:
        found = a.circuit(source, target, budget=budget, tokens=False)
        check_against_paths(found, shares_of(flows, tokens), sources, targets)
        assert {n.key for n in found.nodes if n.role == "source"} <= sources
        assert {n.key for n in found.nodes if n.role == "target"} <= targets


def test_few_observations_are_left_out_of_paths_but_not_of_shares(opened: Callable[..., Atlas]) -> None:
    flows, tokens = drawn(5)
    found = opened(flows, tokens).circuit("embedding:#4", "logit:#8", min_count=2, tokens=False, budget=1)
    check_against_paths(found, shares_of(flows, tokens, min_count=2), {"E:4"}, {"L:8"})
    assert found.facts["min_count"] == 2 and min(link.count for link in found.links) >= 2


def test_without_a_source_all_that_enters_is_traced_to_where_it_comes_from(opened: Callable[..., Atlas]) -> None:
    """Embedding 4 brings 1/4 of neuron 41, neuron 0 (which nothing stored enters) the rest; 41 is all of 85's input."""
    tokens: TokenFlows = {("embedding", 4, 41): [2.0], ("logit", 5, 85): [3.0, 4.0]}
    a = opened({(0, 41): [4.0, -2.0], (41, 85): [1.0]}, tokens)
    found = a.circuit(target=85, budget=0.7)
    assert (found.facts["influence"], found.facts["share_kept"]) == (1.0, 1.0)
    assert {n.key: (n.role, n.influence) for n in found.nodes} == {
        "E:4": ("between", 0.25), "L0/N0": ("between", 0.75), "L1/N1": ("between", 1.0), "L2/N5": ("target", 1.0),
        "L:5": ("between", 1.0),
    }  # fmt: skip
    assert found.facts["signed_influence"] == pytest.approx(1 / 4 + 1 / 4)
    assert a.circuit(target=85, tokens=False, max_nodes=2).facts["share_kept"] == 0.25
    assert a.circuit(target=85, budget=0.2, tokens=False).facts["nodes_kept"] == 2


def test_token_ends_by_hand(opened: Callable[..., Atlas]) -> None:
    """Two sources bring 3/4 and 1/4; embeddings 1 and 2 bring 1/2 and 1/4 of the first, 2 all of the second."""
    tokens: TokenFlows = {
        ("embedding", 1, 0): [2.0, -2.0], ("embedding", 2, 0): [2.0], ("embedding", 3, 0): [-2.0],
        ("embedding", 2, 1): [1.0], ("logit", 6, 40): [-3.0], ("logit", 7, 40): [1.0], ("logit", 6, 90): [-1.0],
    }  # fmt: skip
    found = opened({(0, 40): [3.0], (1, 40): [1.0]}, tokens).circuit([0, 1], 40, budget=0.8)
    assert {n.key: n.influence for n in found.nodes if n.kind != "neuron"} == {
        "E:2": pytest.approx(3 / 4 / 4 + 1 / 4), "E:1": pytest.approx(3 / 4 / 2), "L:6": 0.75, "L:7": 0.25,
    }  # fmt: skip
    assert [(n.kind, n.token) for n in found.nodes if n.token] == [
        ("embedding", " w1"), ("embedding", " w2"), ("logit", " w6"), ("logit", " w7"),
    ]  # fmt: skip
    logit = next(link for link in found.links if link.target == "L:6")
    assert (logit.source, logit.mean_weight, logit.share, logit.influence) == ("L1/N0", -3.0, 0.75, 0.75)
    one = next(link for link in found.links if link.source == "E:1")
    assert (one.mean_weight, one.weight_abs_sum, one.sign_consistency, one.share) == (0.0, 4.0, 0.0, 0.5)
    shown = [found.facts[f] for f in ("embeddings_shown", "embeddings_there", "logits_shown", "logits_there")]
    assert shown == [2, 3, 2, 2]
    assert found.facts["embeddings_share"] == pytest.approx(3 / 16 + 1 / 4 + 3 / 8)


def test_a_signed_circuit_from_a_token_to_a_logit(opened: Callable[..., Atlas]) -> None:
    """Embedding 1 excites neuron 0, which lowers logit 7 (flows -2, -4), and is the metric's friend by way of 41."""
    tokens: TokenFlows = {
        ("embedding", 1, 0): [-2.0], ("embedding", 1, 41): [1.0], ("logit", 7, 0): [-4.0], ("logit", 7, 41): [4.0, 4.0],
    }  # fmt: skip
    found = opened({(2, 41): [3.0]}, tokens).circuit("embedding: w1", "logit: w7", budget=1)
    assert found.facts["influence"] == pytest.approx(1 / 3 + 2 / 3 / 4)
    assert found.facts["signed_influence"] == pytest.approx(-1 / 3 + 2 / 3 / 4)
    assert {(k.source, k.target): k.mean_weight for k in found.links} == {
        ("E:1", "L0/N0"): -2, ("L0/N0", "L:7"): -4, ("E:1", "L1/N1"): 1, ("L1/N1", "L:7"): 4,
    }  # fmt: skip
    assert (found.facts["target_from_embeddings"], found.facts["target_from_neurons"]) == (0, 1)
    plain = opened({(2, 41): [3.0]}, tokens, edge_method="transcoder_direct")  # weights that multiply along a path
    assert plain.circuit("embedding: w1", "logit: w7").facts["signed_influence"] == pytest.approx(1 / 3 + 2 / 3 / 4)


def test_edges_within_a_layer_and_back_are_summed_hop_by_hop(opened: Callable[..., Atlas]) -> None:
    flows = {(0, 41): [1.0], (41, 42): [1.0], (42, 41): [1.0], (42, 85): [5.0]}
    found = opened(flows, {("embedding", 3, 42): [3.0]}).circuit(0, 85, tokens=False)
    assert found.facts["influence"] == pytest.approx(1 / 7)
    assert found.facts["hops_remainder"] < 1e-12
    assert any("hop by hop" in w for w in found.warnings)


def test_edges_in_any_order_give_the_same(tmp_path: Path) -> None:
    flows, tokens = drawn(2)
    tables = made(flows, tokens)
    answers = []
    for order in (1, -1):
        tables["edges"] = tables["edges"][::order]
        with atlas.open(write_atlas(tmp_path / f"{order}.duckdb", tables, layers=LAYERS, d_mlp=WIDTH)) as a:
            answers.append(a.circuit("embedding:#4", "logit:#8").to_dict())
    assert answers[0]["facts"] == pytest.approx(answers[1]["facts"])
    assert [n["key"] for n in answers[0]["nodes"]] == [n["key"] for n in answers[1]["nodes"]]


def test_a_circuit_tells_what_is_not_in_it(opened: Callable[..., Atlas]) -> None:
    flows, tokens = drawn(1)
    a = opened(flows, tokens, edges_cut=77, min_edge_count=3, edge_truncation="top 5 per neuron")
    found = a.circuit("embedding:#4", "logit:#8", max_nodes=4, budget=0.9)
    said = " ".join(found.warnings)
    assert "77 edges of fewer than 3" in said and "top 5 per neuron" in said and "4 nodes hold" in said
    assert (found.facts["edges_cut"], found.facts["min_edge_count"]) == (77, 3)
    assert found.facts["share_kept"] < 0.9 and len(found.nodes) <= 4


def test_the_small_atlas_from_token_to_logit(a: Atlas) -> None:
    """dog -> L0/N0 -> L1/N2 -> L2/N7 -> runs: 1 * 6/10.25 * 5/13; nothing else feeds L0/N0."""
    found = a.circuit("embedding: dog", "logit: runs")
    assert found.facts["influence"] == pytest.approx(6 / 10.25 * 5 / 13)
    assert [n.key for n in found.nodes] == ["E:1", "L0/N0", "L1/N2", "L2/N7", "L:4"]
    assert [n.label for n in found.nodes][1:4] == ["dog words", "aspirin and drugs", "dog dog dog"]
    assert found.facts["explained_median"] == 0.7
    assert found.title == "circuit from embedding ' dog' to logit ' runs'"


@pytest.mark.parametrize(
    ("source", "target", "options", "message"),
    [
        ("0_0", "1_2", {"budget": -0.1}, "share above 0 and at most 1, not -0.1"),
        ("0_0", "1_2", {"budget": 1.5}, "at most 1, not 1.5"),
        ("0_0", "1_2", {"max_nodes": 0}, "max_nodes is at least 1"),
        ("0_0", "1_2", {"min_count": 0}, "min_count is at least 1"),
        ("0_0", None, {}, "needs a target"),
        ("0_0", ["1_2", "0_0"], {}, "share a neuron"),
        ("2_7", "0_0", {}, "not below"),
        ("0_0", "0_1", {}, "not below"),
        ("0_4", "1_2", {}, "no path from L0/N4 to L1/N2 over edges of at least 1 "),
        ("0_0", "1_2", {"min_count": 9}, "at least 9 observations"),
        (None, "0_7", {}, "nothing stored feeds L0/N7"),
        ([], "1_2", {}, "empty list"),
        ("label:zebra", "1_2", {}, "no neuron matches"),
        ("embedding: dgo", "1_2", {}, "nearest: ' dog', 'dog'"),
        ("embedding:Dog", "1_2", {}, "no token 'Dog'"),
        ("embedding:#999", "1_2", {}, "no token #999"),
        ("logit: runs", "1_2", {}, "cannot be a source"),
        ("0_0", "embedding: dog", {}, "cannot be a target"),
    ],
)
def test_what_cannot_be_asked(a: Atlas, source: Any, target: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        a.circuit(source, target, **options)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_module_keeps_its_name_in_the_title(a: Atlas) -> None:
    assert a.circuit(["cluster:1.1"], ["2_7"]).title == "circuit from cluster:1.1 (2 neurons) to L2/N7"


def test_spellings_of_a_token(a: Atlas) -> None:
    for word in ("embedding: dog", "embedding:' dog'", "embedding:#1"):
        assert a.circuit(word, "1_2").nodes[0].token == " dog"
    assert a.circuit("embedding: dog", "logit:runs").nodes[-1].token == " runs"


def test_an_atlas_without_edges_or_token_edges(tmp_path: Path) -> None:
    tables = small_tables()
    with atlas.open(write_atlas(tmp_path / "a.duckdb", {**tables, "token_edges": []})) as a:
        assert any("no token edges" in w for w in a.circuit("0_0", "1_2").warnings)
        with pytest.raises(StoreError, match=r"no token edges in a\.duckdb"):
            a.circuit("embedding: dog", "1_2")
    with (
        atlas.open(write_atlas(tmp_path / "b.duckdb", {**tables, "edges": []})) as b,
        pytest.raises(StoreError, match="table edges is empty"),
    ):
        b.circuit("0_0", "1_2")


def test_a_graph_that_does_not_fit_is_refused_with_both_numbers(
    small: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("atlas.query.circuit_graph.EDGE_MEMORY", 10**9)
    with (
        Atlas(small, limits=Limits(memory="1GiB")) as tight,
        pytest.raises(ResourceError, match=r"about \d+\.\d\d GiB of memory, the limit is 1\.0 GiB"),
    ):
        tight.circuit("0_0", "2_7")


def test_token_macros_against_the_rows(a: Atlas) -> None:
    rows = a.sql("FROM neuron_token_edges(0, 0)").rows()
    assert [(r["kind"], r["token"], r["count"], r["mean_weight"], r["share"]) for r in rows] == [
        ("embedding", " dog", 2, 1.25, 1.0)
    ]
    assert rows[0]["standard_error"] == pytest.approx(0.25)
    rows = a.sql("FROM token_neurons(' runs', of_kind := 'logit')").rows()
    assert [(r["layer"], r["neuron"], r["label"], r["mean_weight"]) for r in rows] == [(2, 7, "dog dog dog", -1.0)]
    assert a.sql("FROM token_neurons(' runs')").rows() == []


def test_the_demo_holds_what_it_says() -> None:
    file = Path(os.environ.get("ATLAS_DEMO", "data/demo/demo.duckdb"))
    if not file.is_file():
        pytest.skip("no demo atlas; atlas build data/recipes/demo.toml makes it")
    with atlas.open(file) as demo:
        found = demo.circuit("embedding: doctor", "logit: she", tokens=False)
        edges = demo.sql("SELECT 1").rows()
    assert edges and found.facts["share_kept"] >= 0.8 * (1 - 1e-6)
    into: dict[str, list[tuple[str, float]]] = {}
    for link in found.links:
        assert link.share is not None
        into.setdefault(link.target, []).append((link.source, link.share))
    held = {"E:" + str(next(n.token_id for n in found.nodes if n.role == "source")): 1.0}
    for node in sorted(found.nodes, key=lambda n: (n.kind == "logit", n.layer or 0)):
        if node.key not in held:
            held[node.key] = sum(held.get(s, 0.0) * x for s, x in into.get(node.key, []))
    target = next(n.key for n in found.nodes if n.role == "target")
    assert held[target] / found.facts["influence"] == pytest.approx(found.facts["share_kept"], rel=1e-6)
    assert abs(found.facts["signed_influence"]) <= found.facts["influence"]


@pytest.mark.parametrize(
    "ends", [("0_1", "layer:4"), ("layer:0", "4_2"), (None, "layer:3"), ("embedding:#4", "logit:#4")]
)
def test_near_ends_read_less_and_find_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: Any) -> None:
    tables = random_tables(7)
    tables["token_edges"] = [
        {"kind": kind, "token_id": 4, "layer": i % 5, "neuron": i % 40, **edge_sums([1.0 + i, -0.5])}
        for kind in ("embedding", "logit")
        for i in range(40)
    ]
    with atlas.open(write_atlas(tmp_path / "a.duckdb", tables, layers=5, d_mlp=40)) as a:
        near = a.circuit(*ends, budget=0.95).to_dict()
        monkeypatch.setattr("atlas.query.circuit_graph.NEAR", 0)
        assert near["links"]
        assert near == a.circuit(*ends, budget=0.95).to_dict()
