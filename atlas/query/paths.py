"""Two selections -> the strongest paths between them, exact.

SQL leaves only edges that can be on one of them (path_edges); a best-first search joins these. Its bound, the best
score that is still possible, is reached by a real path unless the file has cycles, so it seldom goes astray.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from math import isnan
from typing import TYPE_CHECKING, Any

from atlas.errors import InputError, StoreError
from atlas.query.answer import Answer
from atlas.query.selector import Selection, select

if TYPE_CHECKING:
    from atlas.query.atlas import Atlas

SCORES = ("product", "bottleneck")
MOST_HOPS = 6  # as many as path_edges.sql is written for
MOST_PATHS = 1000
MOST_STEPS = 5_000_000  # beginnings of paths that are tried, and edges that are held: 1 GB, about a minute
HEADLINE = ("score", "sign", "effect_sign", "n_edges", "geometric_mean", "neurons")


def paths(
    atlas: Atlas,
    src: Selection,
    dst: Selection,
    *,
    max_hops: int = 5,
    k: int = 10,
    score: str = "product",
    min_count: int = 1,
) -> Answer:
    """The k strongest simple paths of at most max_hops edges; columns of path_evidence, no rows where there is none.

    score: "product" of mean |F| over the edges, or "bottleneck", the smallest. Any path that starts in src and ends in
    dst counts, also through other neurons of both; edges of fewer than min_count observations do not exist.
    sign is that of the product of the mean F. effect_sign says whether the path raises (1) or lowers (-1) the metric: a
    relp F is signed by its effect on the metric already, so signs turn at neurons whose own inputs sum to less than 0.
    """
    _refuse(max_hops=max_hops, k=k, score=score, min_count=min_count)
    sources, targets = select(atlas, src), select(atlas, dst)
    if sources == targets and len(sources) == 1:
        raise InputError(
            f"source and target are both {atlas.neuron_id(sources[0])}; a path joins two different neurons"
        )
    asked = {"of_sources": sources, "of_targets": targets, "hops": max_hops, "at_least_count": min_count}
    empty = atlas.require("edges")
    found = _strongest(atlas, asked | {"of_score": score}, k)
    if not found:
        few = f" over edges of at least {min_count} observations" if min_count > 1 else ""
        ends = f"from {_named(atlas, sources)} to {_named(atlas, targets)}"
        empty += (f"no path of at most {max_hops} edges {ends}{few}",)
    values = {"of_paths": [list(path) for path in found], "of_score": score}
    return atlas.ask("path_evidence", values, warnings=empty + atlas.truncation(), headline=HEADLINE)


@dataclass(frozen=True)
class _Steps:
    """Edges sorted by source, between places in `ids`; ends: whether each neuron is a target."""

    ids: Any  # int64 [neurons]
    src: Any  # int64 [edges], as the next two
    tgt: Any
    size: Any  # mean |F|
    ends: Any  # bool [neurons]


def _refuse(*, max_hops: int, k: int, score: str, min_count: int) -> None:
    if score not in SCORES:
        raise InputError(f"unknown score {score!r}; use {' or '.join(SCORES)}")
    if not 1 <= max_hops <= MOST_HOPS:
        raise InputError(f"paths have 1 to {MOST_HOPS} edges, not {max_hops}; go in two steps to reach further")
    if not 1 <= k <= MOST_PATHS:
        raise InputError(f"paths finds 1 to {MOST_PATHS} paths, not {k}")
    if min_count < 0:
        raise InputError(f"the fewest observations cannot be {min_count}; use 1 for every edge")


def _named(atlas: Atlas, ids: list[int]) -> str:
    return str(atlas.neuron_id(ids[0])) if len(ids) == 1 else f"any of {len(ids)} neurons"


def _strongest(atlas: Atlas, asked: dict[str, Any], k: int) -> list[tuple[int, ...]]:
    """Search the edges that suffice for k walks; where some of these visit a neuron twice, search all edges."""
    import pyarrow.compute

    for most in (k, None):
        table = atlas.ask("path_edges", asked | {"max_rows": most}).arrow()
        if table.num_rows == 0:
            return []
        if table.num_rows > MOST_STEPS:
            raise InputError(f"{table.num_rows:,} edges lie on cycles or paths, {MOST_STEPS:,} at most; lower max_hops")
        kept = float(table["kept"][0].as_py())
        if isnan(kept + pyarrow.compute.sum(table["size"]).as_py()):
            raise StoreError(f"{atlas.name} has edges whose weights are not numbers; run atlas check to see which")
        search = _Search(_steps(table, asked["of_targets"]), asked["hops"], asked["of_score"] == "bottleneck")
        best = search.run(asked["of_sources"], k)
        if kept == 0 or (len(best) == k and min(score for score, _ in best) >= kept):
            break
    return [path for _, path in best]


def _steps(table: Any, targets: list[int]) -> _Steps:
    import numpy as np

    ids, places = np.unique(np.concatenate([table["src"].to_numpy(), table["tgt"].to_numpy()]), return_inverse=True)
    src, tgt = np.split(places, 2)
    return _Steps(ids, src, tgt, table["size"].to_numpy(), np.isin(ids, targets))


class _Search:
    """Best-first: of all beginnings the one with the best possible end is made one edge longer."""

    def __init__(self, steps: _Steps, hops: int, narrow: bool) -> None:
        self._steps, self._hops, self._narrow = steps, hops, narrow
        self._wide = self._ends(narrow=True) if narrow else None
        self._long = self._ends(narrow=False)

    def run(self, sources: list[int], k: int) -> list[tuple[float, tuple[int, ...]]]:
        """The k best (score, packed ids), best first."""
        import numpy as np

        heap = []
        for place in np.flatnonzero(np.isin(self._steps.ids, sources)).tolist():
            heap.append((self._bound(float("inf"), 1.0, place, 0), (place,), False, (float("inf"), 1.0)))
        heap = [item for item in heap if item[0][1] < 0]
        heapq.heapify(heap)
        best: list[tuple[float, tuple[int, ...]]] = []
        tried = 0
        while heap and len(best) < k:
            _, path, open_end, so_far = heapq.heappop(heap)
            if not open_end and len(path) > 1:
                best.append((so_far[0 if self._narrow else 1], tuple(self._steps.ids[list(path)].tolist())))
                continue
            for item in self._longer(path, so_far):
                heapq.heappush(heap, item)
                tried += 1
            if tried > MOST_STEPS:
                raise InputError(f"more than {MOST_STEPS:,} beginnings of paths of one strength; lower max_hops or k")
        return best

    def _longer(self, path: tuple[int, ...], so_far: tuple[float, float]) -> Iterator[tuple[Any, ...]]:
        import numpy as np

        first, last = np.searchsorted(self._steps.src, [path[-1], path[-1] + 1])
        for place, size in zip(
            self._steps.tgt[first:last].tolist(), self._steps.size[first:last].tolist(), strict=True
        ):
            if place in path:
                continue
            now, longer = (min(so_far[0], size), so_far[1] * size), (*path, place)
            if self._steps.ends[place]:
                yield (-now[0] if self._narrow else -now[1], -now[1]), longer, False, now
            bound = self._bound(*now, place, len(path))
            if bound[1] < 0:
                yield bound, longer, True, now

    def _bound(self, width: float, product: float, place: int, used: int) -> tuple[float, float]:
        """(score, product), negated, of the best end that is at least one edge longer; (0, 0) when there is none."""
        left = self._hops - used
        best = product * float(self._long[left][place])
        if self._wide is None:
            return -best, -best
        return -min(width, float(self._wide[left][place])), -best

    def _ends(self, *, narrow: bool) -> list[Any]:
        """[edges left][neuron]: score of the best end of 1 to so many edges, 0 where there is none."""
        import numpy as np

        steps = self._steps
        found = [np.zeros(len(steps.ids))]
        for _ in range(self._hops):
            after = np.where(steps.ends, np.inf if narrow else np.maximum(found[-1], 1.0), found[-1])
            through = np.minimum(steps.size, after[steps.tgt]) if narrow else steps.size * after[steps.tgt]
            best = np.zeros(len(steps.ids))
            np.maximum.at(best, steps.src, through)
            found.append(best)
        return found
