"""Directed weighted edges -> multi-level modules (Infomap).

The map equation (Rosvall, Bergstrom 2008; multi-level: 2011) groups neurons among which a random walker on the
edges stays long. Same seed, same edges: same modules, whatever the threads. Many edges go to a process of their own
as a link list: its memory comes back, a signal stops it, and nothing but Infomap's network is held meanwhile.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np
import numpy.typing as npt

from atlas.derive.clustering.graph import DEFAULT_WEIGHT, USUAL_COUNT, EdgeChoice, count_edges, edge_batches
from atlas.derive.clustering.hierarchy import Steps, place
from atlas.errors import ResourceError, StoreError
from atlas.ingest.partitions import Clustering, Placed
from atlas.progress import Progress, Quiet

if TYPE_CHECKING:
    import pyarrow as pa

SMALL = 200_000  # edges that are clustered here: a second of Infomap, less than a process takes to start and report


@dataclass(frozen=True)
class InfomapOptions:
    """Parameters of a run."""

    name: str | None = None  # of the clustering; "infomap" without one
    weight: str = DEFAULT_WEIGHT
    min_count: int = USUAL_COUNT  # edges seen less often are left out
    seed: int = 42
    trials: int = 1  # the best of so many runs


@dataclass(frozen=True)
class Tree:
    """What Infomap found: flow and steps of every node, the leaf's own rank left out of the steps."""

    ids: npt.NDArray[np.int64]
    flow: npt.NDArray[np.float64]
    steps: Steps
    codelength: float  # bits a step


def find(
    con: duckdb.DuckDBPyConnection, *, options: InfomapOptions, d_mlp: int, progress: Progress | None = None
) -> tuple[Clustering, Placed]:
    """Cluster the edges of the atlas; quality is the codelength.

    The flow is 0 for neurons without incoming edges (those of layer 0): Infomap's walker starts anew uniformly, but
    these steps are not counted (unrecorded teleportation). Memory: that of `count_edges` and about 200 bytes an edge.
    """
    shown, choice = progress or Quiet(), EdgeChoice(options.weight, options.min_count)
    edges = count_edges(con, choice)
    tree = (by_array if edges <= SMALL else by_file)(con, edges, options=options, progress=shown)
    given = {name: value for name, value in asdict(options).items() if name != "name"}
    run = Clustering(
        options.name or "infomap", "infomap", {**given, "directed": True}, options.seed, edges, tree.codelength,
        "codelength",
    )  # fmt: skip
    return run, place(tree.ids, tree.steps, tree.flow)


def by_array(
    con: duckdb.DuckDBPyConnection, edges: int, *, options: InfomapOptions, progress: Progress | None = None
) -> Tree:
    """Cluster in this process."""
    links = np.empty((edges, 3))
    row = 0
    for batch in edge_batches(con, _choice(options)):
        for column in range(3):
            links[row : row + len(batch), column] = batch.column(column).to_numpy()
        row += len(batch)
    with (progress or Quiet()).task("Infomap", edges, "edges") as task:
        network = _network(options.seed, options.trials)
        network.add_links(links)
        tree = _tree(network.run())
        task.advance(edges)
    return tree


def by_file(
    con: duckdb.DuckDBPyConnection, edges: int, *, options: InfomapOptions, progress: Progress | None = None
) -> Tree:
    """Cluster in a process of its own that reads a link list; the list lies where the connection spills."""
    shown = progress or Quiet()
    with tempfile.TemporaryDirectory(prefix="atlas-infomap.", dir=spill_folder(con)) as folder:
        with shown.task("writing links", edges, "edges") as task, (Path(folder) / "links.txt").open("wb") as file:
            for batch in edge_batches(con, _choice(options)):
                _write_links(batch, file)
                task.advance(len(batch))
        with shown.task("Infomap", edges, "edges") as task:
            _run_beside(Path(folder), options)
            task.advance(edges)
        with np.load(Path(folder) / "tree.npz") as found:
            return Tree(found["ids"], found["flow"], found["steps"], float(found["codelength"]))


def spill_folder(con: duckdb.DuckDBPyConnection) -> Path | None:
    """Where this connection spills, made if need be; None (the system's place) for one that was not told."""
    place = Path(con.execute("SELECT current_setting('temp_directory')").fetchall()[0][0] or ".tmp")
    if not place.is_absolute():
        return None
    place.mkdir(parents=True, exist_ok=True)
    return place


def cluster_file(folder: Path) -> None:
    """links.txt and options.json of a folder -> tree.npz: what the process of its own does."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: a killed parent takes it along
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Infomap's loops do not return to Python
    given = json.loads((folder / "options.json").read_text())
    network = _network(given["seed"], given["trials"])
    network.read_file(str(folder / "links.txt"))
    tree = _tree(network.run())
    np.savez(folder / "tree.npz", ids=tree.ids, flow=tree.flow, steps=tree.steps, codelength=tree.codelength)


def _choice(options: InfomapOptions) -> EdgeChoice:
    return EdgeChoice(options.weight, options.min_count)


def _network(seed: int, trials: int) -> Any:
    from infomap import Infomap

    return Infomap(directed=True, seed=seed, num_trials=trials, silent=True)


def _tree(result: Any) -> Tree:
    """Infomap's result as arrays: 7 s for 1.6 million nodes, most of it Infomap's own copying."""
    depth = max(result.num_levels, 2)
    nodes = result.num_nodes
    ids, flow = np.empty(nodes, dtype=np.int64), np.empty(nodes)
    steps = np.zeros((nodes, depth), dtype=np.int32)
    for row, node in enumerate(result.nodes()):
        path = node.path
        ids[row], flow[row] = node.node_id, node.flow
        steps[row, : len(path) - 1] = path[:-1]
    if not steps.any():  # a network left whole: leaves directly below the root
        steps[:, 0] = 1
    return Tree(ids, flow, steps, float(result.codelength))


def _write_links(batch: pa.RecordBatch, file: Any) -> None:
    """Append "src tgt weight" lines; weights in the shortest form that reads back as the same number."""
    import polars as pl

    frame = pl.from_arrow(batch)
    assert isinstance(frame, pl.DataFrame)
    frame.write_csv(file, include_header=False, separator=" ")


def _run_beside(folder: Path, options: InfomapOptions) -> None:
    (folder / "options.json").write_text(json.dumps(asdict(options)))
    code = "import sys, pathlib; from atlas.derive.clustering.infomap import cluster_file; "
    command = [sys.executable, "-c", code + "cluster_file(pathlib.Path(sys.argv[1]))", str(folder)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(_importable(sys.path))}
    done = subprocess.run(
        command, check=False, env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    if done.returncode == -signal.SIGKILL:
        raise ResourceError(
            "the system killed Infomap, most likely for want of memory; it takes about 200 bytes an edge: raise "
            "--min-count, or use a machine with more"
        )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["nothing on stderr"])[-1]
        raise StoreError(f"Infomap ended with code {done.returncode} ({last}); run it again, or use --method leiden")


def _importable(places: Iterable[str]) -> list[str]:
    return [place or os.getcwd() for place in places]
