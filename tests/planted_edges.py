"""Graphs with known modules: two levels, planted, every edge forward through the layers, as atlas files.

Neuron i of `SIDES` x `PARTS` x 20 is in part i % 12; four parts make a side. The oracle of agreement is the adjusted
mutual information in plain Python (Vinh, Epps, Bailey 2010, equation 24a).
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Hashable, Sequence
from pathlib import Path

from synthetic import edge_sums, write_atlas

from atlas.ingest.neurons import assemble_neurons
from atlas.store.connection import open_writer

LAYERS, D_MLP, SIDES, PARTS = 6, 40, 3, 4
Flows = dict[tuple[int, int], list[float]]


def part_of(neuron: int) -> int:
    """Planted module of the lower level."""
    return neuron % (SIDES * PARTS)


def side_of(neuron: int) -> int:
    """Planted module of the top level."""
    return part_of(neuron) // PARTS


def planted(seed: int = 0) -> Flows:
    """Strong edges in a part, weaker in a side, weakest across; three observations each."""
    dice, found = random.Random(seed), {}
    for src in range(LAYERS * D_MLP):
        for tgt in range((src // D_MLP + 1) * D_MLP, LAYERS * D_MLP):
            odds, weight = (0.6, 1.0) if part_of(src) == part_of(tgt) else (0.1, 0.3)
            if side_of(src) != side_of(tgt):
                odds, weight = 0.02, 0.1
            if dice.random() < odds:
                found[src, tgt] = [dice.choice([-1, 1]) * weight * dice.uniform(0.5, 1.5) for _ in range(3)]
    return found


def write_edges(path: Path, flows: Flows, *, layers: int = LAYERS, d_mlp: int = D_MLP) -> Path:
    """An atlas with these edges and no clustering."""
    rows = [
        {"src": s, "tgt": t, "src_layer": s // d_mlp, "src_neuron": s % d_mlp, **edge_sums(flows[s, t])}
        for s, t in sorted(flows)
    ]
    strongest = sorted(rows, key=lambda e: (-e["weight_abs_sum"], e["src"], e["tgt"]))
    top = [{"rank": i + 1, **{c: e[c] for c in ("src", "tgt", "weight_abs_sum")}} for i, e in enumerate(strongest)]
    write_atlas(path, {"edges": rows, "edges_top": top}, layers=layers, d_mlp=d_mlp)
    con = open_writer(path)
    assemble_neurons(con, layers=layers)
    con.close()
    return path


def agreement(a: Sequence[Hashable], b: Sequence[Hashable]) -> float:
    """Adjusted mutual information, by the arithmetic mean of the entropies: 1 = the same modules, 0 = chance."""
    n, ca, cb, both = len(a), Counter(a), Counter(b), Counter(zip(a, b, strict=True))
    mutual = sum(m / n * math.log(n * m / (ca[x] * cb[y])) for (x, y), m in both.items())
    expected = 0.0
    for x in ca.values():
        for y in cb.values():
            for m in range(max(1, x + y - n), min(x, y) + 1):
                ways = sum(math.lgamma(k + 1) for k in (x, y, n - x, n - y))
                ways -= sum(math.lgamma(k + 1) for k in (n, m, x - m, y - m, n - x - y + m))
                expected += m / n * math.log(n * m / (x * y)) * math.exp(ways)
    entropies = [-sum(k / n * math.log(k / n) for k in c.values()) for c in (ca, cb)]
    return (mutual - expected) / (sum(entropies) / 2 - expected)
