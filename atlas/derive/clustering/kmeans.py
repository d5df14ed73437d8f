"""Profiles -> modules by k-means: rows along their leading directions, k-means++ seeds, Lloyd's steps in blocks.

scipy's kmeans2 compares each new seed with all before it, k^2 n distances; here a seed costs n (Arthur, Vassilvitskii
2007), and no step holds more than one block of distances.
"""

from __future__ import annotations

import duckdb
import numpy as np

from atlas.derive.clustering.profiles import (
    DIMENSIONS,
    Floats,
    Ints,
    ProfileOptions,
    described,
    directions,
    module_count,
    placed,
    read_profiles,
    require_memory,
)
from atlas.ingest.partitions import Clustering, Placed
from atlas.progress import Progress, Quiet, Task

MOST = 1024  # modules of the rule for k
_BLOCK = 1 << 22  # distances held at once, 16 MiB
_TRIALS, _SMALL = 4, 20_000  # fresh starts for so many neurons; one for more
_STEPS = 100


def find(
    con: duckdb.DuckDBPyConnection, *, options: ProfileOptions, d_mlp: int, progress: Progress | None = None
) -> tuple[Clustering, Placed]:
    """Cluster neurons whose profiles point the same way; k is sqrt(neurons / 2), at most 1024, if not given.

    Quality is the inertia: the sum of squared distances to the module's mean, of rows scaled to length 1.
    """
    found = read_profiles(con, options=options, d_mlp=d_mlp)
    k = module_count(options, len(found.ids), most=MOST)
    require_memory(12 * (DIMENSIONS + 8) * sum(found.rows.shape), f"directions of {len(found.ids):,} profiles")
    points = unit_rows(directions(found.rows, seed=options.seed))
    labels, inertia = kmeans(points, k, seed=options.seed, progress=progress)
    return described("kmeans", options, found, k=k, quality=("inertia", inertia)), placed(found.ids, labels)


def kmeans(points: Floats, k: int, *, seed: int, progress: Progress | None = None) -> tuple[Ints, float]:
    """(module of each point, inertia): the best of four starts up to 20,000 points, of one beyond.

    A tie goes to the module with the lower number; a module may stay empty where points coincide.
    """
    rng = np.random.default_rng(seed)
    trials = _TRIALS if len(points) <= _SMALL else 1
    best: tuple[Ints, float] | None = None
    with (progress or Quiet()).task("k-means", trials * _STEPS, "steps") as task:
        for _ in range(trials):
            found = _lloyd(points, _seeds(points, k, rng), task)
            if best is None or found[1] < best[1]:
                best = found
    assert best is not None
    return best


def unit_rows(points: Floats) -> Floats:
    """Scale rows to length 1; rows of zeros stay."""
    lengths = np.linalg.norm(points, axis=1, keepdims=True)
    return (points / np.where(lengths > 0, lengths, 1)).astype(np.float32)


def _seeds(points: Floats, k: int, rng: np.random.Generator) -> Floats:
    """k-means++: each next seed is drawn with the odds of its squared distance to the nearest one before."""
    squares = np.einsum("ij,ij->i", points, points)
    chosen = [int(rng.integers(len(points)))]
    nearest = _distances(points, squares, points[chosen[-1]])
    while len(chosen) < k and nearest.sum() > 0:
        reach = np.cumsum(nearest, dtype=np.float64)
        chosen.append(min(int(np.searchsorted(reach, rng.random() * reach[-1], side="right")), len(points) - 1))
        nearest = np.minimum(nearest, _distances(points, squares, points[chosen[-1]]))
    return points[chosen]


def _distances(points: Floats, squares: Floats, seed: Floats) -> Floats:
    found: Floats = np.maximum(squares + seed @ seed - 2 * (points @ seed), 0)
    found[found < 1e-6 * (squares + seed @ seed)] = 0  # the seed itself, but for rounding
    return found


def _lloyd(points: Floats, centres: Floats, task: Task) -> tuple[Ints, float]:
    """Assign and average until no point changes its module, or, of many points, one in 1,000: (modules, inertia)."""
    few = 0 if len(points) <= _SMALL else len(points) // 1000
    labels = _nearest(points, centres)
    for _ in range(_STEPS):
        task.advance()
        centres = _means(points, labels, centres)
        again = _nearest(points, centres)
        changed = np.count_nonzero(again != labels)
        labels = again
        if changed <= few:
            break
    rest = points - _means(points, labels, centres)[labels]
    return labels, float(np.einsum("ij,ij->", rest, rest, dtype=np.float64))


def _nearest(points: Floats, centres: Floats) -> Ints:
    rows = max(_BLOCK // len(centres), 1)
    offsets = np.einsum("ij,ij->i", centres, centres) / 2
    return np.concatenate(
        [(offsets - points[at : at + rows] @ centres.T).argmin(axis=1) for at in range(0, len(points), rows)]
    )


def _means(points: Floats, labels: Ints, before: Floats) -> Floats:
    from scipy.sparse import csr_array

    counts = np.bincount(labels, minlength=len(before))
    members = csr_array(
        (np.ones(len(labels), np.float32), labels, np.arange(len(labels) + 1)), (len(labels), len(before))
    )
    sums = members.T.astype(np.float64) @ points
    found: Floats = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], before).astype(np.float32)
    return found
