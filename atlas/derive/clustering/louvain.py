"""Undirected weighted pairs -> the levels of Louvain's algorithm as nested modules.

Each pass of the algorithm (Blondel et al. 2008) merges the modules of the one before; the last is the top level.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import duckdb
import numpy as np

from atlas.derive.clustering.graph import DEFAULT_WEIGHT, USUAL_COUNT, EdgeChoice, count_edges, edge_arrays
from atlas.derive.clustering.hierarchy import nest, place
from atlas.derive.clustering.undirected import Labels, igraph_of, modularity, undirected
from atlas.errors import InputError
from atlas.ingest.partitions import Clustering, Placed
from atlas.progress import Progress, Quiet

NAME = "louvain-hierarchical"


@dataclass(frozen=True)
class LouvainOptions:
    """Parameters of a run."""

    name: str | None = None  # of the clustering; "louvain-hierarchical" without one
    weight: str = DEFAULT_WEIGHT
    min_count: int = USUAL_COUNT  # edges seen less often are left out
    seed: int = 42
    trials: int = 1  # the best of so many runs
    resolution: float = 1.0


def find(
    con: duckdb.DuckDBPyConnection, *, options: LouvainOptions, d_mlp: int, progress: Progress | None = None
) -> tuple[Clustering, Placed]:
    """Cluster the edges of the atlas; quality is the modularity of the top level."""
    if not 0 < options.resolution < float("inf"):
        raise InputError(f"the resolution is {options.resolution}, it must be above 0")
    if options.trials < 1:
        raise InputError(f"trials is {options.trials}, it must be at least 1")
    shown, choice = progress or Quiet(), EdgeChoice(options.weight, options.min_count)
    edges = count_edges(con, choice)
    with shown.task("reading edges", edges, "edges") as task:
        read = edge_arrays(con, choice)
        task.advance(edges)
    ids, pairs = read.ids, undirected(read)
    del read
    graph, best = igraph_of(pairs), (-np.inf, list[Labels]())
    with shown.task("Louvain", options.trials, "trials") as task:
        for trial in range(options.trials):
            with _seeded(options.seed + trial):
                found = graph.community_multilevel(pairs.weight, return_levels=True, resolution=options.resolution)
            levels = [np.array(one.membership, dtype=np.int32) for one in reversed(found)]
            best = max(best, (modularity(pairs, levels[0], resolution=options.resolution), levels), key=lambda t: t[0])
            task.advance()
    given = {name: value for name, value in asdict(options).items() if name != "name"}
    run = Clustering(
        options.name or NAME, NAME, {**given, "directed": False}, options.seed, edges, float(best[0]), "modularity"
    )
    return run, place(ids, nest(best[1]))


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Give igraph's one generator a seed; afterwards it draws from Python's again, as it does at first."""
    import igraph

    igraph.set_random_number_generator(random.Random(seed))
    try:
        yield
    finally:
        igraph.set_random_number_generator(random)
