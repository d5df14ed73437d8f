"""Graph of the neurons -> modules by its smoothest vectors (Shi, Malik 2000; Ng, Jordan, Weiss 2001), then k-means.

The graph is undirected: mean |weight| of the edges of both directions, or the cosine of two activation profiles, which
is applied as a product and never formed. The k leading eigenvectors of D^-1/2 W D^-1/2, with rows scaled to length 1,
are the points. A part of the graph that is not linked to the largest one is a module of its own.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import duckdb
import numpy as np

from atlas.derive.clustering.kmeans import kmeans, unit_rows
from atlas.derive.clustering.profiles import (
    Floats,
    ProfileOptions,
    Profiles,
    described,
    module_count,
    placed,
    read_graph,
    read_profiles,
    require_entries,
    require_memory,
)
from atlas.errors import StoreError
from atlas.ingest.partitions import Clustering, Placed
from atlas.progress import Progress

MOST = 64  # modules of the rule for k: each needs an eigenvector
_DENSE = 400  # neurons up to which all eigenvectors are as fast


def find(
    con: duckdb.DuckDBPyConnection, *, options: ProfileOptions, d_mlp: int, progress: Progress | None = None
) -> tuple[Clustering, Placed]:
    """Cluster neurons that the graph links closely; k is sqrt(neurons / 2), at most 64, if not given.

    k counts the modules of the largest linked part. Quality is the inertia of its points.
    """
    from scipy.sparse.csgraph import connected_components

    found, linked = _graph(con, options, d_mlp)
    part = connected_components(linked, directed=False)[1][: len(found.ids)].astype(np.int64)
    inside = np.flatnonzero(part == np.bincount(part).argmax())
    k = module_count(options, len(inside), most=MOST)
    require_memory(8 * (4 * k + 2) * len(inside), f"{k} eigenvectors of {len(inside):,} neurons")
    rows = found.rows[inside] if options.profile == "activations" else found.rows[inside][:, inside]
    points = unit_rows(_smoothest(_balanced(rows, square=options.profile == "activations"), k, seed=options.seed))
    labels = part + k
    labels[inside], inertia = kmeans(points, k, seed=options.seed, progress=progress)
    return described("spectral", options, found, k=k, quality=("inertia", inertia)), placed(found.ids, labels)


def _graph(con: duckdb.DuckDBPyConnection, options: ProfileOptions, d_mlp: int) -> tuple[Profiles, Any]:
    """Rows of the graph (activations: of its square root), and a graph of the same linked parts."""
    from scipy.sparse import block_array

    if options.profile == "activations":
        found = read_profiles(con, options=options, d_mlp=d_mlp)
        return found, block_array([[None, found.rows], [found.rows.T, None]], format="csr")
    require_entries(con, options)
    one_way = read_graph(con, min_count=options.min_count)
    both_ways = one_way.rows + one_way.rows.T
    return replace(one_way, rows=both_ways.tocsr()), both_ways


def _balanced(rows: Any, *, square: bool) -> Any:
    """D^-1/2 W D^-1/2 as an operator; W is the rows or, with `square`, rows x rows'."""
    from scipy.sparse import diags_array
    from scipy.sparse.linalg import aslinearoperator

    degree = rows @ (rows.T @ np.ones(rows.shape[0])) if square else rows @ np.ones(rows.shape[0])
    root = diags_array(1 / np.sqrt(degree))
    if not square:
        return aslinearoperator(root @ rows.astype(np.float64) @ root)
    half = aslinearoperator((root @ rows).tocsr())
    return half @ half.T


def _smoothest(graph: Any, k: int, *, seed: int) -> Floats:
    """Its k leading eigenvectors, [n, k]."""
    from scipy.sparse.linalg import ArpackNoConvergence, eigsh

    n = graph.shape[0]
    if n <= _DENSE or k >= n - 1:
        dense = graph @ np.eye(n)
        vectors = np.linalg.eigh((dense + dense.T) / 2)[1][:, ::-1][:, :k]
    else:
        start = np.random.default_rng(seed).random(n)  # ARPACK draws one of its own otherwise
        try:
            vectors = eigsh(graph, k=k, which="LA", v0=start, tol=1e-6)[1]
        except ArpackNoConvergence as error:
            raise StoreError(f"{len(error.eigenvalues)} of {k} eigenvectors converged; lower k") from error
    return np.ascontiguousarray(vectors, dtype=np.float32)
