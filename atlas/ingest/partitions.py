"""The modules that one clustering run found -> its rows of `partitions` and its row of `clusterings`.

Runs lie beside one another under a name; metadata `primary_clustering` names the one that `neurons` and `clusters`
show.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from atlas.store.sqlfiles import sql_text
from atlas.store.write import append_from_arrow, append_from_query
from atlas.tables import TABLES


@dataclass(frozen=True)
class Clustering:
    """What a run was; `quality` is what its method optimised."""

    name: str
    method: str
    parameters: Mapping[str, object] = field(default_factory=dict)
    seed: int | None = None
    edges: int | None = None
    quality: float | None = None
    quality_measure: str | None = None


@dataclass(frozen=True)
class Placed:
    """Neurons in modules, by ascending packed id. Paths hold real modules only: each has two neurons or more."""

    ids: npt.NDArray[np.int64]
    paths: Sequence[str] | npt.NDArray[np.str_]
    flow: npt.NDArray[np.float64] | None = None
    membership: npt.NDArray[np.float64] | None = None


def write_clustering(con: duckdb.DuckDBPyConnection, run: Clustering, found: Placed, *, d_mlp: int) -> int:
    """Replace the rows of this run by name; the number of neurons placed. Call it inside a transaction."""
    con.execute("DELETE FROM partitions WHERE clustering = $1", [run.name])
    rows = append_from_arrow(con, "partitions", _rows(run, found, d_mlp))
    describe_clustering(con, run)
    return rows


def describe_clustering(con: duckdb.DuckDBPyConnection, run: Clustering) -> None:
    """Replace the run's row of `clusterings` by one counted from its rows of `partitions`."""
    con.execute("DELETE FROM clusterings WHERE clustering = $1", [run.name])
    bound = {
        "clustering": run.name, "method": run.method, "parameters": _json(run), "seed": run.seed, "edges": run.edges,
        "quality": run.quality, "quality_measure": run.quality_measure,
    }  # fmt: skip
    append_from_query(con, "clusterings", sql_text("ingest", "clusterings"), bound)


def _rows(run: Clustering, found: Placed, d_mlp: int) -> pa.Table:
    n, schema = len(found.ids), TABLES["partitions"]
    same = {"method": run.method, "parameters": _json(run), "seed": run.seed, "clustering": run.name}
    drawn = {
        "layer": found.ids // d_mlp, "neuron": found.ids % d_mlp, "cluster_path": found.paths, "flow": found.flow,
        "membership": found.membership,
    }  # fmt: skip
    columns = {name: pa.repeat(pa.scalar(value, schema.field(name).type), n) for name, value in same.items()}
    columns |= {
        name: pa.nulls(n, schema.field(name).type) if values is None else pa.array(values).cast(schema.field(name).type)
        for name, values in drawn.items()
    }
    return pa.table([columns[name] for name in schema.names], schema=schema)


def _json(run: Clustering) -> str:
    return json.dumps(dict(run.parameters), sort_keys=True)
