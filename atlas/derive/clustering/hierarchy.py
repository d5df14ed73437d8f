"""Steps of nested modules, a column a level -> paths of real modules: those of two neurons or more."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from atlas.ingest.partitions import Placed

Steps = npt.NDArray[np.int32]  # [neurons, levels]: the module's number in the one above, from 1; 0 below the last


def place(ids: npt.NDArray[np.int64], steps: Steps, flow: npt.NDArray[np.float64] | None = None) -> Placed:
    """Paths of the neurons `ids` (any order) that are in a real module.

    A neuron alone in a module belongs to the module above; at the top, to none, and is left out.
    """
    order = np.argsort(ids, kind="stable")
    ids, steps, flow = ids[order], steps[order], None if flow is None else flow[order]
    codes, texts = _paths(steps)
    placed = codes > 0
    return Placed(ids[placed], texts[codes[placed]], None if flow is None else flow[placed])


def number_by_size(labels: npt.NDArray[np.integer]) -> npt.NDArray[np.int32]:
    """Modules -> 1, 2, ... by falling size, then by their first member."""
    _, first, code, sizes = np.unique(labels, return_index=True, return_inverse=True, return_counts=True)
    rank = np.empty(len(sizes), dtype=np.int32)
    rank[np.lexsort((first, -sizes))] = np.arange(1, len(sizes) + 1, dtype=np.int32)
    found: npt.NDArray[np.int32] = rank[code]
    return found


def nest(levels: Sequence[npt.NDArray[np.integer]]) -> Steps:
    """Labels of ever finer partitions, each inside the one before -> steps, numbered by falling size.

    A module with the same members as the one above is left out.
    """
    code = np.zeros(len(levels[0]), dtype=np.int64)
    columns: list[npt.NDArray[np.int32]] = []
    for labels in levels:
        modules, first, code_below, sizes = np.unique(
            labels, return_index=True, return_inverse=True, return_counts=True
        )
        above = code[first]
        order = np.lexsort((first, -sizes, above))
        rank = np.empty(len(modules), dtype=np.int32)
        rank[order] = np.arange(len(modules)) - np.searchsorted(above[order], above[order]) + 1
        same = (sizes == np.bincount(code)[above]) & bool(columns)
        columns.append(np.where(same, np.int32(0), rank)[code_below])
        code = code_below
    steps = np.column_stack(columns).astype(np.int32)
    found: Steps = np.take_along_axis(steps, np.argsort(steps == 0, axis=1, kind="stable"), axis=1)
    return found


def _paths(steps: Steps) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.str_]]:
    """(number of each neuron's path, the paths); path 0 is none."""
    codes = np.zeros(len(steps), dtype=np.int64)
    texts, inside = [""], np.arange(len(steps))
    for level in range(steps.shape[1]):
        inside = inside[steps[inside, level] > 0]
        pairs = codes[inside] << 32 | steps[inside, level]
        modules, code, sizes = np.unique(pairs, return_inverse=True, return_counts=True)
        real = np.flatnonzero(sizes > 1)
        numbers = np.zeros(len(modules), dtype=np.int64)
        numbers[real] = np.arange(len(texts), len(texts) + len(real))
        for above, step in zip((modules[real] >> 32).tolist(), (modules[real] & 0xFFFFFFFF).tolist(), strict=True):
            texts.append(f"{texts[above]}.{step}" if above else str(step))
        inside, found = inside[numbers[code] > 0], numbers[code]
        codes[inside] = found[found > 0]
    return codes, np.array(texts)
