"""Many neurons -> the neurons of the most similar edges of each, as similar_edges does for one.

Up to five million edges are one sparse matrix in memory, and 200 neurons one product with it; of larger atlases, or
without scipy, each neuron is asked for by itself. Both give the same rows.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from atlas.query.atlas import Atlas

Row = dict[str, Any]
MOST_EDGES = 5_000_000  # held at once: 240 MB with both directions
_MOST_NEURONS = 131_072
_SHOWN = ("layer", "neuron", "label", "cluster_path", "cosine", "jaccard", "shared")


class SimilarByEdges:
    """Nearest neurons by the cosine of signed edge sums, in and out together."""

    def __init__(self, atlas: Atlas) -> None:
        self._atlas = atlas
        self._profiles: Any = None
        edges = atlas.free("SELECT count(*) FROM edges", {}).fetchall()[0][0]
        small = edges <= MOST_EDGES and atlas.layers * atlas.d_mlp <= _MOST_NEURONS
        if small and importlib.util.find_spec("scipy") is not None:
            self._read()

    def nearest(self, ids: Sequence[int], k: int) -> dict[int, list[Row]]:
        """The k nearest of each packed id, best first; cosine and jaccard as in similar_edges."""
        if self._profiles is None:
            return {one: self._asked(one, k) for one in ids}
        cosines = (self._profiles[list(ids)] @ self._profiles.T).tocsr()
        shared = (self._partners[list(ids)] @ self._partners.T).tocsr()
        found = {one: self._best(one, cosines[[row]], shared[[row]], k) for row, one in enumerate(ids)}
        names = self._names({row["id"] for rows in found.values() for row in rows})
        return {one: [{**names[row.pop("id")], **row} for row in rows] for one, rows in found.items()}

    def _asked(self, one: int, k: int) -> list[Row]:
        rows = self._atlas.ask("similar_edges", {"of_ids": [one], "of_side": "both", "max_rows": k}).rows()
        return [{name: row[name] for name in _SHOWN} for row in rows]

    def _read(self) -> None:
        """Edge sums of every neuron [neurons, 2 neurons], out then in, each row of length 1."""
        from scipy.sparse import csr_array, diags_array, hstack

        neurons = self._atlas.layers * self._atlas.d_mlp
        table = self._atlas.free("SELECT src, tgt, weight_sum::DOUBLE AS w FROM edges ORDER BY src, tgt", {}).arrow()
        src, tgt, weight = (table.column(name).to_numpy() for name in ("src", "tgt", "w"))
        out = csr_array((weight, (src, tgt)), shape=(neurons, neurons))
        both = csr_array(hstack([out, out.T]))
        lengths = np.sqrt(both.multiply(both).sum(axis=1))
        scale = np.divide(1.0, lengths, out=np.zeros_like(lengths), where=lengths > 0)
        self._profiles = csr_array(diags_array(scale) @ both)
        self._partners = csr_array((np.ones(len(both.data), np.int32), both.indices, both.indptr), shape=both.shape)
        self._counts = np.diff(both.indptr)

    def _best(self, one: int, cosines: Any, shared: Any, k: int) -> list[Row]:
        ids, values = cosines.indices, np.round(cosines.data, 12)
        other = ids != one
        ids, values = ids[other], values[other]
        best = np.lexsort((ids, -values))[:k]
        common = dict(zip(shared.indices.tolist(), shared.data.tolist(), strict=True))
        rows = []
        for place in best:
            near, n = int(ids[place]), common[int(ids[place])]
            union = int(self._counts[one] + self._counts[near]) - n
            rows.append({"id": near, "cosine": float(values[place]), "jaccard": n / union, "shared": n})
        return rows

    def _names(self, ids: set[int]) -> dict[int, Row]:
        rows = self._atlas.free(
            "SELECT feature_id AS id, layer, neuron, label, cluster_path FROM neurons "
            "WHERE feature_id IN (SELECT unnest($ids))",
            {"ids": sorted(ids)},
        ).rows()
        return {row.pop("id"): row for row in rows}
