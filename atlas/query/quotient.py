"""Modules of a level -> the sums of the edges between them, and what chance would send, for all pairs at once.

The definition is in quotient.sql. What chance sends is there a join of margins for each row shown; over all pairs it is
one product of two matrices [modules, layer pairs], which is how it is computed here.
"""

from __future__ import annotations

import importlib.util
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from atlas.errors import ResourceError

if TYPE_CHECKING:
    import duckdb
    import pyarrow

    from atlas.query.atlas import Atlas

Array = NDArray[np.float64]
MOST_MODULES = 4096  # whose matrices are dense: 0.5 GB of sums
WORTH_COMPILING = 1_000_000  # edges; loading numba takes 0.3 s, at the first call ever its compiler 2 s
PLACES = """SELECT feature_id::BIGINT AS id, array_to_string(string_split(cluster_path, '.')[1:$of_level], '.') AS path
            FROM neurons"""
EDGES = "SELECT src, tgt, count, weight_sum, weight_abs_sum FROM edges"
ROWS = """SELECT f.src_cluster, a.label AS src_label, f.tgt_cluster, b.label AS tgt_label, f.n_edges, f.observations,
    f.weight, f.signed_weight, f.expected, f.weight / nullif(f.expected, 0) AS ratio, f.z
FROM found AS f
LEFT JOIN labels AS a ON a.path = f.src_cluster
LEFT JOIN labels AS b ON b.path = f.tgt_cluster
WHERE $of_level >= 1 AND ($with_inside OR f.src_cluster IS DISTINCT FROM f.tgt_cluster)
ORDER BY f.weight DESC, f.src_cluster NULLS LAST, f.tgt_cluster NULLS LAST
LIMIT $max_rows"""


@dataclass(frozen=True)
class Sums:
    """Pairs of modules that have edges, and the margins of every module.

    names: paths, in the macros' order. i, j: indexes of names [pairs]; columns: numbers of each pair by name.
    margins: sent and received; weight and its square; by module and pair of layers, [2, 2, modules, layer pairs].
    """

    names: list[str | None]
    i: NDArray[np.int64]
    j: NDArray[np.int64]
    columns: dict[str, NDArray[Any]]
    margins: Array

    def with_chance(self) -> dict[str, NDArray[Any]]:
        """The columns with expected and z (NaN where nothing can vary)."""
        expected, variance = (grid[self.i, self.j] for grid in _chance(self.margins))
        z = np.full(len(self.i), np.nan)
        varies = variance > 1e-12 * expected**2
        np.divide(self.columns["weight"] - expected, np.sqrt(np.maximum(variance, 0)), out=z, where=varies)
        return {**self.columns, "expected": expected, "z": z}


@dataclass(frozen=True)
class AllPairs:
    """The source of an answer about all pairs: the edges are read when its first cursor is taken."""

    atlas: Atlas
    level: int
    lock: threading.Lock = field(default_factory=threading.Lock)
    made: list[duckdb.DuckDBPyConnection] = field(default_factory=list)

    @property
    def name(self) -> str:
        """File name for messages."""
        return self.atlas.name

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """Return a cursor over the tables found (all pairs) and labels."""
        with self.lock:
            if not self.made:
                self.made.append(_table(self.atlas, self.level))
        return self.made[0].cursor()


def fits(atlas: Atlas, level: int) -> bool:
    """Whether the modules of a level are few enough for dense matrices."""
    rows = atlas.free("SELECT count(*) FROM clusters WHERE level <= $level", {"level": level}).fetchall()
    return bool(rows[0][0] < MOST_MODULES)


def sums(atlas: Atlas, level: int, *, compile_from: int = WORTH_COMPILING) -> Sums:
    """Count all edges, in one compiled pass where they are many and numba is installed, else by the macros."""
    if not fits(atlas, level):
        raise ResourceError(
            f"modules of level {level} are more than {MOST_MODULES:,}: expected and z of all their pairs do not fit in "
            "memory; take the rows, with a limit"
        )
    edges = atlas.free("SELECT count(*) FROM edges", {}).fetchall()[0][0]
    if edges >= compile_from and importlib.util.find_spec("numba") is not None:
        found = _passed(atlas, level)
        if found is not None:
            return found
    return _asked(atlas, level)


def _passed(atlas: Atlas, level: int) -> Sums | None:
    """Sums by module_sums; None where a weight is too large for its whole numbers."""
    from atlas.query.module_sums import QUANTUM, add_edges

    names, place = _places(atlas, level)
    modules, layers = len(names), atlas.layers
    pairs = np.zeros((modules, modules, 4), np.int64)
    sent, received = np.zeros((2, layers, modules, layers, 2))
    largest = 0.0
    for batch in atlas.cursor().sql(EDGES).to_arrow_reader(1_000_000):
        arrays = tuple(column.to_numpy(zero_copy_only=False) for column in batch.columns)
        largest = max(largest, add_edges(arrays, place, atlas.d_mlp, pairs, sent, received))
    if largest >= 2**18 or pairs[..., 2].min(initial=0) < 0:  # a sum of |F| below 0 has overflowed
        return None
    i, j = np.nonzero(pairs[..., 0])
    number, observations, weight, signed = pairs[i, j].T
    columns = {
        "n_edges": number, "observations": observations, "weight": weight / QUANTUM, "signed_weight": signed / QUANTUM,
    }  # fmt: skip
    return Sums(names, i, j, columns, np.stack([_by_module(sent), _by_module(received)]))


def _places(atlas: Atlas, level: int) -> tuple[list[str | None], NDArray[np.int32]]:
    """Paths of the modules in the order of quotient.sql, and the place in them of every packed id (-1 = no neuron)."""
    table = atlas.free(PLACES, {"of_level": level}).arrow()
    encoded = table["path"].combine_chunks().dictionary_encode(null_encoding="encode")
    found: list[str | None] = encoded.dictionary.to_pylist()
    names = sorted(found, key=_null_last)
    order = {name: at for at, name in enumerate(names)}
    place = np.full(atlas.layers * atlas.d_mlp, -1, np.int32)
    place[table["id"].to_numpy()] = np.array([order[name] for name in found], np.int32)[encoded.indices.to_numpy()]
    return names, place


def _null_last(path: str | None) -> tuple[bool, bytes]:
    return path is None, (path or "").encode()


def _by_module(grid: Array) -> Array:
    """[layers, modules, layers, 2] -> [2, modules, layer pairs]."""
    layers, modules, _, _ = grid.shape
    return grid.transpose(3, 1, 0, 2).reshape(2, modules, layers * layers)


def _asked(atlas: Atlas, level: int) -> Sums:
    """Sums by the macros quotient_pairs and quotient_margins."""
    pairs = atlas.ask("quotient_pairs", {"of_level": level}).arrow()
    margins = atlas.ask("quotient_margins", {"of_level": level}).arrow()
    names = sorted(set(margins["cluster_path"].to_pylist()), key=_null_last)
    place = {name: at for at, name in enumerate(names)}
    i, j = (np.array([place[p] for p in pairs[c].to_pylist()], dtype=int) for c in ("src_cluster", "tgt_cluster"))
    columns = {name: pairs[name].to_numpy() for name in pairs.column_names[2:]}
    return Sums(names, i, j, columns, _grid(margins, place))


def _grid(margins: pyarrow.Table, place: dict[str | None, int]) -> Array:
    key = margins["src_layer"].to_numpy().astype(int) * 256 + margins["tgt_layer"].to_numpy()
    blocks, block = np.unique(key, return_inverse=True)
    at = np.array([place[p] for p in margins["cluster_path"].to_pylist()], dtype=int)
    sent = margins["sent"].to_numpy(zero_copy_only=False).astype(bool)
    grid = np.zeros((2, 2, len(place), len(blocks)))
    for side, chosen in enumerate((sent, ~sent)):
        for kind, name in enumerate(("weight", "weight_sq")):
            grid[side, kind, at[chosen], block[chosen]] = margins[name].to_numpy()[chosen]
    return grid


def _chance(margins: Array) -> tuple[Array, Array]:
    """Expected weight and variance of all pairs [modules, modules] as quotient.sql defines them."""
    live = (margins[0].sum(axis=1) > 0).all(axis=0)
    (a, a2), (b, b2) = margins[..., live]
    w, w2 = a.sum(axis=0), a2.sum(axis=0)
    spread = [squares * (1 - 2 * one / w) + (one / w) ** 2 * w2 for one, squares in ((a, a2), (b, b2))]
    free = w**2 - w2
    scale = np.divide(w**2, w2 * free, out=np.zeros_like(w), where=free > 0)
    return (a / w) @ b.T, (spread[0] * scale) @ spread[1].T


def _table(atlas: Atlas, level: int) -> duckdb.DuckDBPyConnection:
    import duckdb
    import pyarrow as pa

    found = sums(atlas, level)
    names = pa.array(found.names, pa.string())
    ends = {"src_cluster": names.take(pa.array(found.i)), "tgt_cluster": names.take(pa.array(found.j))}
    columns = {name: pa.array(values, from_pandas=True) for name, values in found.with_chance().items()}
    con = duckdb.connect()
    con.register("columns_found", pa.table({**ends, **columns}))
    con.execute("CREATE TABLE found AS FROM columns_found")
    con.unregister("columns_found")
    con.register("labels_found", atlas.free("SELECT cluster_path AS path, label FROM clusters", {}).arrow())
    con.execute("CREATE TABLE labels AS FROM labels_found")
    con.unregister("labels_found")
    return con
