"""Profiles -> modules by non-negative matrix factorisation: profile ~ loadings x components, both >= 0.

A neuron belongs to the component with its largest loading, and `membership` is that loading's share of all: near 1 for
a neuron of one component, near 1/k for one of none. Components come by HALS (Cichocki, Phan 2009), one at a time in
closed form, so the error never rises.
"""

from __future__ import annotations

from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt

from atlas.derive.clustering.profiles import (
    Floats,
    ProfileOptions,
    described,
    module_count,
    placed,
    read_profiles,
    require_memory,
)
from atlas.ingest.partitions import Clustering, Placed
from atlas.progress import Progress, Quiet

MOST = 64  # components of the rule for k: each is as wide as the profiles
_STEPS = 200
_ENOUGH = 1e-5  # improvement of the relative error in a step below which more steps change no module


def find(
    con: duckdb.DuckDBPyConnection, *, options: ProfileOptions, d_mlp: int, progress: Progress | None = None
) -> tuple[Clustering, Placed]:
    """Cluster neurons by their strongest component; k is sqrt(neurons / 2), at most 64, if not given.

    Quality is the reconstruction error: the Frobenius norm of what the product leaves over, over the profiles' norm.
    """
    found = read_profiles(con, options=options, d_mlp=d_mlp)
    k = module_count(options, len(found.ids), most=MOST)
    require_memory(12 * k * sum(found.rows.shape), f"{k} components of {len(found.ids):,} profiles")
    loadings, components, error = factorise(found.rows, k, seed=options.seed, progress=progress)
    scaled = loadings.astype(np.float64) * np.linalg.norm(components, axis=1)[:, None]
    sums, labels = scaled.sum(axis=0), scaled.argmax(axis=0)
    share = scaled.max(axis=0) / np.where(sums > 0, sums, 1)
    run = described("nmf", options, found, k=k, quality=("reconstruction_error", error))
    return run, placed(found.ids, np.where(sums > 0, labels, -1), share)


def factorise(rows: Any, k: int, *, seed: int, progress: Progress | None = None) -> tuple[Floats, Floats, float]:
    """(loadings [k, n], components [k, columns], relative error) of a non-negative sparse matrix [n, columns]."""
    rng, total = np.random.default_rng(seed), float(np.square(rows.data, dtype=np.float64).sum())
    scale = np.float32(np.sqrt(rows.data.sum(dtype=np.float64) / (rows.shape[0] * rows.shape[1] * k)))
    loadings, components = (scale * rng.random((k, size), dtype=np.float32) for size in rows.shape)
    transposed, error = rows.T.tocsr(), 1.0
    with (progress or Quiet()).task("nmf", _STEPS, "steps") as task:
        for _ in range(_STEPS):
            _improve(components, (transposed @ loadings.T).T, loadings @ loadings.T)
            reached = np.ascontiguousarray((rows @ components.T).T)
            _improve(loadings, reached, components @ components.T)
            before, error = error, _error(total, loadings, reached, components)
            task.advance()
            if before - error < _ENOUGH:
                break
    return loadings, components, error


def _improve(factor: Floats, reached: npt.NDArray[np.float32], gram: npt.NDArray[np.float32]) -> None:
    """Each row of the factor, in turn, to its best value with the others held; in place."""
    for row in range(len(factor)):
        if gram[row, row] > 0:
            step = (reached[row] - gram[row] @ factor) / gram[row, row]
            np.maximum(factor[row] + step, 0, out=factor[row])


def _error(total: float, loadings: Floats, reached: Floats, components: Floats) -> float:
    """||V - WH|| / ||V|| from what the step has at hand: ||V||^2 - 2 <W, VH'> + <W'W, HH'>."""
    crossed = float(np.einsum("ij,ij->", loadings, reached, dtype=np.float64))
    squared = float(((loadings @ loadings.T).astype(np.float64) * (components @ components.T)).sum())
    return float(np.sqrt(max(total - 2 * crossed + squared, 0.0) / total))
