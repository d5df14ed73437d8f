"""A table of an atlas and what is asked of it -> its rows in the order of its key, a piece of a million at a time.

Rows are read in pieces of packed ids (layer * d_mlp + neuron) of at most PIECE rows, so that what has to be sorted is
small whatever the table is, the order never depends on threads, and progress counts rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import duckdb
import numpy as np
import pyarrow as pa

from atlas.errors import InputError
from atlas.progress import Progress, Quiet
from atlas.query.answer import refuse
from atlas.query.selector import Selection

if TYPE_CHECKING:
    from atlas.query.atlas import Atlas

Ends = Literal["any", "both", "source", "target"]
Layers = tuple[int, int]  # first and last
PIECE = 1 << 20  # rows that are sorted at once: 100 MB of edges with their labels
_BLOCK = 64  # neurons that are never parted
_BATCH = 1 << 16  # rows

_EDGES = """
    SELECT e.src, e.tgt, e.src_layer, e.src_neuron, e.tgt_layer, e.tgt_neuron, e.count, e.n_graphs, e.weight_sum,
        e.weight_abs_sum, e.weight_sq_sum, e.weight_min, e.weight_max, e.mean_weight, e.mean_abs_weight {named}
    FROM edges AS e {joined}
    WHERE e.src BETWEEN $first AND $last AND e.src_layer BETWEEN $low AND $high
        AND e.tgt_layer BETWEEN $to_low AND $to_high AND ($min_count <= 1 OR e.count >= $min_count)
        AND ($min_weight = 0 OR e.mean_abs_weight >= $min_weight)
        AND CASE $ends
            WHEN 'all' THEN true
            WHEN 'source' THEN e.src IN (FROM chosen)
            WHEN 'target' THEN e.tgt IN (FROM chosen)
            WHEN 'both' THEN e.src IN (FROM chosen) AND e.tgt IN (FROM chosen)
            ELSE e.src IN (FROM chosen) OR e.tgt IN (FROM chosen) END"""
_NAMED = ", a.label AS src_label, a.cluster_path AS src_cluster, b.label AS tgt_label, b.cluster_path AS tgt_cluster"
_JOINED = "LEFT JOIN neurons AS a ON a.feature_id = e.src LEFT JOIN neurons AS b ON b.feature_id = e.tgt"
_OF_NEURONS = """
    SELECT * FROM {table}
    WHERE layer BETWEEN $low AND $high AND layer * $width + neuron BETWEEN $first AND $last
        AND ($ends = 'all' OR layer * $width + neuron IN (FROM chosen))"""
_ABOUT = ("model", "revision", "num_layers", "neurons_per_layer", "edge_method", "created", "schema_version")
_COMMENTS = """
    SELECT column_name, comment FROM duckdb_columns() WHERE database_name = 'atlas' AND table_name = $table
        AND comment IS NOT NULL"""
_ENDS = {
    "src_label": "label of the source", "tgt_label": "label of the target",
    "src_cluster": "module of the source in the primary clustering",
    "tgt_cluster": "module of the target in the primary clustering",
}  # fmt: skip


@dataclass(frozen=True)
class RowPlan:
    """What of a table is written; without anything, all of it.

    layers: of the neuron, of edges of the source; to_layers: of the target. ends: which end of an edge has to be in the
    selection. min_weight: smallest mean |F|. where: a condition over the columns, in SQL. limit: the first rows only.
    """

    selection: Selection | None = None
    columns: tuple[str, ...] = ()
    where: str | None = None
    layers: Layers | None = None
    to_layers: Layers | None = None
    limit: int | None = None
    ends: Ends = "any"
    min_count: int = 1
    min_weight: float = 0.0
    with_labels: bool = False


@dataclass(frozen=True)
class _Table:
    key: tuple[str, ...]
    packed: str  # the id that pieces are cut by, over the columns of the table


_TABLES = {
    "edges": _Table(("src", "tgt"), "src"),
    "neurons": _Table(("layer", "neuron"), "layer * $width + neuron"),
    "labels": _Table(
        ("layer", "neuron", '"pass"', "polarity", "source", "model", "run", "created", "label", "type", "score",
         "interpretability", "confidence", "status", "prompt_version", "prompt_hash", "short_label", "description"),
        "layer * $width + neuron",
    ),
}  # fmt: skip


class Rows:
    """The rows of one table in the order of its key: edges by src and tgt, neurons by layer and neuron, labels so too.

    Iterating gives Arrow tables of at most 65,536 rows. Raises InputError for an unknown column, a condition that is no
    SQL and a selection that matches nothing, StoreError for an atlas without the table.
    """

    def __init__(self, atlas: Atlas, table: str, plan: RowPlan, *, progress: Progress | None = None) -> None:
        self.warnings = atlas.require(table)
        _check(plan, atlas.layers)
        self.table, self.written = table, 0
        self._atlas, self._plan, self._progress = atlas, plan, progress or Quiet()
        self._cursor = atlas.cursor()
        self._cursor.execute("CREATE OR REPLACE TEMP TABLE chosen (id BIGINT)")
        if plan.selection is not None:
            ids = pa.table({"id": pa.array(atlas.select(plan.selection), pa.int64())})
            self._cursor.register("chosen_ids", ids).execute("INSERT INTO chosen FROM chosen_ids")
        self.schema = self._described()
        """Names and types; the description of a column is what the atlas says of it."""

    def __iter__(self) -> Iterator[pa.Table]:
        for batch in self._batches(", ".join(f'"{name}"' for name in self.schema.names)):
            yield pa.Table.from_batches([batch]).cast(self.schema)

    def json_lines(self) -> Iterator[bytes]:
        """The same rows as JSON objects, a line each; numbers that are not finite are null."""
        members = ", ".join(f"'{field.name}': {_json_value(field)}" for field in self.schema)
        for batch in self._batches(f"to_json({{{members}}}) || chr(10) AS line"):
            lines = batch.column(0).cast(pa.large_string())
            start, end = np.frombuffer(lines.buffers()[1], np.int64)[[lines.offset, lines.offset + len(lines)]]
            yield lines.buffers()[2].slice(start, end - start).to_pybytes()

    def _batches(self, columns: str) -> Iterator[pa.RecordBatch]:
        left, statement = self._plan.limit, self._statement(columns)
        spans = self._spans()
        with self._progress.task(self.table, sum(rows for _, _, rows in spans), "rows read") as task:
            for first, last, rows in spans:
                for batch in self._run(statement, first, last).to_arrow_reader(_BATCH):
                    found = batch if left is None else batch.slice(0, left)
                    left = None if left is None else left - found.num_rows
                    self.written += found.num_rows
                    yield found
                    if left == 0:
                        return
                task.advance(rows)

    def _spans(self) -> list[tuple[int, int, int]]:
        """(first id, last id, rows of the table) of every piece."""
        packed = _TABLES[self.table].packed
        found = self._run(f"SELECT ({packed}) // {_BLOCK} AS b, count(*) FROM {self.table} GROUP BY b ORDER BY b")
        spans: list[tuple[int, int, int]] = []
        for block, rows in found.fetchall():
            first, last = block * _BLOCK, (block + 1) * _BLOCK - 1
            if spans and spans[-1][2] + rows <= PIECE:
                spans[-1] = (spans[-1][0], last, spans[-1][2] + rows)
            else:
                spans.append((first, last, rows))
        return spans

    @property
    def about(self) -> dict[str, str]:
        """What a file says of itself: the model, its revision and the table."""
        known = {key: self._atlas.metadata[key] for key in _ABOUT if key in self._atlas.metadata}
        return {"table": self.table, **known}

    def _described(self) -> pa.Schema:
        known = self._run(f"SELECT * FROM ({self._source()}) LIMIT 0").to_arrow_table().schema
        unknown = [name for name in self._plan.columns if name not in known.names]
        if unknown:
            raise InputError(f"no column {unknown[0]!r} of {self.table}; there are {', '.join(known.names)}")
        if len(set(self._plan.columns)) < len(self._plan.columns):
            raise InputError(f"columns {', '.join(self._plan.columns)} name one twice; leave it out")
        told = dict(self._cursor.execute(_COMMENTS, {"table": self.table}).fetchall()) | _ENDS
        fields = [known.field(name) for name in self._plan.columns or known.names]
        return pa.schema([f.with_metadata({"description": told[f.name]}) if f.name in told else f for f in fields])

    def _source(self) -> str:
        if self.table != "edges":
            return _OF_NEURONS.format(table=self.table)
        labelled = self._plan.with_labels
        return _EDGES.format(named=_NAMED if labelled else "", joined=_JOINED if labelled else "")

    def _statement(self, columns: str) -> str:
        where = self._plan.where
        condition = f"WHERE ({where}\n)" if where else ""  # the line break ends a comment in the condition
        order = ", ".join(_TABLES[self.table].key)
        statement = f"SELECT {columns} FROM ({self._source()}) {condition} ORDER BY {order}"
        self._atlas.free(statement, {})  # refuses a condition that is more than one
        return statement

    def _run(self, statement: str, first: int = 0, last: int = -1) -> Any:
        plan = self._plan
        (low, high), (to_low, to_high) = (span or (0, self._atlas.layers) for span in (plan.layers, plan.to_layers))
        values = {
            "low": low, "high": high, "to_low": to_low, "to_high": to_high, "min_count": plan.min_count,
            "min_weight": plan.min_weight, "width": self._atlas.d_mlp, "first": first, "last": last,
            "ends": plan.ends if plan.selection is not None else "all",
        }  # fmt: skip
        try:
            return self._cursor.sql(statement, params={k: v for k, v in values.items() if f"${k}" in statement})
        except duckdb.Error as error:
            raise refuse(error, self._atlas.name) from error


def _json_value(field: pa.Field) -> str:
    if pa.types.is_float32(field.type):  # as text, or 0.1 would be 0.10000000149011612
        return f'CASE WHEN isfinite("{field.name}") THEN "{field.name}"::VARCHAR::JSON END'
    if pa.types.is_float64(field.type):
        return f'CASE WHEN isfinite("{field.name}") THEN "{field.name}" END'
    return f'"{field.name}"'


def _check(plan: RowPlan, layers: int) -> None:
    for span in filter(None, (plan.layers, plan.to_layers)):
        if not 0 <= span[0] <= span[1] < layers:
            raise InputError(f"no layers {span[0]} to {span[1]}: the atlas has layers 0 to {layers - 1}")
