"""Influence against every path written out in exact fractions, and against sums worked out by hand."""

import itertools
import random
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import pytest

from atlas.query.influence import Circuit, Ends, Flow, influence, on_paths, prune

Weights = dict[tuple[int, int], int]
Shares = dict[tuple[int, int], Fraction]


def flow_of(weights: Weights, nodes: int, *, outside: dict[int, int] | None = None, acyclic: bool = True) -> Flow:
    """Edges of whole-number F; `outside` is what enters a node besides. One block for each source."""
    edges = sorted(weights)
    total = entering(weights, outside)
    net = {v: sum(w for (_, t), w in weights.items() if t == v) for v in range(nodes)}
    src = np.array([s for s, _ in edges], dtype=np.int32)
    return Flow(
        src=src,
        tgt=np.array([t for _, t in edges], dtype=np.int32),
        weight=np.array([abs(weights[e]) for e in edges], dtype=np.float32),
        signed=np.array([weights[e] for e in edges], dtype=np.float32),
        scale=np.array([1 / total[v] if total.get(v) else 0.0 for v in range(nodes)]),
        turn=np.sign([float(net[v]) for v in range(nodes)]),
        blocks=(*(int(n) for n in np.searchsorted(src, range(nodes))), len(edges)),
        acyclic=acyclic,
    )


def entering(weights: Weights, outside: dict[int, int] | None) -> dict[int, int]:
    total = dict(outside or {})
    for (_, t), w in weights.items():
        total[t] = total.get(t, 0) + abs(w)
    return total


def shares_of(weights: Weights, outside: dict[int, int] | None = None) -> Shares:
    total = entering(weights, outside)
    return {(s, t): Fraction(abs(w), total[t]) for (s, t), w in weights.items()}


def ends_of(nodes: int, start: dict[int, float], targets: dict[int, float]) -> Ends:
    def column(values: dict[int, float]) -> np.ndarray:
        return np.array([values.get(i, 0.0) for i in range(nodes)])

    return Ends(column(start), column(start), column(targets))


def walks(shares: Shares, sources: set[int], targets: set[int]) -> Iterator[tuple[tuple[int, ...], Fraction]]:
    """Every path from the last source it passes to a target, with the product of its shares."""
    stack: list[tuple[tuple[int, ...], Fraction]] = [((s,), Fraction(1)) for s in sources]
    while stack:
        path, worth = stack.pop()
        if path[-1] in targets and len(path) > 1:
            yield path, worth
        stack += [((*path, t), worth * a) for (s, t), a in shares.items() if s == path[-1] and t not in sources]


def drawn(seed: int, nodes: int = 12) -> tuple[Weights, dict[int, int]]:
    dice = random.Random(seed)
    pairs = [p for p in itertools.combinations(range(nodes), 2) if dice.random() < 0.4]
    weights = {p: dice.choice([-1, 1]) * dice.randint(1, 9) for p in pairs}
    return weights, {v: dice.randint(0, 9) for v in range(nodes)}


def without(weights: Weights, sources: set[int]) -> Weights:
    return {(s, t): w for (s, t), w in weights.items() if t not in sources}


def test_a_diamond_by_hand() -> None:
    """0 -> 1 -> 3 and 0 -> 2 -> 3: node 1 brings 6 of 8 into 3, half of it from 0; node 2 the rest, all from 0."""
    flow = flow_of({(0, 1): 2, (0, 2): 5, (1, 3): 6, (2, 3): -2}, 4, outside={1: 2})
    found = influence(flow, ends_of(4, {0: 1}, {3: 1}))
    assert found.forward.tolist() == [1, 1 / 2, 1, 5 / 8]
    assert found.backward.tolist() == [5 / 8, 6 / 8, 2 / 8, 1]
    assert found.total == 5 / 8
    assert found.signed == 3 / 8 * 1 - 2 / 8  # node 3 has net +4: its own sign stays
    assert found.through.tolist() == [1, 3 / 5, 2 / 5, 1]
    assert on_paths(flow, found) == (4, 4)


@pytest.mark.parametrize("seed", range(12))
def test_sums_are_those_over_every_path(seed: int) -> None:
    weights, outside = drawn(seed)
    sources, targets = {0, 2}, {9, 11}
    shares = shares_of(weights, outside)
    flow = flow_of(weights, 12, outside=outside)
    keep = np.array([t not in sources for t in flow.tgt])
    flow = _some(flow, np.flatnonzero(keep))
    found = influence(flow, ends_of(12, dict.fromkeys(sources, 1.0), dict.fromkeys(targets, 0.5)))
    paths = list(walks(shares, sources, targets))
    total = sum((worth for _, worth in paths), Fraction(0)) / 2
    assert found.total == pytest.approx(float(total), rel=1e-12)
    for v in range(12):
        passing = sum((worth for path, worth in paths if v in path), Fraction(0)) / 2
        assert found.through[v] == pytest.approx(float(passing / total), rel=1e-12, abs=1e-15)
        stems = sum((w for path, w in walks(shares, sources, {v}) if path[-1] == v), Fraction(0))
        assert found.forward[v] == pytest.approx(1.0 if v in sources else float(stems), abs=1e-15)
    nodes, edges = on_paths(flow, found)
    assert nodes == len({v for path, _ in paths for v in path})
    assert edges == len({e for path, _ in paths for e in itertools.pairwise(path)})


def _some(flow: Flow, edges: np.ndarray) -> Flow:
    blocks = tuple(int(n) for n in np.searchsorted(edges, flow.blocks))
    arrays = (flow.src[edges], flow.tgt[edges], flow.weight[edges], flow.signed[edges])
    return Flow(*arrays, flow.scale, flow.turn, blocks, flow.acyclic)


def cut(seed: int, budget: float, max_nodes: int = 12) -> tuple[Flow, Shares, Circuit, Fraction]:
    weights, outside = drawn(seed)
    flow = flow_of(weights, 12, outside=outside)
    ends = ends_of(12, {0: 1.0}, {11: 1.0})
    shares = shares_of(weights, outside)
    total = sum((worth for _, worth in walks(shares, {0}, {11})), Fraction(0))
    return flow, shares, prune(flow, ends, influence(flow, ends), budget=budget, max_nodes=max_nodes), total


def held(shares: Shares, kept: set[tuple[int, int]]) -> Fraction:
    inside = {e: a for e, a in shares.items() if e in kept}
    return sum((worth for _, worth in walks(inside, {0}, {11})), Fraction(0))


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("budget", [0.3, 0.8, 1.0])
def test_the_share_kept_is_that_of_the_paths_inside(seed: int, budget: float) -> None:
    flow, shares, kept, total = cut(seed, budget)
    edges = [(int(flow.src[e]), int(flow.tgt[e])) for e in kept.edges]
    assert kept.share == pytest.approx(float(held(shares, set(edges)) / total), rel=1e-12)
    assert kept.share >= budget * (1 - 1e-9)
    weakest = edges[int(np.argmin(kept.over))]
    assert float(held(shares, set(edges) - {weakest}) / total) < budget  # no edge too many
    assert {v for e in edges for v in e} == set(kept.nodes.tolist())


@pytest.mark.parametrize("seed", range(12))
def test_shares_of_nodes_and_edges_are_of_the_paths_inside(seed: int) -> None:
    flow, shares, kept, total = cut(seed, 0.7)
    edges = [(int(flow.src[e]), int(flow.tgt[e])) for e in kept.edges]
    inside = list(walks({e: shares[e] for e in edges}, {0}, {11}))
    for node, share in zip(kept.nodes.tolist(), kept.through, strict=True):
        assert share == pytest.approx(float(sum(w for path, w in inside if node in path) / total))
    for edge, share in zip(edges, kept.over, strict=True):
        passing = sum(w for path, w in inside if edge in itertools.pairwise(path))
        assert share == pytest.approx(float(passing / total))
    assert kept.entry.sum() == pytest.approx(kept.share) and kept.exit.sum() == pytest.approx(kept.share)


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_no_more_nodes_than_allowed(seed: int) -> None:
    flow, shares, kept, total = cut(seed, 1.0, max_nodes=4)
    edges = {(int(flow.src[e]), int(flow.tgt[e])) for e in kept.edges}
    assert len(kept.nodes) <= 4
    assert 0.98 * kept.nodes_share * (1 - 1e-9) <= kept.share <= kept.nodes_share < 1
    assert kept.share == pytest.approx(float(held(shares, edges) / total))


def test_signs_turn_at_a_node_of_negative_relevance() -> None:
    """0 excites 1, and 1 lowers the metric: both flows are negative, and so is what 0 does by way of 1."""
    flow = flow_of({(0, 1): -3, (1, 2): -4}, 3)
    flow.turn[2] = 1  # a logit keeps the sign of F
    assert influence(flow, ends_of(3, {0: 1}, {2: 1})).signed == -1


@pytest.mark.parametrize("seed", range(8))
def test_signed_sums_of_one_linear_graph_are_its_path_contributions(seed: int) -> None:
    """In h_t = sum J h_s, F(s, t) = h_s J g_t: a path's signed share times sum |F| / |sum F| of each node is exact."""
    dice = random.Random(seed)
    jacobian = {p: dice.choice([-7, -5, -3, 2, 4, 11]) for p in itertools.combinations(range(6), 2)}
    value, slope = [Fraction(dice.choice([-1, 1]))], [Fraction(0)] * 5 + [Fraction(1)]
    for t in range(1, 6):
        value.append(sum((jacobian[s, t] * value[s] for s in range(t)), Fraction(0)))
    for s in range(4, -1, -1):
        slope[s] = sum((jacobian[s, t] * slope[t] for t in range(s + 1, 6)), Fraction(0))
    flows = {(s, t): value[s] * j * slope[t] for (s, t), j in jacobian.items()}
    net = {t: sum(f for (_, u), f in flows.items() if u == t) for t in range(1, 6)}
    assert all(net.values())
    whole = flow_of({e: int(f) for e, f in flows.items()}, 6)
    whole.turn[5] = 1
    for middle in itertools.chain.from_iterable(itertools.combinations(range(1, 5), n) for n in range(4)):
        path = (0, *middle, 5)
        edges = np.array([i for i in range(15) if (whole.src[i], whole.tgt[i]) in set(itertools.pairwise(path))])
        signed = influence(_some(whole, edges), ends_of(6, {0: 1}, {5: 1})).signed
        worth = value[0]
        for edge in itertools.pairwise(path):
            worth *= jacobian[edge]
        gross = Fraction(1)
        for t in path[1:]:
            gross *= abs(net[t]) / sum(abs(f) for (_, u), f in flows.items() if u == t)
        assert signed == pytest.approx(float(worth * gross / abs(net[5])), rel=1e-9, abs=1e-15)


def test_cycles_are_summed_hop_by_hop() -> None:
    """0 -> 1 <-> 2 -> 3: each round over 1 -> 2 -> 1 carries 1/2 * 1/4, so 1 holds 1/2 / (1 - 1/8) of 0."""
    flow = flow_of({(0, 1): 1, (2, 1): 1, (1, 2): 1, (2, 3): 5}, 4, outside={2: 3}, acyclic=False)
    found = influence(flow, ends_of(4, {0: 1}, {3: 1}))
    assert found.forward[1] == pytest.approx(1 / 2 / (1 - 1 / 8), abs=1e-11)
    assert found.total == pytest.approx(1 / 7, abs=1e-11) and found.total == pytest.approx(found.backward[0], abs=1e-11)
    assert found.remainder < 1e-12
    for budget, edges, share in ((0.8, 3, 7 / 8), (0.9, 4, 1.0)):  # without the way back, and with it
        kept = prune(flow, ends_of(4, {0: 1}, {3: 1}), found, budget=budget, max_nodes=4)
        assert (len(kept.edges), kept.share) == (edges, pytest.approx(share))


def test_a_cycle_that_only_feeds_itself_does_not_count() -> None:
    flow = flow_of({(1, 2): 1, (2, 1): 1, (2, 3): 1, (0, 3): 1}, 4, acyclic=False)
    found = influence(flow, ends_of(4, {0: 1}, {3: 1}))
    assert found.total == 0.5 and found.remainder == 0
    assert found.through.tolist() == [1, 0, 0, 1]


def test_hop_by_hop_gives_what_one_pass_gives() -> None:
    weights, outside = drawn(3)
    ends = ends_of(12, {0: 1.0}, {11: 1.0})
    once = influence(flow_of(weights, 12, outside=outside), ends)
    hops = influence(flow_of(weights, 12, outside=outside, acyclic=False), ends)
    assert hops.total == pytest.approx(once.total) and hops.through == pytest.approx(once.through)
    assert hops.remainder == 0
