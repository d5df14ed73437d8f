"""Two atlas files -> one connection that sees them as `a` and `b`, with the macros of sql/diff: what a diff asks.

What a diff works out (compared rows, levels of noise) it keeps in this connection's memory, which spills to a folder of
its own.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import duckdb

from atlas.errors import InputError
from atlas.query.answer import Row
from atlas.query.atlas import Atlas
from atlas.store.connection import Limits, explain_failure, open_pair
from atlas.store.sqlfiles import sql_text

RANGE_EDGES = 6_000_000  # edges of both sides that are joined at once: 0.6 GB (measured 100 bytes an edge)


@dataclass
class Pair:
    """Two atlases of models of one size, open for comparison; a source of cursors for answers."""

    a: Atlas
    b: Atlas
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        require_same_size(self.a, self.b)
        self._spill = tempfile.TemporaryDirectory(prefix="atlas-diff-")
        limits = Limits(self.limits.memory, self.limits.threads, Path(self._spill.name))
        self.con = open_pair(self.a.path, self.b.path, limits=limits)
        self._macros: set[str] = set()

    @property
    def name(self) -> str:
        """Both file names, for messages."""
        return f"{self.a.name} and {self.b.name}"

    @property
    def layers(self) -> int:
        """Layers of both models."""
        return self.a.layers

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """Return a cursor that sees both files; one per thread."""
        return self.con.cursor()

    def load(self, macro: str) -> None:
        """Make a macro of sql/diff, which needs its tables in both files."""
        if macro not in self._macros:
            self.fetch(sql_text("diff", macro))
            self._macros.add(macro)

    def fetch(self, statement: str, values: Mapping[str, object] | list[object] | None = None) -> list[Row]:
        """Rows of a statement with values bound; StoreError or ResourceError when it cannot run."""
        try:
            return self.cursor().execute(statement, values).fetchall()
        except duckdb.Error as error:
            raise explain_failure(error, self.name) from error

    @cached_property
    def edge_ranges(self) -> list[tuple[int, int]]:
        """Ranges of source layers [first, last] of about RANGE_EDGES edges of both sides, at least one layer each."""
        return self._ranges("edges", "src_layer", RANGE_EDGES)

    @cached_property
    def token_ranges(self) -> list[tuple[int, int]]:
        """Ranges of layers of about RANGE_EDGES rows of token_stats of both sides."""
        return self._ranges("token_stats", "layer", RANGE_EDGES)

    def _ranges(self, table: str, column: str, most: int) -> list[tuple[int, int]]:
        rows = self.fetch(
            f"SELECT layer, sum(n)::BIGINT FROM (SELECT {column} AS layer, count(*) AS n FROM a.{table} GROUP BY 1 "
            f"UNION ALL SELECT {column}, count(*) FROM b.{table} GROUP BY 1) GROUP BY 1 ORDER BY 1"
        )
        return cut_ranges(dict(rows), most)


def cut_ranges(rows: dict[int, int], most: int) -> list[tuple[int, int]]:
    """Layers with their rows -> ranges [first, last] of at most `most` rows, or of one layer.

    >>> cut_ranges({0: 5, 1: 4, 3: 20, 4: 1}, 10)
    [(0, 1), (3, 3), (4, 4)]
    """
    ranges: list[tuple[int, int]] = []
    held = most
    for layer, count in sorted(rows.items()):
        if ranges and held + count <= most:
            ranges[-1] = (ranges[-1][0], layer)
            held += count
        else:
            ranges.append((layer, layer))
            held = count
    return ranges


def require_same_size(a: Atlas, b: Atlas) -> None:
    """Refuse atlases whose neurons cannot be matched by id."""
    if (a.layers, a.d_mlp) != (b.layers, b.d_mlp):
        raise InputError(
            f"{a.name} has {a.layers} layers of {a.d_mlp} neurons, {b.name} {b.layers} of {b.d_mlp}; a diff needs two "
            "atlases of one architecture, such as a model and its fine-tune"
        )
    for one in (a, b):
        if one.schema == 0:
            raise InputError(f"{one.name} has schema 0 (another tool wrote it); a diff needs files of atlas build")
