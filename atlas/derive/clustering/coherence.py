"""Labels and modules -> are the labels within a module more alike than those of as many neurons of the same layers?

A label is the set of its words, each weighted by log(labels / labels with it), as a vector of length 1; the likeness of
two is their cosine. No pairs are formed: the pairs of n vectors with sum S have the mean (|S|^2 - n) / (n (n - 1)).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt

from atlas.derive.clustering.profiles import require_scipy

Ints = npt.NDArray[np.int64]

_WORDS = r"""
    WITH words AS (
        SELECT layer::BIGINT * $d_mlp + neuron AS id,
               unnest(list_distinct(regexp_extract_all(lower(label), '[\p{L}\p{N}]+'))) AS word
        FROM neurons WHERE label IS NOT NULL
    ), known AS (
        SELECT word, count(*) AS labels, row_number() OVER (ORDER BY word) - 1 AS place FROM words GROUP BY word
    )
    SELECT id, place, labels FROM words JOIN known USING (word)"""


@dataclass(frozen=True)
class Labels:
    """Vectors of the labels that have a word not in every label: csr [neurons, words], by ascending packed id."""

    ids: Ints
    layers: Ints
    vectors: Any


@dataclass(frozen=True)
class Coherence:
    """Likeness of a neuron's label to those of its module, mean over neurons; the null has labels permuted in layers.

    `reason` says why there are no figures.
    """

    neurons: int  # with a label, in a module with another such neuron
    modules: int
    likeness: float | None = None
    null_mean: float | None = None
    null_sd: float | None = None
    z: float | None = None  # (likeness - null_mean) / null_sd
    draws: int = 0
    reason: str | None = None


def read_labels(con: duckdb.DuckDBPyConnection, *, d_mlp: int) -> Labels:
    """Read the chosen labels of all neurons. Memory: 60 bytes a word of a label."""
    require_scipy()
    from scipy.sparse import csr_array

    read = con.execute(_WORDS, {"d_mlp": d_mlp}).fetchnumpy()
    total = con.execute("SELECT count(label) FROM neurons").fetchall()[0][0]
    weight = np.log(total / np.maximum(read["labels"], 1)) if total else np.zeros(0)
    telling = weight > 0
    ids, row = np.unique(read["id"][telling], return_inverse=True)
    places = read["place"][telling].astype(np.int64)
    shape = len(ids), int(places.max()) + 1 if len(places) else 1
    lengths = np.sqrt(np.bincount(row, weight[telling] ** 2, minlength=len(ids)))
    vectors = csr_array((weight[telling] / lengths[row], (row, places)), shape=shape)
    vectors.sort_indices()
    return Labels(ids.astype(np.int64), ids.astype(np.int64) // d_mlp, vectors)


def coherence(labels: Labels, ids: Ints, modules: Ints, *, draws: int, seed: int) -> Coherence:
    """Likeness within the modules of neurons (ids ascending), against `draws` permutations of labels within layers."""
    if not len(labels.ids):
        return Coherence(0, 0, reason="the atlas has no labels")
    both, at, labelled = np.intersect1d(ids, labels.ids, assume_unique=True, return_indices=True)
    modules = modules[at]
    sizes = np.bincount(modules) if len(both) else np.zeros(1, dtype=np.int64)
    counted = int(sizes[sizes > 1].sum()), int((sizes > 1).sum())
    if counted[0] == 0:
        return Coherence(*counted, reason="no module has two labelled neurons")
    vectors, layers = labels.vectors[labelled], labels.layers[labelled]
    found = _likeness(vectors, modules)
    null = np.array([_likeness(vectors, drawn) for drawn in _permuted(modules, layers, draws, seed)])
    if len(null) < 2:
        return Coherence(*counted, found, reason="no null: fewer than two draws")
    sd = float(null.std(ddof=1))
    z = (found - float(null.mean())) / sd if sd > 1e-12 else None
    reason = (
        None if z is not None else "every permutation gives the same: each layer has one labelled neuron, or module"
    )
    return Coherence(*counted, found, float(null.mean()), sd, z, draws, reason)


def _likeness(vectors: Any, modules: Ints) -> float:
    """Mean over neurons of the mean likeness to the others of their module; modules of one are left out."""
    from scipy.sparse import csr_array

    order = np.argsort(modules, kind="stable")
    sizes = np.bincount(modules)
    sizes = sizes[sizes > 0]
    starts = np.concatenate([[0], np.cumsum(sizes)])
    sums = csr_array((np.ones(len(order)), order, starts), shape=(len(sizes), len(order))) @ vectors
    rows = np.repeat(np.arange(len(sizes)), np.diff(sums.indptr))
    squares = np.bincount(rows, sums.data**2, minlength=len(sizes))
    real = sizes > 1
    # A module's mean over its pairs, times its neurons: (|S|^2 - n) / (n - 1).
    return float(((squares - sizes)[real] / (sizes[real] - 1)).sum() / sizes[real].sum())


def _permuted(modules: Ints, layers: Ints, draws: int, seed: int) -> Iterator[Ints]:
    """The modules dealt anew among the neurons of each layer: the same as their labels."""
    rng, home = np.random.default_rng(seed), np.argsort(layers, kind="stable")
    for _ in range(draws):
        dealt = np.empty_like(modules)
        dealt[home] = modules[np.lexsort((rng.random(len(layers)), layers))]
        yield dealt
