"""Tables of the contract, batch by batch -> files of a partial: sorted runs of edges and token edges, nodes, graphs.

Observations are held until `capacity` of them are together, then sorted and added up once (a run). A run ends between
two graphs, so that graphs with an edge can be counted where the graph changes and added over runs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from atlas.errors import InputError
from atlas.ingest.edge_store import kernels
from atlas.ingest.edge_store.facts import StoreFacts
from atlas.ingest.edge_store.files import SortedWriter, range_starts, token_key, write_by_range
from atlas.ingest.edge_store.kernels import Longs, Stats, Words
from atlas.shards import own_name
from atlas.tables import SHARDS

OBSERVATION_BYTES = 150  # memory of one held observation at the moment its run is written (measured 146)
LARGEST_RUN = 1 << 22  # observations; keys of 42 bits and their places then fit one word to sort
_F32, _F64, _I32, _I64 = pa.float32(), pa.float64(), pa.int32(), pa.int64()
MEMBERS = pa.schema([("unit", _I32), ("graph", _I64), ("positions", _I32), ("relevance", _F32), ("explained", _F32)])
GRAPHS = pa.schema(
    [("graph", _I64), ("origin", pa.string()), ("source_file", pa.string()), ("source_hash", pa.string()),
     *((field.name, field.type) for field in SHARDS["graphs"])]
)  # fmt: skip
APPEARANCES = pa.schema([("unit", _I32), ("graphs", _I64)])
_ENDS = ("src_layer", "src_neuron", "tgt_layer", "tgt_neuron")
_KINDS = pa.array(["embedding", "logit"])


class Gatherer:
    """One piece of work: what it is fed becomes files `<table>-<piece>-<n>.parquet` in a folder."""

    def __init__(self, folder: Path, piece: int, facts: StoreFacts, *, capacity: int) -> None:
        self._folder, self._piece, self._facts = folder, piece, facts
        self.files: list[str] = []
        self.rows = {"edges": 0, "token_edges": 0}
        self.observations = self.graphs = 0
        self._held = {table: _Held(capacity, self._flusher(table)) for table in self.rows}
        self._sums: dict[str, list[Stats]] = {table: [] for table in self.rows}
        self._waiting: dict[str, list[pa.Table]] = {}
        self._capacity = capacity

    def edges(self, rows: Any, origin: str) -> None:
        """Take rows of graph_edges of one source; InputError when they cannot be used."""
        rows = self._of_half(rows, origin)
        ends = tuple(_column(rows, name) for name in _ENDS)
        self.observations += self._held["edges"].add(
            lambda out: kernels.pack(ends, _column(rows, "weight"), _column(rows, "graph_id"), self._bounds, out),
            _column(rows, "graph_id"),
            origin,
        )

    def tokens(self, rows: Any, origin: str) -> None:
        """Take rows of graph_token_edges of one source."""
        rows = self._of_half(rows, origin)
        logit, token = self._kinds(rows), _column(rows, "token_id")
        unit = self._units(_column(rows, "layer"), _column(rows, "neuron"))
        if len(token) and (token.min() < 0):
            raise InputError(f"token id {token.min()} is negative; the graphs are damaged: make them again")
        key, weight, graph = token_key(unit, logit, token), _column(rows, "weight"), _column(rows, "graph_id")
        self._held["token_edges"].add(lambda out: _pack_keys(key, weight, graph, out), graph, origin)

    def nodes(self, rows: Any, origin: str) -> None:
        """Take whole graphs of graph_nodes of one source -> which units each graph contains."""
        rows = self._of_half(rows, origin)
        if not rows.num_rows:
            return
        unit = self._units(_column(rows, "layer"), _column(rows, "neuron")).astype(np.int32)
        graph = graph_keys(origin, _column(rows, "graph_id"))
        order = np.lexsort((_column(rows, "position"), graph, unit))
        sums = _floats(rows, "relevance")[order], _floats(rows, "explained")[order]
        found = kernels.add_nodes(unit[order], graph[order], *sums)
        if (np.abs(np.stack(found[3:])) > np.finfo(np.float32).max).any():  # NaN is what nobody knows
            raise InputError("a node's relevance is infinite or beyond 3e38; measure these graphs again")
        arrays = [pa.array(one, from_pandas=True).cast(kind) for one, kind in zip(found, MEMBERS.types, strict=True)]
        self._wait("members", pa.Table.from_arrays(arrays, schema=MEMBERS))

    def graph_rows(self, rows: pa.Table, origin: str, *, file: str, sha256: str) -> None:
        """Take rows of graphs of one source."""
        rows = self._of_half(rows, origin)
        keys = pa.array(graph_keys(origin, _column(rows, "graph_id")))
        texts = {"origin": origin, "source_file": file, "source_hash": sha256}
        named = {name: pa.array([text] * rows.num_rows, pa.string()) for name, text in texts.items()}
        columns = {"graph": keys, **named, **{name: rows[name] for name in SHARDS["graphs"].names}}
        self.graphs += rows.num_rows
        self._wait("graphs", pa.table(columns).cast(GRAPHS))

    def graph(self, batch: Mapping[str, pa.Table], origin: str, *, file: str, sha256: str) -> None:
        """Take the one batch of a graph file: all of it, or (InputError) nothing."""
        before = self.observations
        done: list[str] = []
        try:
            self.edges(batch["graph_edges"], origin)
            done.append("edges")
            self.tokens(batch["graph_token_edges"], origin)
            done.append("token_edges")
            self.nodes(batch["graph_nodes"], origin)
        except InputError:
            for table in done:
                self._held[table].undo()
            self.observations = before
            raise
        self.graph_rows(batch["graphs"], origin, file=file, sha256=sha256)

    def statistics(self, table: str, rows: Any) -> None:
        """Take what another tool had summed: rows of tables.STATISTICS; InputError for half a store of them."""
        if self._facts.half:
            raise InputError("it holds sums over graphs, which cannot be halved; give the graphs themselves")
        if table == "neuron_appearances":
            unit = self._units(_column(rows, "layer"), _column(rows, "neuron")).astype(np.int32)
            self._wait(
                "appearances", pa.table({"unit": unit, "graphs": _column(rows, "appearances")}).cast(APPEARANCES)
            )
            return
        target = table.removesuffix("_statistics").replace("edge", "edges")
        stats = _foreign(self._keys(target, rows), rows)
        self.observations += int(stats.observations.sum()) if target == "edges" else 0
        self._sums[target].append(stats)
        if sum(len(one.key) for one in self._sums[target]) >= self._capacity // 3:
            self._flush_sums(target)

    def close(self) -> None:
        """Write what is left, and let go of the memory: what is held refers back to this object."""
        for table, held in self._held.items():
            held.flush()
            self._flush_sums(table)
        for table in self._waiting:
            self._flush_waiting(table)
        self._held.clear()
        pa.default_memory_pool().release_unused()

    def _of_half(self, rows: Any, origin: str) -> Any:
        """The rows of the graphs that belong to the store's half; all of them in a store that is none."""
        if not self._facts.half:
            return rows
        return rows.filter(pa.array(half_of(graph_keys(origin, _column(rows, "graph_id"))) == self._facts.half))

    @property
    def _bounds(self) -> tuple[int, int]:
        return self._facts.layers, self._facts.width

    def _keys(self, table: str, rows: Any) -> Words:
        if table == "token_edges":
            unit = self._units(_column(rows, "layer"), _column(rows, "neuron"))
            return token_key(unit, self._kinds(rows), _column(rows, "token_id"))
        ends = [_column(rows, name) for name in _ENDS]
        source, target = self._units(ends[0], ends[1]), self._units(ends[2], ends[3])
        return source.astype(np.uint64) << np.uint64(32) | target.astype(np.uint64)

    def _units(self, layer: Any, neuron: Any) -> Longs:
        layers, width = self._bounds
        bad = (layer < 0) | (layer >= layers) | (neuron < 0) | (neuron >= width)
        if bad.any():
            place = int(bad.argmax())
            raise InputError(_stray(int(bad.sum()), (int(layer[place]), int(neuron[place])), self._bounds))
        packed: Longs = layer.astype(np.int64) * width + neuron
        return packed

    def _kinds(self, rows: Any) -> Any:
        column = rows.column("kind")
        found = pc.index_in(column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column, _KINDS)
        if found.null_count:
            raise InputError("a token edge is neither 'embedding' nor 'logit'; the graphs are damaged: make them again")
        return found.to_numpy(zero_copy_only=False)

    def _flusher(self, table: str) -> Callable[[Words, Longs], None]:
        def flush(key: Words, pair: Longs) -> None:
            out = kernels.empty(len(key))
            self._run(table, kernels.first(out, kernels.reduce_observations(kernels.sorted_order(key), key, pair, out)))

        return flush

    def _flush_sums(self, table: str) -> None:
        parts, self._sums[table] = self._sums[table], []
        if parts:
            rows = Stats._make(np.concatenate(columns) for columns in zip(*parts, strict=True))
            out = kernels.empty(len(rows.key))
            self._run(table, kernels.first(out, kernels.reduce_statistics(kernels.sorted_order(rows.key), rows, out)))

    def _run(self, table: str, stats: Stats) -> None:
        def write(path: Path) -> None:
            writer = SortedWriter(path, table)
            write_by_range(writer, stats, range_starts(self._facts.ranges(), self._facts.width))
            writer.close()

        self.rows[table] += len(stats.key)
        self._file(table, write)

    def _wait(self, table: str, rows: pa.Table) -> None:
        self._waiting.setdefault(table, []).append(rows)
        if sum(one.num_rows for one in self._waiting[table]) >= self._capacity // 4:
            self._flush_waiting(table)

    def _flush_waiting(self, table: str) -> None:
        parts, self._waiting[table] = self._waiting[table], []
        if sum(one.num_rows for one in parts):
            rows = pa.concat_tables(parts)
            self._file(table, lambda path: pq.write_table(rows, path, compression="zstd"))

    def _file(self, table: str, write: Callable[[Path], None]) -> None:
        name = f"{table}-{self._piece:05d}-{sum(one.startswith(f'{table}-') for one in self.files):04d}.parquet"
        part = own_name(self._folder / name)
        write(part)
        part.rename(self._folder / name)
        self.files.append(name)


class _Held:
    """Observations that wait for their run."""

    def __init__(self, capacity: int, flush: Callable[[Words, Longs], None]) -> None:
        self._key, self._pair = np.empty(0, np.uint64), np.empty((0, 2), np.int64)
        self._capacity, self._write = capacity, flush
        self._used = self._latest = 0
        self._last: tuple[str, int] | None = None  # source and id of the last graph

    def add(self, pack: Callable[[Any], tuple[int, int, int, int]], graph: Longs, origin: str) -> int:
        """Take rows; their number."""
        count = len(graph)
        self._latest = self._used
        if not count:
            return 0
        self._make_room(count)
        a, b = self._used, self._used + count
        continues = self._last == (origin, int(graph[0]))
        unordered = self._last is not None and self._last[0] == origin and graph[0] < self._last[1]
        before = int(self._pair[a - 1, 1]) if a else 0
        self._pair[a, 1] = before if continues else before + 1
        faults = pack((self._key[a:b], self._pair[a:b]))
        _refuse(faults, unordered=unordered)
        self._used, self._last, self._latest = b, (origin, int(graph[-1])), a
        return count

    def undo(self) -> None:
        """Forget the rows of the last `add`, which were a graph of their own."""
        self._used, self._last = self._latest, None

    def flush(self) -> None:
        """Write everything that waits."""
        self._flush(self._used)
        self._last = None

    def _make_room(self, count: int) -> None:
        if self._used and self._used + count > self._capacity:
            self._flush(int(np.searchsorted(self._pair[: self._used, 1], self._pair[self._used - 1, 1])))
        needed = self._used + count
        if needed > len(self._key):  # doubles up to the capacity; beyond it only for one graph that is larger
            size = max(needed, min(self._capacity, max(2 * len(self._key), 1 << 16)))
            self._key = np.concatenate([self._key[: self._used], np.empty(size - self._used, np.uint64)])
            self._pair = np.concatenate([self._pair[: self._used], np.empty((size - self._used, 2), np.int64)])

    def _flush(self, rows: int) -> None:
        if rows:
            self._write(self._key[:rows], self._pair[:rows])
            left = self._used - rows
            self._key[:left], self._pair[:left] = self._key[rows : self._used], self._pair[rows : self._used]
            self._used = left


def graph_keys(origin: str, ids: Longs) -> Longs:
    """63-bit names of graphs that do not depend on files: a mix of what they belong to and their id there.

    Two of a million graphs share one with probability 5e-8.
    """
    base = int.from_bytes(hashlib.sha256(origin.encode()).digest()[:8], "little")
    mixed = ids.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(base)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):  # the finaliser of splitmix64
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return ((mixed ^ (mixed >> np.uint64(31))) >> np.uint64(1)).astype(np.int64)


def half_of(keys: Longs) -> Longs:
    """1 or 2 for each graph by the last bit of its name: the same whatever the files, fair to 1 / sqrt(graphs)."""
    return (keys & 1) + 1


def _pack_keys(key: Words, weight: Any, graph: Longs, out: Any) -> tuple[int, int, int, int]:
    zero = np.zeros(len(key), np.int32)
    faults = kernels.pack((zero, zero, zero, zero), weight, graph, (1, 1), out)
    out[0][:] = key
    return faults


def _refuse(faults: tuple[int, int, int, int], *, unordered: bool) -> None:
    strays, broken, large, falls = faults
    if strays:
        raise InputError(f"{strays} edges have an end outside the model; is this a graph of another model?")
    if broken:
        raise InputError(f"{broken} weights are NaN or infinite; measure these graphs again")
    if large:
        raise InputError(f"{large} weights reach {kernels.LARGEST:,.0f}, beyond exact sums; normalise the metric")
    if falls or unordered:
        raise InputError("rows are not in order of graph_id, so graphs cannot be counted; sort the file by graph_id")


def _stray(count: int, where: tuple[int, int], bounds: tuple[int, int]) -> str:
    return (
        f"{count} ids are outside the model, first L{where[0]}/N{where[1]}: it has layers 0..{bounds[0] - 1} and "
        f"0..{bounds[1] - 1} in each; is this a file of another model?"
    )


def _foreign(key: Words, rows: Any) -> Stats:
    """Sums of another tool -> quanta; what it did not keep follows from the mean."""
    count, total = _column(rows, "count").astype(np.int64), _floats(rows, "weight_sum")
    mean = total / np.maximum(count, 1)
    size = _or(_floats(rows, "weight_abs_sum"), abs(total))
    square = _or(_floats(rows, "weight_sq_sum"), total * mean)
    least, most = _or(_floats(rows, "weight_min"), mean), _or(_floats(rows, "weight_max"), mean)
    if not np.isfinite(np.stack([total, size, square, least, most])).all():
        raise InputError("sums of weights are NaN or infinite; make the file again")
    large = (np.abs(np.stack([total, size, least, most])) >= kernels.LARGEST).any(axis=0)
    if (large | (count < 1) | (square >= kernels.LARGEST**2)).any():
        raise InputError(f"a count is below 1 or a sum of weights reaches {kernels.LARGEST:,.0f}; normalise the metric")
    squares = np.rint(square * 2.0**60)
    high = np.floor(squares / 2.0**32)
    graphs = np.nan_to_num(_floats(rows, "n_graphs")).astype(np.int64)
    quanta = [np.rint(one * 2.0**-kernels.QUANTUM).astype(np.int64) for one in (total, size, least, most)]
    halves = high.astype(np.int64), (squares - high * 2.0**32).astype(np.int64)
    found = Stats(key, count, graphs, quanta[0], quanta[1], *halves, quanta[2], quanta[3])
    kernels.complete_singles(found)  # as files of the store are read, whatever the other tool says
    return found


def _or(values: Any, other: Any) -> Any:
    return np.where(np.isnan(values), other, values)


def _column(rows: Any, name: str) -> Any:
    column = rows.column(name)
    if column.null_count:
        raise InputError(f"{column.null_count} rows have no {name}; make the file again")
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    return column.to_numpy(zero_copy_only=False)


def _floats(rows: Any, name: str) -> Any:
    column = rows.column(name)
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    return column.cast(_F64).to_numpy(zero_copy_only=False)
