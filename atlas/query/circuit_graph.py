"""An atlas, a source and a target -> the flow between them as arrays: every stored edge that a path could take.

One pass over the edges into the layers between, in batches: all of them count in what enters a node, and those that a
path could take are held, at 16 bytes an edge. Where few edges lie between the ends, the nodes on paths are found among
these first, and only what enters them is read: neurons six layers apart among 84M edges reach each other by hundreds
of edges, while 4M enter the layers between. Nodes are numbered [source tokens | all neurons | target tokens].
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from atlas.errors import ResourceError
from atlas.query.circuit_ends import End
from atlas.query.influence import Ends, Flow

if TYPE_CHECKING:
    import numpy as np
    import pyarrow
    from numpy.typing import NDArray

    from atlas.query.atlas import Atlas

# 16 bytes an edge are held (src, tgt and two weights of 4); sums over one layer and batches of rows take some 4 more.
# DuckDB's own buffers come on top, up to the same limit.
EDGE_MEMORY, NODE_MEMORY = 20, 150
_BATCH = 1 << 20
NEAR = 8_000_000  # edges between the ends that are read first for nodes on paths: 64 MB
_UNITS = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


@dataclass(frozen=True)
class Graph:
    """The flow with its ends, and how nodes are numbered.

    from_embeddings, from_neurons: parts of the target's direct input, mean over the target's nodes.
    """

    flow: Flow
    ends: Ends
    tokens_in: tuple[int, ...]
    tokens_out: tuple[int, ...]
    neurons: int
    from_embeddings: float
    from_neurons: float

    def packed(self, node: int) -> int | None:
        """Packed id of a node; None for a token."""
        at = node - len(self.tokens_in)
        return at if 0 <= at < self.neurons else None

    def token(self, node: int) -> int:
        """Token id of a node that is a token."""
        before = len(self.tokens_in)
        return self.tokens_in[node] if node < before else self.tokens_out[node - before - self.neurons]


@dataclass(frozen=True)
class _Plan:
    """What is asked, and how nodes are numbered."""

    atlas: Atlas
    source: End | None
    target: End
    min_count: int
    acyclic: bool

    @property
    def tokens_in(self) -> tuple[int, ...]:
        return tuple(self.source.tokens) if self.source else ()

    @property
    def tokens_out(self) -> tuple[int, ...]:
        return tuple(self.target.tokens)

    @property
    def neurons(self) -> slice:
        """Nodes that are neurons."""
        before = len(self.tokens_in)
        return slice(before, before + self.atlas.layers * self.atlas.d_mlp)

    @property
    def nodes(self) -> int:
        return int(self.neurons.stop) + len(self.tokens_out)

    def source_nodes(self) -> list[int]:
        neurons = self.source.neurons if self.source else ()
        return [*range(self.neurons.start), *(self.neurons.start + i for i in neurons)]

    def target_nodes(self) -> list[int]:
        return [*(self.neurons.start + i for i in self.target.neurons), *range(self.neurons.stop, self.nodes)]

    def span(self) -> tuple[int, int]:
        """Packed ids of the first source and the last target that a path could take."""
        first, last = 0, self.atlas.layers * self.atlas.d_mlp - 1
        if self.acyclic and self.source is not None and not self.source.tokens:
            first = min(self.source.neurons)
        if self.acyclic and not self.target.tokens:
            last = max(self.target.neurons)
        return first, last


@dataclass(frozen=True)
class _Sums:
    """Per node: all that enters (|F| and F) and what embeddings bring, the parts above the fewest observations too."""

    inputs: NDArray[np.float64]
    net: NDArray[np.float64]
    embedded: NDArray[np.float64]
    strong: NDArray[np.float64]
    strong_net: NDArray[np.float64]


@dataclass(frozen=True)
class _Edges:
    src: NDArray[np.int32]
    tgt: NDArray[np.int32]
    weight: NDArray[np.float32]
    signed: NDArray[np.float32]

    def put(self, at: int, other: _Edges) -> None:
        """Write other edges into these arrays."""
        into = slice(at, at + len(other.src))
        self.src[into], self.tgt[into] = other.src, other.tgt
        self.weight[into], self.signed[into] = other.weight, other.signed


def load(atlas: Atlas, source: End | None, target: End, *, min_count: int) -> Graph:
    """Read what is between source and target (None = all that feeds it); ResourceError when it would not fit."""
    plan = _Plan(atlas, source, target, min_count, goes_up(atlas))
    sums = _token_sums(plan)
    flow = _flow(plan, sums, _token_links(plan, "embedding"), _token_links(plan, "logit"))
    targets = plan.target_nodes()
    embedded = float((sums.embedded[targets] * flow.scale[targets]).mean())
    direct = float((sums.inputs[targets] > 0).mean())
    count = atlas.layers * atlas.d_mlp
    ends = _ends(plan, flow, sums)
    return Graph(flow, ends, plan.tokens_in, plan.tokens_out, count, embedded, direct - embedded)


def goes_up(atlas: Atlas) -> bool:
    """Whether every edge goes to a later layer, as those of a built atlas do.

    A layer at a time: where edges are sorted, statistics of row groups answer (0.26 s, not 0.7 s, of 84M edges).
    """
    statement, width = "SELECT 1 FROM edges WHERE src >= $first AND src < $end AND tgt < $end LIMIT 1", atlas.d_mlp
    cursor = atlas.cursor()
    spans = ({"first": first, "end": first + width} for first in range(0, atlas.layers * width, width))
    return not any(cursor.execute(statement, span).fetchall() for span in spans)


def _token_sums(plan: _Plan) -> _Sums:
    import numpy as np

    atlas = plan.atlas
    sums = _Sums(*(np.zeros(plan.nodes) for _ in range(5)))
    first, last = (packed // atlas.d_mlp for packed in plan.span())
    values = {"of_first": first, "of_last": last, "at_least_count": plan.min_count}
    table = atlas.ask("circuit_token_inputs", values).arrow()
    at = plan.neurons.start + table["layer"].to_numpy().astype(np.int64) * atlas.d_mlp + table["neuron"].to_numpy()
    columns = (sums.embedded, sums.net, sums.strong, sums.strong_net)
    names = ("abs_sum", "signed_sum", "strong_abs_sum", "strong_signed_sum")
    for column, name in zip(columns, names, strict=True):
        column[at] = table[name].to_numpy()
    sums.inputs[:] = sums.embedded
    place = {token: plan.neurons.stop + i for i, token in enumerate(plan.tokens_out)}
    for token, total, _ in atlas.ask("circuit_logit_inputs", {"of_tokens": list(place)}) if place else ():
        sums.inputs[place[token]] = total
    return sums


def _token_links(plan: _Plan, kind: str) -> _Edges:
    """Edges at a token end."""
    import numpy as np

    tokens, first = (plan.tokens_in, 0) if kind == "embedding" else (plan.tokens_out, plan.neurons.stop)
    if not tokens:
        return _empty(0)
    values = {"of_kind": kind, "of_tokens": list(tokens), "at_least_count": plan.min_count}
    table = plan.atlas.ask("circuit_token_edges", values | {"of_width": plan.atlas.d_mlp}).arrow()
    if kind == "embedding" and plan.source:  # no path goes on through another node of the source
        table = table.filter(~np.isin(table["id"].to_numpy(), plan.source.neurons))
    order = np.argsort(np.array(tokens))
    at = (order[np.searchsorted(np.array(tokens)[order], table["token_id"].to_numpy())] + first).astype(np.int32)
    ids = (table["id"].to_numpy() + plan.neurons.start).astype(np.int32)
    src, tgt = (at, ids) if kind == "embedding" else (ids, at)
    weights = (table[c].to_numpy().astype(np.float32) for c in ("weight_abs_sum", "weight_sum"))
    return _Edges(src, tgt, *weights)


def _flow(plan: _Plan, sums: _Sums, below: _Edges, above: _Edges) -> Flow:
    """All edges in one set of arrays, which is filled in place: a copy would double the memory."""
    import numpy as np

    first, most = len(below.src), _preflight(plan)
    held = _empty(first + most + len(above.src))
    held.put(0, below)
    last = _fill(plan, sums, held, first, into=_on_paths(plan, below, above) if most <= NEAR else None)
    _sort(held, first, last)
    held.put(last, above)
    layers = np.arange(plan.atlas.layers + 1, dtype=np.int32) * np.int32(plan.atlas.d_mlp) + np.int32(
        plan.neurons.start
    )
    offsets = (int(n) + first for n in np.searchsorted(held.src[first:last], layers))
    end = last + len(above.src)
    scale = np.divide(1.0, sums.inputs, out=np.zeros_like(sums.inputs), where=sums.inputs > 0)
    turn = np.ones_like(scale)
    if plan.atlas.metadata.get("edge_method", "").startswith("relp"):
        turn[plan.neurons] = np.sign(sums.net[plan.neurons])
    arrays = (held.src[:end], held.tgt[:end], held.weight[:end], held.signed[:end])
    return Flow(*arrays, scale, turn, blocks=(0, *offsets, end), acyclic=plan.acyclic)


def _on_paths(plan: _Plan, below: _Edges, above: _Edges) -> list[int] | None:
    """Packed ids of the target and of neurons that a path to it enters; None with cycles, where order may be any."""
    import numpy as np

    if not plan.acyclic:
        return None
    first, last = plan.span()
    statement = "SELECT src, tgt FROM edges WHERE src >= $first AND tgt <= $last AND count >= $count ORDER BY src"
    values = {"first": first, "last": last, "count": plan.min_count}
    rows = plan.atlas.cursor().execute(statement, values).fetchnumpy()
    src, tgt = (np.asarray(rows[side]) + np.int32(plan.neurons.start) for side in ("src", "tgt"))
    layers = plan.neurons.start + np.arange(plan.atlas.layers + 1) * plan.atlas.d_mlp
    blocks = [slice(*pair) for pair in pairwise(np.searchsorted(src, layers).tolist())]
    reached, reaching = np.zeros(plan.nodes, dtype=bool), np.zeros(plan.nodes, dtype=bool)
    reached[plan.source_nodes() if plan.source else slice(None)] = True
    reached[below.tgt] = True
    reaching[plan.target_nodes()] = True
    reaching[above.src] = True
    for block in blocks:
        reached[tgt[block][reached[src[block]]]] = True
    for block in reversed(blocks):
        reaching[src[block][reaching[tgt[block]]]] = True
    passed = reached & reaching
    passed[plan.target_nodes()] = True
    return [int(i) for i in np.flatnonzero(passed[plan.neurons])]


def _fill(plan: _Plan, sums: _Sums, held: _Edges, filled: int, *, into: list[int] | None) -> int:
    """Put edges that a path could take after those held, none into the source; what enters each target goes to `sums`.

    into: only edges into these; None for all. Returns how many are held then.
    """
    import numpy as np

    before = plan.neurons.start
    first, last = plan.span()
    into_span = slice(before + first, before + last + 1)
    barred = np.zeros(plan.nodes, dtype=bool)
    barred[plan.source_nodes()] = True
    for batch in _batches(plan, into):
        src, tgt, weight, signed, count = (batch.column(i).to_numpy() for i in range(5))
        sums.inputs[into_span] += np.bincount(tgt - first, weights=weight, minlength=last - first + 1)
        sums.net[into_span] += np.bincount(tgt - first, weights=signed, minlength=last - first + 1)
        node = tgt + np.int32(before)
        kept = np.flatnonzero((src >= first) & (count >= plan.min_count) & ~barred[node])
        held.put(filled, _Edges(src[kept] + np.int32(before), node[kept], weight[kept], signed[kept]))
        filled += len(kept)
    return filled


def _batches(plan: _Plan, into: list[int] | None) -> Iterator[pyarrow.Table]:
    """A million rows at a time: DuckDB gives those of one row group, and each batch costs a sum over all nodes."""
    import pyarrow

    first, last = plan.span()
    values = {"of_first": first, "of_last": last, "of_targets": into}
    answer = plan.atlas.ask("circuit_edges", values)
    gathered: list[pyarrow.RecordBatch] = []
    for batch in plan.atlas.cursor().sql(answer.statement, params=values).to_arrow_reader(_BATCH):
        gathered.append(batch)
        if sum(part.num_rows for part in gathered) >= _BATCH:
            yield pyarrow.Table.from_batches(gathered)
            gathered = []
    if gathered:
        yield pyarrow.Table.from_batches(gathered)


def _preflight(plan: _Plan) -> int:
    """Edges to hold; ResourceError, with both numbers, when they would not fit into the memory limit."""
    statement = """
        SELECT count(*), current_setting('memory_limit') FROM edges
        WHERE src >= $first AND tgt BETWEEN $first AND $last AND count >= $count"""
    first, last = plan.span()
    values = {"first": first, "last": last, "count": plan.min_count}
    edges, limit = plan.atlas.cursor().execute(statement, values).fetchall()[0]
    needed = edges * EDGE_MEMORY + plan.nodes * NODE_MEMORY
    size, _, unit = str(limit).partition(" ")
    if needed > float(size) * _UNITS[unit]:
        raise ResourceError(
            f"a circuit over {edges:,} edges needs about {needed / 2**30:.2f} GiB of memory, the limit is {limit}; "
            "raise the limit, give a larger min_count, or ends that are fewer layers apart"
        )
    return int(edges)


def _empty(edges: int) -> _Edges:
    import numpy as np

    return _Edges(
        np.empty(edges, np.int32), np.empty(edges, np.int32), np.empty(edges, np.float32), np.empty(edges, np.float32)
    )


def _sort(held: _Edges, first: int, last: int) -> None:
    """By source, which files of other tools need not be."""
    import numpy as np

    src = held.src[first:last]
    if bool((src[1:] >= src[:-1]).all()):
        return
    order = first + np.lexsort((held.tgt[first:last], src))
    held.put(first, _Edges(held.src[order], held.tgt[order], held.weight[order], held.signed[order]))


def _ends(plan: _Plan, flow: Flow, sums: _Sums) -> Ends:
    """Without a source: what embeddings bring to each node, and all of a node that nothing stored enters."""
    import numpy as np

    ends, targets = np.zeros(flow.nodes), plan.target_nodes()
    ends[targets] = 1 / len(targets)
    if plan.source is None:
        origin = (sums.inputs == 0).astype(float)
        origin[targets] = 0
        start = sums.strong * flow.scale + origin
        return Ends(start, sums.strong_net * flow.turn * flow.scale + origin, ends)
    start = np.zeros(flow.nodes)
    start[plan.source_nodes()] = 1.0
    return Ends(start, start, ends)
