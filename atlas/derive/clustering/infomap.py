"""Directed weighted edges -> multi-level modules (Infomap), as rows of `partitions`.

The map equation (Rosvall, Bergstrom 2008; multi-level: 2011) groups neurons among which a random walker on the
edges stays long. Same seed, same edges: same modules, whatever the threads.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass

import duckdb
import numpy as np

from atlas.derive.clustering.graph import EdgeArrays, edge_arrays
from atlas.errors import StoreError
from atlas.ingest.partitions import Clustering, Placed, write_clustering


@dataclass(frozen=True)
class InfomapOptions:
    """Parameters of the primary clustering."""

    min_count: int = 3  # edges seen less often are left out
    seed: int = 42
    trials: int = 1


def cluster(con: duckdb.DuckDBPyConnection, *, options: InfomapOptions, d_mlp: int) -> int:
    """Cluster the edges of the atlas; the run of the name 'infomap' is replaced."""
    edges = edge_arrays(con, min_count=options.min_count)
    if len(edges) == 0:
        raise StoreError(
            f"no edge has a count of at least {options.min_count}: nothing to cluster; "
            "lower cluster.min_count or measure more graphs (relp.graphs)"
        )
    found = modules(edges, options=options)
    placed = Placed(
        np.array([row[0] for row in found], dtype=np.int64), [row[1] for row in found], np.array([r[2] for r in found])
    )
    parameters = {**asdict(options), "weight": "mean_abs_weight^2", "directed": True}
    run = Clustering("infomap", "infomap", parameters, options.seed, len(edges))
    return write_clustering(con, run, placed, d_mlp=d_mlp)


def modules(edges: EdgeArrays, *, options: InfomapOptions) -> list[tuple[int, str, float]]:
    """(packed id, module path, flow) of every neuron with an edge, by id.

    The path holds real modules only, from the top: Infomap's last step, the leaf's own rank in its module, is dropped,
    and so are modules of one neuron: it belongs to the module above, or, at the top, to none and is left out. A
    network that Infomap leaves whole has the one module "1". The flow is 0 for neurons without incoming edges (those
    of layer 0): Infomap's walker starts anew uniformly, but these steps are not counted (unrecorded teleportation).
    """
    from infomap import Infomap

    ids, compact = np.unique(np.concatenate([edges.src, edges.tgt]), return_inverse=True)
    links = np.column_stack([compact[: len(edges)], compact[len(edges) :], edges.weight])
    tree = Infomap(directed=True, seed=options.seed, num_trials=options.trials, silent=True)
    tree.add_links(links)
    result = tree.run()
    placed = [(int(ids[node.node_id]), node.path[:-1] or (1,), float(node.flow)) for node in result.nodes()]
    sizes = Counter(path[:depth] for _, path, _ in placed for depth in range(1, len(path) + 1))
    found = [(packed, _shared_path(path, sizes), flow) for packed, path, flow in placed]
    return sorted(row for row in found if row[1])


def _shared_path(path: tuple[int, ...], sizes: Counter[tuple[int, ...]]) -> str:
    return ".".join(str(step) for depth, step in enumerate(path, start=1) if sizes[path[:depth]] > 1)
