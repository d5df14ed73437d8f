"""Undirected weighted pairs -> modules by Leiden, each that is too large split again inside, level by level.

Flat Leiden (Traag, Waltman, Van Eck 2019) makes a few modules of tens of thousands of neurons of such graphs. A module
of more than `max_size` neurons is clustered by itself; where that leaves it nearly whole, at double the resolution.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Literal

import duckdb
import numpy as np
import numpy.typing as npt

from atlas.derive.clustering.graph import DEFAULT_WEIGHT, USUAL_COUNT, EdgeChoice, count_edges, edge_arrays
from atlas.derive.clustering.hierarchy import Steps, number_by_size, place
from atlas.derive.clustering.undirected import Labels, Pairs, igraph_of, modularity, potts, undirected
from atlas.errors import InputError
from atlas.ingest.partitions import Clustering, Placed
from atlas.progress import Progress, Quiet

_DOUBLINGS = 20  # of the resolution: a million times
_WHOLE = 0.9  # a part with more of its module than this is no split: it would peel off neurons, a level each


@dataclass(frozen=True)
class LeidenOptions:
    """Parameters of a run."""

    name: str | None = None  # of the clustering; "leiden" without one
    weight: str = DEFAULT_WEIGHT
    min_count: int = USUAL_COUNT  # edges seen less often are left out
    seed: int = 42
    trials: int = 1  # of the first level, the best is kept
    resolution: float = 1.0
    max_size: int = 1000  # a larger module is split again
    objective: Literal["modularity", "cpm"] = "modularity"


@dataclass
class _Found:
    """Levels so far, and what could not be split as asked."""

    columns: list[npt.NDArray[np.int32]]
    whole: npt.NDArray[np.bool_]  # neurons of modules that no resolution splits
    unsplit: list[int] = field(default_factory=list)  # their sizes
    highest: float = 1.0  # the most that the resolution was raised by


def find(
    con: duckdb.DuckDBPyConnection, *, options: LeidenOptions, d_mlp: int, progress: Progress | None = None
) -> tuple[Clustering, Placed]:
    """Cluster the edges of the atlas; quality is that of the first level (modularity, or the constant Potts model).

    Notes say which modules stayed above `max_size` and how far the resolution was raised; parameters keep both.
    """
    _verify(options)
    shown, choice = progress or Quiet(), EdgeChoice(options.weight, options.min_count)
    edges = count_edges(con, choice)
    with shown.task("reading edges", edges, "edges") as task:
        read = edge_arrays(con, choice)
        task.advance(edges)
    ids, pairs = read.ids, undirected(read)
    del read
    found, quality = _recurse(pairs, options, shown)
    for note in _notes(found, options):
        shown.note(note)
    given = {name: value for name, value in asdict(options).items() if name != "name"}
    told = {"directed": False, "modules_left_above_max_size": len(found.unsplit), "resolution_raised": found.highest}
    run = Clustering(
        options.name or "leiden", "leiden", {**given, **told}, options.seed, edges, quality, options.objective
    )
    steps: Steps = np.column_stack(found.columns)
    return run, place(ids, steps)


def _verify(options: LeidenOptions) -> None:
    if options.objective not in ("modularity", "cpm"):
        raise InputError(f"no objective {options.objective!r}; choose modularity or cpm")
    if not 0 < options.resolution < float("inf"):
        raise InputError(f"the resolution is {options.resolution}, it must be above 0")
    if options.max_size < 2 or options.trials < 1:
        raise InputError("the maximum size must be at least 2, and the trials at least 1")


def _recurse(pairs: Pairs, options: LeidenOptions, progress: Progress) -> tuple[_Found, float]:
    with progress.task("Leiden, level 1", options.trials, "trials") as task:
        best: tuple[float, Labels] | None = None
        for trial in range(options.trials):
            labels = _leiden(pairs, options, options.resolution, seed=options.seed + trial)
            quality = _quality(pairs, labels, options)
            if best is None or quality > best[0]:
                best = quality, labels
            task.advance()
    assert best is not None
    found = _Found([number_by_size(best[1])], np.zeros(pairs.n, dtype=bool))
    code = found.columns[0].astype(np.int64)
    while len(large := _large(code, found, options.max_size)):
        found.columns.append(_split_all(pairs, code, large, (options, found), progress))
        code = np.unique(code << 32 | found.columns[-1], return_inverse=True)[1]
    return found, best[0]


def _large(code: npt.NDArray[np.int64], found: _Found, most: int) -> npt.NDArray[np.int64]:
    """Modules that are too large and were not tried in vain."""
    return np.flatnonzero(np.bincount(code, ~found.whole) > most)


def _split_all(
    pairs: Pairs,
    code: npt.NDArray[np.int64],
    large: npt.NDArray[np.int64],
    how: tuple[LeidenOptions, _Found],
    progress: Progress,
) -> npt.NDArray[np.int32]:
    """One level more: numbers inside each of the large modules, 0 elsewhere."""
    options, found = how
    column = np.zeros(pairs.n, dtype=np.int32)
    with progress.task(f"Leiden, level {len(found.columns) + 1}", len(large), "modules") as task:
        for members, inside in _inner(pairs, code, large):
            labels, factor = _split(inside, options)
            if labels is None:
                found.whole[members] = True
                found.unsplit.append(len(members))
            else:
                column[members] = number_by_size(labels)
                found.highest = max(found.highest, factor)
            task.advance()
    return column


def _inner(
    pairs: Pairs, code: npt.NDArray[np.int64], large: npt.NDArray[np.int64]
) -> Iterator[tuple[npt.NDArray[np.int64], Pairs]]:
    """(members, pairs inside) of each large module; one sort for all of them."""
    wanted = np.zeros(int(code.max()) + 1, dtype=bool)
    wanted[large] = True
    kept = np.flatnonzero((code[pairs.low] == code[pairs.high]) & wanted[code[pairs.low]])
    kept = kept[np.argsort(code[pairs.low[kept]], kind="stable")]
    order = np.argsort(code, kind="stable")
    local = np.empty(pairs.n, dtype=np.int32)
    slices = zip(_slices(code[order], large), _slices(code[pairs.low[kept]], large), strict=True)
    for nodes, rows in slices:
        members, links = order[nodes], kept[rows]
        local[members] = np.arange(len(members), dtype=np.int32)
        yield members, Pairs(len(members), local[pairs.low[links]], local[pairs.high[links]], pairs.weight[links])


def _slices(ordered: npt.NDArray[np.int64], wanted: npt.NDArray[np.int64]) -> Iterator[slice]:
    """Where each wanted value lies in a sorted array."""
    ends = (np.searchsorted(ordered, wanted, side=side).tolist() for side in ("left", "right"))
    return (slice(*pair) for pair in zip(*ends, strict=True))


def _split(pairs: Pairs, options: LeidenOptions) -> tuple[Labels | None, float]:
    """Parts of a module and by how much the resolution was raised; None when it stays whole or falls into single ones.

    CPM finds the same optimum in a module as in the graph, so it starts at double.
    """
    factor = 1.0 if options.objective == "modularity" else 2.0
    for _ in range(_DOUBLINGS):
        labels = _leiden(pairs, options, options.resolution * factor, seed=options.seed)
        sizes = np.bincount(labels)
        if sizes.max() == 1:
            break
        if sizes.max() <= _WHOLE * pairs.n:
            return labels, factor
        factor *= 2
    return None, factor


def _leiden(pairs: Pairs, options: LeidenOptions, resolution: float, *, seed: int) -> Labels:
    import leidenalg

    if not len(pairs.low):
        return np.arange(pairs.n, dtype=np.int32)
    kind = {
        "modularity": leidenalg.RBConfigurationVertexPartition,
        "cpm": leidenalg.CPMVertexPartition,
    }[options.objective]
    found = leidenalg.find_partition(
        igraph_of(pairs), kind, weights=pairs.weight.tolist(), seed=seed, resolution_parameter=resolution
    )
    return np.array(found.membership, dtype=np.int32)


def _quality(pairs: Pairs, labels: Labels, options: LeidenOptions) -> float:
    measure = modularity if options.objective == "modularity" else potts
    return measure(pairs, labels, resolution=options.resolution)


def _notes(found: _Found, options: LeidenOptions) -> Iterator[str]:
    if found.unsplit:
        yield (
            f"{len(found.unsplit):,} modules of more than {options.max_size:,} neurons cannot be split (the largest "
            f"has {max(found.unsplit):,}): at any resolution they stay nearly whole or fall into single neurons"
        )
    if found.highest > 1:
        yield f"to split large modules the resolution was raised up to {found.highest:,.0f} times"
