"""Modules of planted graphs: real modules only, deterministic, hand-checked paths."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("infomap")

from atlas.derive.clustering.graph import EdgeArrays
from atlas.derive.clustering.infomap import InfomapOptions, modules


def planted(groups: int, size: int, *, inside: int = 60, across: int = 10, seed: int = 0) -> EdgeArrays:
    rng = np.random.default_rng(seed)
    pairs = {tuple(group * size + rng.integers(0, size, 2)) for group in range(groups) for _ in range(inside)}
    pairs |= {tuple(rng.integers(0, groups * size, 2)) for _ in range(across)}
    src, tgt = np.array(sorted(p for p in pairs if p[0] != p[1])).T
    same = src // size == tgt // size
    return EdgeArrays(src * 1000 + 7, tgt * 1000 + 7, np.where(same, 1.0, 0.01))


def test_planted_groups_are_found_and_paths_hold_no_leaf_rank() -> None:
    found = modules(planted(6, 10), options=InfomapOptions())
    groups: dict[str, set[int]] = {}
    for packed, path, _ in found:
        groups.setdefault(path, set()).add((packed - 7) // 1000 // 10)
    assert len(groups) == 6  # a path that ended in the leaf's rank would give one group per neuron
    assert all(len(members) == 1 for members in groups.values())
    assert sum(flow for _, _, flow in found) == pytest.approx(1.0)


def test_a_neuron_that_shares_a_module_with_no_other_is_in_none() -> None:
    # A forward graph as an atlas has it: sources that nothing feeds, each feeding every group alike.
    edges, sources = planted(6, 10), np.repeat(np.arange(100, 104), 6) * 1000 + 7
    groups = np.tile(np.arange(6) * 10, 4) * 1000 + 7
    lonely = EdgeArrays(
        np.append(edges.src, sources), np.append(edges.tgt, groups), np.append(edges.weight, np.full(24, 0.5))
    )
    found = modules(lonely, options=InfomapOptions())
    sizes: dict[str, int] = {}
    for _, path, _ in found:
        for depth in range(1, len(path.split(".")) + 1):
            prefix = ".".join(path.split(".")[:depth])
            sizes[prefix] = sizes.get(prefix, 0) + 1
    assert min(sizes.values()) > 1


def test_same_seed_same_modules() -> None:
    edges = planted(8, 12, seed=4)
    assert modules(edges, options=InfomapOptions(seed=3)) == modules(edges, options=InfomapOptions(seed=3))


def test_a_network_left_whole_is_one_module() -> None:
    complete = [(i, j) for i in range(5) for j in range(5) if i != j]
    src, tgt = np.array(complete).T
    found = modules(EdgeArrays(src, tgt, np.ones(len(src))), options=InfomapOptions())
    assert {path for _, path, _ in found} == {"1"}
