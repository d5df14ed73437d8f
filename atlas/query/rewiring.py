"""Edges -> the same number between the same layers, drawn at random with every neuron's degrees kept."""

from __future__ import annotations

from typing import Any

import numpy as np

from atlas.compiled import compiled


@compiled
def swap(source: Any, target: Any, group: Any, tries: int, width: int, seed: int) -> int:  # noqa: PLR0917
    """Exchange targets of two edges of a group, in place, unless that makes a double edge or a loop; swaps made.

    group[e]: first and one past the last edge with e's pair of layers, int64 [edges, 2]; edges lie sorted by it.
    """
    np.random.seed(seed)
    present = {source[0] * width + target[0]}
    for e in range(len(source)):
        present.add(source[e] * width + target[e])
    made = 0
    for _ in range(tries):
        e = np.random.randint(0, len(source))
        f = np.random.randint(group[e, 0], group[e, 1])
        one, two = source[e] * width + target[f], source[f] * width + target[e]
        if source[e] == target[f] or source[f] == target[e] or one in present or two in present:
            continue
        present.remove(source[e] * width + target[e])
        present.remove(source[f] * width + target[f])
        present.add(one)
        present.add(two)
        target[e], target[f] = target[f], target[e]
        made += 1
    return made
