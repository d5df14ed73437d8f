"""Edges with weights -> how much of a target's input stems from a source, and the part of the graph that carries it.

A(s, t) = sum of |F| over the edge s -> t / all that enters t. What enters a node so sums to at most 1, and the sum of
products of A over all paths (A + A^2 + ...) is the share of one node's input that stems from another: the influence by
which circuit-tracer prunes the graph of one prompt (Ameisen et al. 2025, "Circuit Tracing"). With start(v) = share of
v's input that is the source itself and ends(v) = weight of v as target:

    forward   f(v) = start(v) + sum over u of A(u, v) f(u)     what of v's input stems from the source
    backward  g(v) = ends(v)  + sum over u of A(v, u) g(u)     influence of v on the target, itself included
    total         = sum of start * g = sum of f * ends          share of the target's input that stems from the source
    through   t(v) = f(v) g(v) / total                          share of the source -> target paths that pass v
    over an edge  = f(u) A(u, v) g(v) / total

On a graph whose edges all go up the layers one pass per direction is exact. With cycles the sum is taken hop by hop.
Signed: the same sums with F in place of |F|, times `turn` of the edge's target (see Flow).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Numbers = NDArray[np.float64]
    Indexes = NDArray[np.int64]
    Mask = NDArray[np.bool_]

MOST_HOPS, SETTLED = 2000, 1e-12  # of graphs with cycles: stop when what still moves is below, or after so many hops
EDGE_SHARE = 0.98  # of what the nodes hold, where they hold less than the budget: circuit-tracer's edge threshold
_ROUNDING = 1e-9  # a budget counts as reached within this share of it


@dataclass(frozen=True)
class Flow:
    """Edges in blocks such that every edge into a block's sources lies in an earlier block (where `acyclic`).

    src, tgt: node indexes, int32 [edges]; weight, signed: sum of |F| and of F, float32 [edges]; scale: 1 / all that
    enters a node, 0 where nothing does; turn: +1, -1 or 0, sign of the node's own relevance R = sum of F into it. F is
    signed by what it does to the metric, so through a node of negative relevance signs turn: source -> v -> metric is
    worth F(source, v) F(v, metric) / R(v).
    """

    src: NDArray[np.int32]
    tgt: NDArray[np.int32]
    weight: NDArray[np.float32]
    signed: NDArray[np.float32]
    scale: Numbers
    turn: Numbers
    blocks: tuple[int, ...]  # offsets of the blocks and, last, the number of edges
    acyclic: bool = True

    @property
    def nodes(self) -> int:
        """Number of nodes, connected or not."""
        return len(self.scale)

    def spans(self) -> Iterator[slice]:
        """Return the blocks in topological order."""
        for first, last in zip(self.blocks, self.blocks[1:], strict=False):
            if first < last:
                yield slice(first, last)

    def shares(self, span: slice, *, signed: bool = False) -> Numbers:
        """A of the edges in a span, or its signed form."""
        weight, tgt = (self.signed if signed else self.weight)[span], self.tgt[span]
        shares: Numbers = weight * self.scale[tgt]
        return shares * self.turn[tgt] if signed else shares


@dataclass(frozen=True)
class Ends:
    """Source and target of a question: per node, the share of its input that is source, and its weight as target."""

    start: Numbers
    signed_start: Numbers
    ends: Numbers


@dataclass(frozen=True)
class Influence:
    """f, g and their totals; `remainder` is what still moved when the hops ended (0 without cycles)."""

    forward: Numbers
    backward: Numbers
    total: float
    signed: float
    remainder: float

    @property
    def through(self) -> Numbers:
        """Share of the source -> target influence that passes each node; all 0 when there is none."""
        through: Numbers = self.forward * self.backward / (self.total or 1.0)
        return through


@dataclass(frozen=True)
class Circuit:
    """The kept part: indexes of nodes and edges of the flow it was cut from, and the share each of them carries.

    Shares of nodes and edges are of the influence WITHIN the kept part over the whole total; `share` is recomputed on
    it; `nodes_share` before edges were dropped.
    """

    nodes: Indexes
    through: Numbers
    entry: Numbers  # share of the total whose paths start at the node
    exit: Numbers  # ... end at the node
    edges: Indexes
    over: Numbers
    share: float
    nodes_share: float
    signed: float


def influence(flow: Flow, ends: Ends) -> Influence:
    """Forward and backward sums over all paths, float64."""
    forward, left = _forward(flow, ends.start, signed=False)
    signed, _ = _forward(flow, ends.signed_start, signed=True)
    backward, left_back = _backward(flow, ends.ends, forward > 0)
    return Influence(
        forward,
        backward,
        float(forward @ ends.ends),
        float(signed @ ends.ends),
        max(left, left_back),
    )


def on_paths(flow: Flow, found: Influence) -> tuple[int, int]:
    """Nodes and edges that lie on any path from source to target."""
    nodes = int((found.through > 0).sum())
    edges = sum(int(((found.forward[flow.src[s]] > 0) & (found.backward[flow.tgt[s]] > 0)).sum()) for s in flow.spans())
    return nodes, edges


def prune(flow: Flow, ends: Ends, found: Influence, *, budget: float, max_nodes: int) -> Circuit:
    """Keep nodes by falling through-share, then edges by falling share, while paths within them hold the budget.

    What is held is recomputed inside the kept part, the shares A unchanged; it never decreases with more nodes or
    edges, so the shortest sufficient list is found by bisection. Where max_nodes hold less than the budget they are
    all kept, and edges while these hold EDGE_SHARE of that.
    """
    import numpy as np

    through = found.through
    ranked = np.lexsort((np.arange(flow.nodes), -through))[:max_nodes]
    ranked = ranked[through[ranked] > 0]
    small, kept, edges = _part(flow, np.sort(ranked))
    place = np.empty(flow.nodes, dtype=np.int64)
    place[kept] = np.arange(len(kept))
    ranked = place[ranked]
    within = Ends(ends.start[kept], ends.signed_start[kept], ends.ends[kept])

    def nodes_hold(n: int) -> float:
        return _held(small, within, ranked[:n]) / found.total

    n = _fewest(len(ranked), nodes_hold, budget)
    part, chosen, inner = _part(small, np.sort(ranked[:n]))
    inside = Ends(within.start[chosen], within.signed_start[chosen], within.ends[chosen])
    held = nodes_hold(n)
    goal = budget if held >= budget * (1 - _ROUNDING) else EDGE_SHARE * held
    return _finish(part, inside, goal, found.total, (kept[chosen], edges[inner], held))


def _finish(flow: Flow, ends: Ends, goal: float, total: float, origin: tuple[Indexes, Indexes, float]) -> Circuit:
    import numpy as np

    nodes, edges, nodes_share = origin
    over = _over(flow, influence(flow, ends))
    ranked = np.lexsort((np.arange(len(over)), -over))
    m = _fewest(len(ranked), lambda count: _share_of(_only(flow, ranked[:count]), ends) / total, goal)
    final = _only(flow, np.sort(ranked[:m]))
    found = influence(final, ends)
    used = np.flatnonzero(found.forward * found.backward > 0)
    over = _over(final, found)
    live = over > 0
    return Circuit(
        nodes=nodes[used], through=(found.forward * found.backward)[used] / total,
        entry=(ends.start * found.backward)[used] / total, exit=(ends.ends * found.forward)[used] / total,
        edges=edges[np.sort(ranked[:m])[live]], over=over[live] / total,
        share=found.total / total, nodes_share=nodes_share, signed=found.signed,
    )  # fmt: skip


def _fewest(most: int, hold: Callable[[int], float], goal: float) -> int:
    """The smallest n <= most with hold(n) >= goal, else most; hold never decreases."""
    goal *= 1 - _ROUNDING
    low, high = 0, most
    while low < high:
        middle = (low + high) // 2
        if hold(middle) >= goal:
            high = middle
        else:
            low = middle + 1
    return low


def _held(flow: Flow, ends: Ends, nodes: Indexes) -> float:
    import numpy as np

    part, chosen, _ = _part(flow, np.sort(nodes))
    return _share_of(part, Ends(ends.start[chosen], ends.signed_start[chosen], ends.ends[chosen]))


def _share_of(flow: Flow, ends: Ends) -> float:
    return float(_forward(flow, ends.start, signed=False)[0] @ ends.ends)


def _over(flow: Flow, found: Influence) -> Numbers:
    everything = slice(0, len(flow.src))
    over: Numbers = found.forward[flow.src] * flow.shares(everything) * found.backward[flow.tgt]
    return over


def _part(flow: Flow, nodes: Indexes) -> tuple[Flow, Indexes, Indexes]:
    """The edges among some nodes (ascending), relabelled 0, 1, ...; also these nodes and the indexes of the edges."""
    import numpy as np

    place = np.full(flow.nodes, -1, dtype=np.int32)
    place[nodes] = np.arange(len(nodes), dtype=np.int32)
    kept = np.concatenate(
        [s.start + np.flatnonzero((place[flow.src[s]] >= 0) & (place[flow.tgt[s]] >= 0)) for s in flow.spans()]
        or [np.empty(0, dtype=np.int64)]
    )
    part = _only(replace(flow, scale=flow.scale[nodes], turn=flow.turn[nodes]), kept)
    return replace(part, src=place[part.src], tgt=place[part.tgt]), nodes, kept


def _only(flow: Flow, edges: Indexes) -> Flow:
    """The same nodes with some of the edges (in any order)."""
    import numpy as np

    edges = np.sort(edges)
    blocks = tuple(int(n) for n in np.searchsorted(edges, flow.blocks))
    arrays = (flow.src[edges], flow.tgt[edges], flow.weight[edges], flow.signed[edges])
    return Flow(*arrays, flow.scale, flow.turn, blocks, flow.acyclic)


def _forward(flow: Flow, start: Numbers, *, signed: bool) -> tuple[Numbers, float]:
    import numpy as np

    def step(values: Numbers, span: slice) -> Numbers:
        carried = flow.shares(span, signed=signed) * values[flow.src[span]]
        arriving: Numbers = np.bincount(flow.tgt[span], weights=carried, minlength=flow.nodes).astype(float, copy=False)
        return arriving

    if not flow.acyclic:
        return _hop_by_hop(flow, start, step)
    values = start.copy()
    for span in flow.spans():
        values += step(values, span)
    return values, 0.0


def _backward(flow: Flow, ends: Numbers, reached: Mask) -> tuple[Numbers, float]:
    """Without the edges out of nodes that the source does not reach: a cycle that only feeds itself never ends."""
    import numpy as np

    def step(values: Numbers, span: slice) -> Numbers:
        carried = flow.shares(span) * values[flow.tgt[span]]
        if not flow.acyclic:
            carried *= reached[flow.src[span]]
        leaving: Numbers = np.bincount(flow.src[span], weights=carried, minlength=flow.nodes).astype(float, copy=False)
        return leaving

    if not flow.acyclic:
        return _hop_by_hop(flow, ends, step)
    values = ends.copy()
    for span in reversed(list(flow.spans())):
        values += step(values, span)
    return values, 0.0


def _hop_by_hop(flow: Flow, first: Numbers, step: Callable[[Numbers, slice], Numbers]) -> tuple[Numbers, float]:
    total, moving, left = first.copy(), first, float(abs(first).sum())
    for _ in range(MOST_HOPS):
        if not left >= SETTLED:  # also when it is no number
            break
        hops: Any = sum((step(moving, span) for span in flow.spans()), start=0 * first)
        total, moving, left = total + hops, hops, float(abs(hops).sum())
    return total, left
