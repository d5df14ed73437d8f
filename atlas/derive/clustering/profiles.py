"""Edges or token statistics -> one sparse, non-negative row per neuron, its profile; rows of like neurons are close.

An edge profile holds a neuron's mean |weights| to its targets and from its sources, each half of unit length before
the whole is; an activation profile its mean strength on the tokens that fire it, the signs in columns of their own.
Methods that need few dense columns take the leading directions of the profiles (`directions`): a random projection of
the same width would keep distances to within a quarter only, and the raw rows have a column per neuron of the model.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Any, Literal

import duckdb
import numpy as np
import numpy.typing as npt

from atlas.errors import InputError, ResourceError, StoreError
from atlas.ingest.partitions import Clustering, Placed
from atlas.store.memory import available_memory

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

DIMENSIONS = 64  # leading directions of the profiles
_BYTES = {"edges": 64, "activations": 40}  # of an entry read, at the peak: arrays, both halves, their union
_SPARE = 8  # random columns beyond those asked for (Halko, Martinsson, Tropp 2011, section 4.2)


@dataclass(frozen=True)
class ProfileOptions:
    """What to cluster and into how many modules; None leaves the number to the rule of `module_count`."""

    name: str | None = None  # of the clustering; its method's without one
    k: int | None = None
    profile: Literal["activations", "edges"] = "edges"
    seed: int = 42
    min_count: int = 3  # edges, or strong firings on a token, seen less often are left out


@dataclass(frozen=True)
class Profiles:
    """Rows of unit length (scipy csr [neurons, columns], float32) of the neurons that have a profile, by packed id."""

    ids: Ints
    rows: Any
    entries: int  # edges, or pairs of neuron and token, that were read


def read_profiles(con: duckdb.DuckDBPyConnection, *, options: ProfileOptions, d_mlp: int) -> Profiles:
    """Read the profiles asked for; memory: 64 bytes an edge, or 40 a pair of neuron, sign and token.

    Raises StoreError when the atlas has no such rows, ResourceError, with both numbers, when they do not fit.
    """
    require_entries(con, options)
    if options.profile == "edges":
        return _edge_profiles(con, options.min_count)
    return _activation_profiles(con, options.min_count, d_mlp)


def require_entries(con: duckdb.DuckDBPyConnection, options: ProfileOptions) -> None:
    """Refuse an atlas without the rows that the profiles are made of, and more of them than fit."""
    require_scipy()
    if options.profile not in _BYTES:
        raise InputError(f"no profile {options.profile!r}; choose edges or activations")
    entries = con.execute(_COUNT[options.profile], [options.min_count]).fetchall()[0][0]
    if entries == 0:
        what = "edge" if options.profile == "edges" else "token that fires a neuron"
        raise StoreError(
            f"no {what} has a count of at least {options.min_count}: no profiles to cluster; lower the minimum count, "
            "or cluster by the other profile"
        )
    require_memory(entries * _BYTES[options.profile], f"profiles of {entries:,} {options.profile}")


def read_graph(con: duckdb.DuckDBPyConnection, *, min_count: int) -> Profiles:
    """Edges seen at least `min_count` times as a square matrix: mean |weight| from the row's neuron to the column's."""
    from scipy.sparse import csr_array

    read = con.execute(
        "SELECT src, tgt, (weight_abs_sum::DOUBLE / count)::FLOAT AS weight FROM edges "
        "WHERE count >= $1 AND weight_abs_sum > 0",
        [min_count],
    ).fetchnumpy()
    ids = np.union1d(read["src"], read["tgt"])
    ends = tuple(np.searchsorted(ids, read.pop(end)).astype(np.int32) for end in ("src", "tgt"))
    graph = csr_array((read["weight"], ends), shape=(len(ids), len(ids)))
    return Profiles(ids.astype(np.int64), graph, graph.nnz)


def directions(rows: Any, *, dimensions: int = DIMENSIONS, seed: int) -> Floats:
    """Coordinates of the rows along their leading singular directions, [n, at most `dimensions`], largest first.

    Randomised subspace iteration (Halko, Martinsson, Tropp 2011, algorithm 4.4) with two steps; equal seeds give equal
    numbers. A direction's sign is that of its largest coordinate. Memory: 4 (dimensions + 8) bytes, three times over,
    for each row and each column.
    """
    width = min(dimensions + _SPARE, *rows.shape)
    basis = np.random.default_rng(seed).standard_normal((rows.shape[1], width), dtype=np.float32)
    transposed = rows.T  # a view
    for _ in range(2):
        basis = _orthonormal(transposed @ _orthonormal(rows @ basis))
    reached = rows @ basis
    strength, turned = np.linalg.eigh((reached.T @ reached).astype(np.float64))
    kept = np.argsort(-strength, kind="stable")[:dimensions]
    kept = kept[strength[kept] > 1e-6 * max(strength.max(), 1e-30)]  # float32 holds no weaker ones
    found: Floats = (reached @ turned[:, kept].astype(np.float32)).astype(np.float32)
    largest = found[np.abs(found).argmax(axis=0), np.arange(found.shape[1])]
    return found * np.where(largest < 0, np.float32(-1), np.float32(1))


def module_count(options: ProfileOptions, neurons: int, *, most: int) -> int:
    """The number of modules to look for: k, else sqrt(neurons / 2) (Mardia's rule), from 2 to `most`."""
    k = options.k if options.k is not None else min(max(round((neurons / 2) ** 0.5), 2), most)
    if not 2 <= k <= neurons:
        raise InputError(f"k is {k}, and {neurons:,} neurons have a profile; choose k from 2 to {neurons:,}")
    return k


def placed(ids: Ints, labels: Ints, membership: npt.NDArray[np.float64] | None = None) -> Placed:
    """Labels of neurons (-1: none) -> modules "1", "2", ... by falling size, then smallest id; without those of one."""
    modules, first, code, sizes = np.unique(labels, return_index=True, return_inverse=True, return_counts=True)
    real = (modules >= 0) & (sizes > 1)
    order = np.lexsort((first, -np.where(real, sizes, 0)))
    rank = np.empty(len(modules), dtype=np.int64)
    rank[order] = np.arange(1, len(modules) + 1)
    kept = real[code]
    return Placed(ids[kept], rank[code[kept]].astype(str), membership=None if membership is None else membership[kept])


def described(
    method: str, options: ProfileOptions, found: Profiles, *, k: int, quality: tuple[str, float]
) -> Clustering:
    """What the run was; its number of edges only where edges went in."""
    parameters = {"profile": options.profile, "k": k, "min_count": options.min_count}
    edges = found.entries if options.profile == "edges" else None
    return Clustering(options.name or method, method, parameters, options.seed, edges, quality[1], quality[0])


def require_scipy() -> None:
    """InputError where scipy is not installed: only builds and this need it."""
    if importlib.util.find_spec("scipy") is None:
        raise InputError("profiles and likeness of labels need scipy, which is not installed; pip install scipy")


def require_memory(needed: int, what: str) -> None:
    """ResourceError with both numbers when `needed` bytes are more than the machine has left."""
    free = available_memory()
    if free is not None and needed > free:
        raise ResourceError(
            f"{what} need about {needed / 2**30:.1f} GiB of memory, {free / 2**30:.1f} GiB are free; raise the minimum "
            "count, lower k, or use a machine with more"
        )


def _orthonormal(columns: Floats) -> Floats:
    """Orthonormal columns of the same span, by the eigenvectors of their products: a tenth of the time of QR."""
    strength, turned = np.linalg.eigh((columns.T @ columns).astype(np.float64))
    kept = strength > 1e-5 * strength.max()  # float32 products hold no weaker ones
    found: Floats = columns @ (turned[:, kept] / np.sqrt(strength[kept])).astype(np.float32)
    return found


_COUNT = {
    "edges": "SELECT count(*) FROM edges WHERE count >= $1 AND weight_abs_sum > 0",
    "activations": "SELECT count(*) FROM token_stats WHERE n >= $1 AND sum <> 0",
}


def _edge_profiles(con: duckdb.DuckDBPyConnection, min_count: int) -> Profiles:
    from scipy.sparse import hstack

    graph = read_graph(con, min_count=min_count)
    halves = [_unit(half) for half in (graph.rows.T.tocsr(), graph.rows)]
    halves.reverse()
    return Profiles(graph.ids, _unit(hstack(halves, format="csr")), graph.entries)


def _activation_profiles(con: duckdb.DuckDBPyConnection, min_count: int, d_mlp: int) -> Profiles:
    from scipy.sparse import csr_array

    read = con.execute(
        "SELECT layer::BIGINT * $2 + neuron AS id, token_id::BIGINT * 2 + (polarity < 0)::INTEGER AS place, "
        "abs(sum / n)::FLOAT AS strength FROM token_stats WHERE n >= $1 AND sum <> 0",
        [min_count, d_mlp],
    ).fetchnumpy()
    ids, row = np.unique(read["id"], return_inverse=True)
    places, column = np.unique(read["place"], return_inverse=True)
    entries = (read["strength"], (row.astype(np.int32), column.astype(np.int32)))
    return Profiles(
        ids.astype(np.int64), _unit(csr_array(entries, shape=(len(ids), len(places)))), len(read["strength"])
    )


def _unit(rows: Any) -> Any:
    """Rows of length 1; empty ones stay empty. Works in place on a csr array."""
    rows.sum_duplicates()  # sorts the columns too: the order of what DuckDB's threads read does not matter
    starts = rows.indptr[:-1][np.diff(rows.indptr) > 0]
    squares = np.add.reduceat(rows.data.astype(np.float64) ** 2, starts) if len(starts) else np.zeros(0)
    lengths = np.repeat(np.sqrt(squares), np.diff(np.append(starts, len(rows.data))))
    rows.data = (rows.data / lengths).astype(np.float32)
    return rows
