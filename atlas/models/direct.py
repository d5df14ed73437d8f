"""A Trace and chosen nodes -> the direct effect of every node and embedding on every node and on the metric.

Between the MLPs the replacement model is linear in the residual stream, so everything is carried together as the rows
of one matrix (carry.py), in whichever direction is less work for a prompt. Backward: cotangents of the metric's logits
and of all targets; one at position p reaches positions 0..p. Forward: what token embeddings and sources write; it
reaches positions p.. of the metric. Nodes stand mostly near the end of a prompt, and then forward is several times
less work. What is carried is read, layer by layer, at the nodes of that layer.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from atlas.models.carry import Bundle, Joining, Packed
from atlas.models.replacement import BlockTrace, Trace
from atlas.models.sweep import BlockMaps, Maps, activation_slope_at


@dataclass(frozen=True)
class Selected:
    """Neurons of one prompt, each field [n] on the model's device, sorted by layer, then position."""

    layer: Tensor
    position: Tensor
    neuron: Tensor
    activation: Tensor
    gradient: Tensor

    def __len__(self) -> int:
        """Number of nodes."""
        return len(self.layer)


@dataclass(frozen=True)
class Metric:
    """Signed logits at one position of one prompt: targets behind the last layer; `rows` [K, d] their cotangents."""

    rows: Tensor
    position: int


@dataclass(frozen=True)
class Job:
    """What of one prompt is carried: the nodes `carried` (indices) and, with `ends`, the logits or the embeddings."""

    prompt: int
    nodes: Selected
    metric: Metric
    forward: bool
    carried: Tensor
    ends: bool

    @property
    def first(self) -> int:
        """Items before the carried nodes: K logits (backward), one embedding a position (forward), or none."""
        if not self.ends:
            return 0
        return self.metric.position + 1 if self.forward else len(self.metric.rows)

    @property
    def stop(self) -> int:
        """Positions that matter: up to the metric's, or a node's behind it (which has no effect, but is listed)."""
        return _stop(self.nodes, self.metric)


@dataclass(frozen=True)
class Effects:
    """Direct effects of one job: its items (ends, then carried nodes) by the prompt's nodes, and by the other ends.

    Signed: h * J * dm/dh of the target. The other ends: T embeddings (backward) or K logits (forward).
    """

    nodes: Tensor  # [items, n]
    ends: Tensor  # [items, T or K]


@dataclass(frozen=True)
class _Probes:
    """Vectors that carried rows are multiplied with, those of the nodes of one layer of one prompt, by position."""

    index: Tensor  # [s] into the nodes
    position: Tensor  # [q] the positions that have some, ascending
    positions: list[int]
    ends: list[int]  # [q + 1] nodes before each of these positions
    place: Tensor  # [s] index of a node's position
    slot: Tensor  # [s] rank among the nodes at its position
    vectors: Tensor  # [q, slots, d]; 0 in empty slots


def direct_effects(maps: Maps, trace: Trace, jobs: Sequence[Job]) -> list[Effects]:
    """Carry everything of all jobs, which go in one direction.

    Memory: about five matrices of the carried rows, and the maps of one block.
    """
    found = [_empty(job, trace) for job in jobs]
    bundles = [bundle for number, job in enumerate(jobs) for bundle in _bundles(maps, trace, number, job)]
    packed = Packed(bundles, maps.final_norm.weight)
    if jobs and jobs[0].forward:
        _forward(maps, trace, jobs, packed, (bundles, found))
    else:
        _backward(maps, trace, jobs, packed, (bundles, found))
    return found


def work(nodes: Selected, metric: Metric, layers: int, *, forward: bool) -> int:
    """Rows times blocks that one direction takes for all of a prompt."""
    end = _stop(nodes, metric)
    if forward:
        return int(((end - nodes.position) * (layers - 1 - nodes.layer)).sum()) + end * (end + 1) // 2 * layers
    return int(((nodes.position + 1) * (nodes.layer + 1)).sum()) + len(metric.rows) * end * layers


def rows_of(job: Job) -> int:
    """Rows that a job's items take in the end."""
    positions, end = job.nodes.position[job.carried], job.stop
    ends = (end + 1) / 2 if job.forward else end
    return int((end - positions if job.forward else positions + 1).sum()) + int(job.first * ends)


def _stop(nodes: Selected, metric: Metric) -> int:
    return max(metric.position, int(nodes.position.max()) if len(nodes) else 0) + 1


_Found = tuple[list[Bundle], list[Effects]]
Vectors = Callable[[BlockMaps, BlockTrace, Job, Tensor], Tensor]  # `reads` or `writes`


def _backward(maps: Maps, trace: Trace, jobs: Sequence[Job], packed: Packed, into: _Found) -> None:
    bundles, found = into
    packed.join(0, [_logits(jobs[b.job], b) for b in bundles])
    for index in reversed(range(len(maps))):
        block, record = maps.block(index), trace.blocks[index]
        _read(packed, [_probes(block, record, job, writes) for job in jobs], found)
        new = [_joining(block, record, jobs[b.job], (b, len(maps) - index), reads) for b in bundles]
        if not block.block.parallel:
            packed.join(len(maps) - index, new)
        packed.back_through_attention(block, record)
        if block.block.parallel:
            packed.join(len(maps) - index, new)
    for bundle, rows in packed.each():
        inputs = trace.embedding[bundle.prompt, : bundle.stop].to(maps.dtype)
        ends = (rows.transpose(0, 1) @ inputs[..., None])[..., 0].T
        found[bundle.job].ends[bundle.items, : bundle.stop] = ends


def _forward(maps: Maps, trace: Trace, jobs: Sequence[Job], packed: Packed, into: _Found) -> None:
    bundles, found = into
    packed.join(0, [_embeddings(trace, jobs[b.job], b) for b in bundles])
    for index in range(len(maps)):
        block, record = maps.block(index), trace.blocks[index]
        probes = [_probes(block, record, job, reads) for job in jobs]
        if block.block.parallel:
            _read(packed, probes, found)
        packed.forward_through_attention(block, record)
        if not block.block.parallel:
            _read(packed, probes, found)
        packed.join(index + 1, [_joining(block, record, jobs[b.job], (b, index + 1), writes) for b in bundles])
    for bundle, rows in packed.each():
        metric = jobs[bundle.job].metric
        if bundle.start <= metric.position:
            found[bundle.job].ends[bundle.items] = rows[:, metric.position - bundle.start] @ metric.rows.T


def reads(block: BlockMaps, record: BlockTrace, job: Job, index: Tensor) -> Tensor:
    """Cotangents [n, d] before the MLP half of some nodes of this layer: the closed form of J, times dm/dh."""
    position, neuron = job.nodes.position[index], job.nodes.neuron[index]
    gradient = job.nodes.gradient[index][:, None]
    place = (job.prompt, position, neuron)
    ratio = activation_slope_at(block, record, place)[:, None]
    if block.gate is None or record.gate is None:
        rows = gradient * ratio * block.up.weight[neuron]
    else:
        up, gate = (part[place].to(gradient.dtype)[:, None] for part in (record.up, record.gate))
        half = 0.5 * gradient * ratio
        rows = half * up * block.gate.weight[neuron] + half * gate * block.up.weight[neuron]
    if "mlp_norm" not in block.norms:
        return rows
    factor = record.factors["mlp_norm"][job.prompt, position].to(rows.dtype)
    return block.norms["mlp_norm"].transpose(rows, factor)


def writes(block: BlockMaps, record: BlockTrace, job: Job, index: Tensor) -> Tensor:
    """What some nodes of this layer write into the residual stream [n, d]: h * W_down, through the norm behind."""
    nodes = job.nodes
    columns = block.down.weight.T[nodes.neuron[index]] * nodes.activation[index, None]
    if "mlp_out_norm" not in block.norms:
        return columns
    factor = record.factors["mlp_out_norm"][job.prompt, nodes.position[index]].to(columns.dtype)
    return block.norms["mlp_out_norm"].linear(columns, factor)


def _joining(block: BlockMaps, record: BlockTrace, job: Job, where: tuple[Bundle, int], of: Vectors) -> Joining | None:
    """Vectors of the carried nodes of a bundle that join at a step."""
    bundle, step = where
    part = bundle.part(step)
    if part.start == part.stop:
        return None
    index = job.carried[bundle.items[part] - job.first]
    return of(block, record, job, index), job.nodes.position[index]


def _logits(job: Job, bundle: Bundle) -> Joining | None:
    part = bundle.part(0)
    if part.start == part.stop:
        return None
    return job.metric.rows, torch.full_like(bundle.items[part], job.metric.position)


def _embeddings(trace: Trace, job: Job, bundle: Bundle) -> Joining | None:
    position = bundle.items[bundle.part(0)]  # the first items of a job are the embeddings, by position
    if not len(position):
        return None
    return trace.embedding[job.prompt, position].to(job.metric.rows.dtype), position


def _probes(block: BlockMaps, record: BlockTrace, job: Job, of: Vectors) -> _Probes | None:
    layer = job.nodes.layer
    bounds = torch.searchsorted(layer, torch.tensor([0, 1], device=layer.device) + block.block.index).tolist()
    if bounds[0] == bounds[1]:
        return None
    index = torch.arange(*bounds, device=layer.device)
    position, place, count = torch.unique_consecutive(
        job.nodes.position[index], return_inverse=True, return_counts=True
    )
    ends = count.cumsum(0)
    slot = torch.arange(len(index), device=layer.device) - (ends - count)[place]
    vectors = of(block, record, job, index)
    padded = vectors.new_zeros(len(position), int(count.max()), vectors.shape[1])
    padded[place, slot] = vectors
    return _Probes(index, position, position.tolist(), [0, *ends.tolist()], place, slot, padded)


def _read(packed: Packed, probes: Sequence[_Probes | None], found: Sequence[Effects]) -> None:
    """Products of every row with the probes at its position, into the columns of the probes' nodes."""
    for bundle, rows in packed.each():
        probe = probes[bundle.job]
        if probe is None:
            continue
        first, last = (bisect_left(probe.positions, end) for end in (bundle.start, bundle.stop))
        if first == last:
            continue
        at = rows.index_select(1, probe.position[first:last] - bundle.start).transpose(0, 1)  # [positions, n, d]
        products = at @ probe.vectors[first:last].transpose(1, 2)  # [positions, n, slots]
        mine = slice(probe.ends[first], probe.ends[last])
        cells = products[probe.place[mine] - first, :, probe.slot[mine]].T
        found[bundle.job].nodes[bundle.items[: len(rows), None], probe.index[mine]] = cells


def _bundles(maps: Maps, trace: Trace, number: int, job: Job) -> Iterator[Bundle]:
    """Items of one job by similar position; within a bundle, in the order of joining."""
    layers, end = len(maps), job.stop
    device = job.carried.device
    if job.forward:
        ends, first_step = torch.arange(job.first, device=device), job.nodes.layer[job.carried] + 1
    else:
        ends = torch.full((job.first,), job.metric.position, device=device)
        first_step = layers - job.nodes.layer[job.carried]
    position = torch.cat([ends, job.nodes.position[job.carried]])
    step = torch.cat([torch.zeros_like(ends), first_step])
    span = position // _span(len(maps.final_norm.weight), trace.lengths[job.prompt])
    for value in torch.unique(span).tolist():
        mine = (span == value).nonzero()[:, 0]
        items = mine[step[mine].argsort(stable=True)]
        joined = torch.bincount(step[items], minlength=layers + 1).cumsum(0).tolist()
        low, high = int(position[mine].min()), int(position[mine].max())
        start, stop = (low, end) if job.forward else (0, high + 1)
        yield Bundle(number, job.prompt, start, stop, items, tuple(joined))


def _span(d_model: int, length: int) -> int:
    """Positions that one bundle spans: few where rows are long, more where calls cost more than rows."""
    return max(1, length // (16 if d_model >= 512 else 4))


def _empty(job: Job, trace: Trace) -> Effects:
    items, like = job.first + len(job.carried), job.metric.rows
    ends = len(job.metric.rows) if job.forward else trace.lengths[job.prompt]
    return Effects(like.new_zeros(items, len(job.nodes)), like.new_zeros(items, ends))
