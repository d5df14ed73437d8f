"""Edges one after another -> their sums by pair of modules, and by module and pair of layers, in one pass.

What quotient_pairs and quotient_margins count by three joins and groupings, most of it random look-ups of the
targets' modules in a hash table, takes one look-up in an array of 6 MB here.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from atlas.compiled import compiled

QUANTUM = 17592186044416.0  # 2^44: weights are added as whole numbers of its inverse, as in the macros


@compiled
def add_edges(columns: Any, place: Any, width: int, pairs: Any, sent: Any, received: Any) -> float:  # noqa: PLR0917
    """Add edges to the sums, in place; returns the largest weight (from 2^18 the whole numbers may not hold it).

    columns: src, tgt, count, weight_sum, weight_abs_sum of the edges. place: module of each packed id, -1 = not a
    neuron. pairs: edges, observations, weight, signed weight, int64 [modules, modules, 4]; sent, received: weight and
    its square by the module's layer, module and the other layer, [layers, modules, layers, 2].
    """
    src, tgt, count, signed, size = columns
    largest = 0.0
    for e in range(len(src)):
        s, t, n = src[e], tgt[e], count[e]
        if s < 0 or t < 0 or s >= len(place) or t >= len(place) or place[s] < 0 or place[t] < 0:
            continue
        i, j, low, high = place[s], place[t], s // width, t // width
        weight = np.float64(size[e]) / n
        largest = max(largest, weight)
        pairs[i, j, 0] += 1
        pairs[i, j, 1] += n
        pairs[i, j, 2] += np.int64(np.rint(weight * QUANTUM))
        pairs[i, j, 3] += np.int64(np.rint(np.float64(signed[e]) / n * QUANTUM))
        sent[low, i, high, 0] += weight
        sent[low, i, high, 1] += weight * weight
        received[low, j, high, 0] += weight
        received[low, j, high, 1] += weight * weight
    return largest
