"""Edges of the atlas -> arrays for a clustering algorithm; no Python object per edge."""

from __future__ import annotations

from dataclasses import dataclass

import duckdb
import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class EdgeArrays:
    """A directed weighted graph over packed neuron ids, sorted by (src, tgt)."""

    src: npt.NDArray[np.int64]
    tgt: npt.NDArray[np.int64]
    weight: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.src)


def edge_arrays(con: duckdb.DuckDBPyConnection, *, min_count: int) -> EdgeArrays:
    """Edges seen at least `min_count` times with weight = mean_abs_weight^2, the primary clustering's weight."""
    found = con.execute(
        "SELECT src, tgt, (weight_abs_sum::DOUBLE / count) ** 2 AS weight FROM edges "
        "WHERE count >= $1 AND weight_abs_sum > 0 ORDER BY src, tgt",
        [min_count],
    ).fetchnumpy()
    return EdgeArrays(found["src"].astype(np.int64), found["tgt"].astype(np.int64), found["weight"].astype(np.float64))
