"""A Trace and many targets -> the direct effect of every node and embedding on every target: all at once, no tape.

Between the MLPs the replacement model is linear in the residual stream, so the cotangents of all targets of several
prompts travel back together as the rows of one matrix [rows, d_model] through frozen attention and frozen norms. A
target at position p only reaches positions 0..p: targets of one prompt with similar positions form a bundle
[targets, reach, d_model], and the bundles, one after the other, are the matrix. Gains of norms are folded into the
value and output maps, their frozen scales into the pattern, so that a block costs two products with V and O, one small
product with the pattern for each bundle, and nothing else that is large.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

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
    """What of one prompt is carried: targets (indices into its nodes) and, with `metric`, the metric's logits."""

    prompt: int
    nodes: Selected
    targets: Tensor
    metric: Metric | None


@dataclass(frozen=True)
class Effects:
    """Direct effects of one job, rows = the metric's logits, then its targets; signed, times h and the gradient."""

    nodes: Tensor  # [K + targets, n] from every node
    embedding: Tensor  # [K + targets, T] from every token embedding


@dataclass(frozen=True)
class _Bundle:
    """Targets of one job that reach the same positions; `slices[l]` are those that join at layer l."""

    job: int
    reach: int
    rows: Tensor  # [n] rows of Effects, those of the last layer first
    slices: tuple[slice, ...]  # by layer, the metric's logits at index L


def direct_effects(maps: Maps, trace: Trace, jobs: Sequence[Job]) -> list[Effects]:
    """Carry all targets of all jobs down to the embeddings.

    Memory: about five matrices of `cells(jobs)` numbers, and the maps of one block.
    """
    found = [_empty(job, trace) for job in jobs]
    bundles = list(_bundles(maps, jobs))
    packed = _Packed(bundles, maps)
    packed.join(len(maps), [(_metric_rows(jobs[b.job], b, len(maps))) for b in bundles])
    for index in reversed(range(len(maps))):
        block, record = maps.block(index), trace.blocks[index]
        sources = [_sources(block, record, job) for job in jobs]
        for bundle, rows in packed.each():
            _read(sources[bundle.job], bundle, rows, found[bundle.job].nodes)
        new = [_target_rows(block, record, jobs[b.job], b) for b in bundles]
        if not block.block.parallel:
            packed.join(index, new)
        packed.through_attention(block, record, [job.prompt for job in jobs])
        if block.block.parallel:
            packed.join(index, new)
    for bundle, rows in packed.each():
        job = jobs[bundle.job]
        inputs = trace.embedding[job.prompt, : bundle.reach].to(maps.dtype)
        found[bundle.job].embedding[bundle.rows, : bundle.reach] = (rows.transpose(0, 1) @ inputs[..., None])[..., 0].T
    return found


def cells(positions: Tensor, d_model: int) -> int:
    """Numbers in the matrix of targets at `positions`."""
    return int((positions + 1).sum()) * d_model


def step_of(d_model: int) -> int:
    """Positions that one bundle spans: few where rows are long, more where the calls cost more than the rows."""
    return max(1, 768 // d_model)


class _Packed:
    """The matrix of all bundles [rows, d], growing as layers join."""

    def __init__(self, bundles: list[_Bundle], maps: Maps) -> None:
        self._bundles = bundles
        self._counts = [0] * len(bundles)  # targets of each bundle that have joined
        self._rows = maps.final_norm.weight.new_empty(0, len(maps.final_norm.weight))

    def each(self) -> Iterator[tuple[_Bundle, Tensor]]:
        """Every bundle with its rows so far, a view [targets, reach, d]."""
        sizes = [count * b.reach for count, b in zip(self._counts, self._bundles, strict=True)]
        for bundle, rows in zip(self._bundles, torch.split(self._rows, sizes), strict=True):
            if len(rows):
                yield bundle, rows.view(-1, bundle.reach, rows.shape[1])

    def join(self, layer: int, new: Sequence[tuple[Tensor, Tensor] | None]) -> None:
        """Add the targets of a layer: by bundle, cotangents [n, d] and their positions [n]."""
        if not any(found is not None for found in new):
            return
        counts = [b.slices[layer].stop for b in self._bundles]
        sizes = [count * b.reach for count, b in zip(counts, self._bundles, strict=True)]
        packed = self._rows.new_empty(sum(sizes), self._rows.shape[1])
        old = torch.split(self._rows, [count * b.reach for count, b in zip(self._counts, self._bundles, strict=True)])
        for bundle, into, rows, found in zip(self._bundles, torch.split(packed, sizes), old, new, strict=True):
            into[: len(rows)] = rows
            if found is not None:
                into[len(rows) :] = 0
                place = len(rows) + torch.arange(len(found[0]), device=into.device) * bundle.reach + found[1]
                into[place] = found[0]
        self._rows, self._counts = packed, counts

    def through_attention(self, block: BlockMaps, record: BlockTrace, prompts: Sequence[int]) -> None:
        """Take all rows from after the attention half to before it."""
        if not len(self._rows):
            return
        output, patterns = _folded_output(block), _scaled_patterns(block, record)
        mixed = self._rows @ output
        heads = record.pattern.shape[1]
        size = output.shape[1] // heads
        groups = block.value.weight.shape[0] // size
        values = mixed if groups == heads else mixed.new_empty(len(mixed), groups * size)
        sizes = [count * b.reach for count, b in zip(self._counts, self._bundles, strict=True)]
        for bundle, rows, into in zip(
            self._bundles, torch.split(mixed, sizes), torch.split(values, sizes), strict=True
        ):
            if len(rows):
                pattern = patterns[prompts[bundle.job], :, : bundle.reach, : bundle.reach]
                _mix_back(pattern, rows.view(-1, bundle.reach, heads, size), into.view(-1, bundle.reach, groups, size))
        self._rows.addmm_(values, _folded_value(block))


def _mix_back(pattern: Tensor, rows: Tensor, into: Tensor) -> None:
    """P^T on every head: pattern [H, T, T], rows [n, T, H, e] -> into [n, T, G, e], summed over a group's heads."""
    count, reach, heads, size = rows.shape
    groups = into.shape[2]
    shared = heads // groups
    by_head = rows.view(count, reach, groups, shared, size).permute(2, 3, 1, 0, 4).reshape(groups, shared * reach, -1)
    back = pattern.reshape(groups, shared * reach, reach).transpose(1, 2)
    into.copy_((back @ by_head).view(groups, reach, count, size).permute(2, 1, 0, 3))


def _scaled_patterns(block: BlockMaps, record: BlockTrace) -> Tensor:
    """The patterns [B, H, T, T] times the frozen scales of the norms before (by key) and after (by query)."""
    patterns = record.pattern.to(block.value.weight.dtype)
    if "attention_norm" in block.norms:
        patterns = patterns * record.factors["attention_norm"].to(patterns.dtype).transpose(1, 2)[:, None]
    if "attention_out_norm" in block.norms:
        patterns = patterns * record.factors["attention_out_norm"].to(patterns.dtype)[:, None]
    return patterns


def _folded_output(block: BlockMaps) -> Tensor:
    """O [d, H * e] with the gain of the norm on attention's output."""
    norm = block.norms.get("attention_out_norm")
    return block.output.weight if norm is None else norm.linear(block.output.weight.T, 1.0).T


def _folded_value(block: BlockMaps) -> Tensor:
    """V [G * e, d] with the gain (and centring) of the norm before attention."""
    norm = block.norms.get("attention_norm")
    return block.value.weight if norm is None else norm.transpose(block.value.weight, 1.0)


def _target_rows(block: BlockMaps, record: BlockTrace, job: Job, bundle: _Bundle) -> tuple[Tensor, Tensor] | None:
    """Cotangents [n, d] of the targets that join here, by the closed form of J times dm/dh, and their positions."""
    part = bundle.slices[block.block.index]
    if part.start == part.stop:
        return None
    index = job.targets[bundle.rows[part] - _logits(job)]
    position, neuron = job.nodes.position[index], job.nodes.neuron[index]
    gradient = job.nodes.gradient[index][:, None]
    place = (job.prompt, position, neuron)
    ratio = activation_slope_at(block, record, place)[:, None]
    if block.gate is None or record.gate is None:
        rows = gradient * ratio * block.up.weight[neuron]
    else:
        up, gate = (record_part[place].to(gradient.dtype)[:, None] for record_part in (record.up, record.gate))
        half = 0.5 * gradient * ratio
        rows = half * up * block.gate.weight[neuron] + half * gate * block.up.weight[neuron]
    if "mlp_norm" in block.norms:
        factor = record.factors["mlp_norm"][job.prompt, position].to(rows.dtype)
        rows = block.norms["mlp_norm"].transpose(rows, factor)
    return rows, position


def _metric_rows(job: Job, bundle: _Bundle, layers: int) -> tuple[Tensor, Tensor] | None:
    part = bundle.slices[layers]
    if part.start == part.stop or job.metric is None:
        return None
    return job.metric.rows, bundle.rows.new_full((len(job.metric.rows),), job.metric.position)


@dataclass(frozen=True)
class _Sources:
    """Nodes of one layer of one prompt, by position, with what each writes into the residual stream."""

    index: Tensor  # [s] into the nodes
    position: Tensor  # [q] the positions that have some, ascending
    ends: list[int]  # [q] nodes at these positions and before
    place: Tensor  # [s] index of a node's position
    slot: Tensor  # [s] rank among the nodes at its position
    columns: Tensor  # [q, slots, d] h * W_down, through the norm on the MLP's output; 0 in empty slots


def _sources(block: BlockMaps, record: BlockTrace, job: Job) -> _Sources | None:
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
    columns = _columns(block, record, job, index)
    padded = columns.new_zeros(len(position), int(count.max()), columns.shape[1])
    padded[place, slot] = columns
    return _Sources(index, position, ends.tolist(), place, slot, padded)


def _read(sources: _Sources | None, bundle: _Bundle, rows: Tensor, into: Tensor) -> None:
    """Effects of one layer's nodes on the targets so far: rows [n, reach, d] times the columns, by position."""
    many = 0 if sources is None else int((sources.position < bundle.reach).sum())
    if sources is None or many == 0:
        return
    last = sources.ends[many - 1]
    at = rows.index_select(1, sources.position[:many]).transpose(0, 1)  # [positions, n, d]
    found = at @ sources.columns[:many].transpose(1, 2)  # [positions, n, slots]
    into[bundle.rows[: len(rows), None], sources.index[:last]] = found[sources.place[:last], :, sources.slot[:last]].T


def _columns(block: BlockMaps, record: BlockTrace, job: Job, mine: Tensor) -> Tensor:
    """What nodes write into the residual stream [s, d]: h * W_down, through the norm on the MLP's output."""
    nodes = job.nodes
    columns = block.down.weight.T[nodes.neuron[mine]] * nodes.activation[mine, None]
    if "mlp_out_norm" not in block.norms:
        return columns
    factor = record.factors["mlp_out_norm"][job.prompt, nodes.position[mine]].to(columns.dtype)
    return block.norms["mlp_out_norm"].linear(columns, factor)


def _bundles(maps: Maps, jobs: Sequence[Job]) -> Iterator[_Bundle]:
    step, layers = step_of(len(maps.final_norm.weight)), len(maps)
    for number, job in enumerate(jobs):
        logits = _logits(job)
        ends = job.targets.new_full((logits,), 0 if job.metric is None else job.metric.position)
        position = torch.cat([ends, job.nodes.position[job.targets]])
        layer = torch.cat([torch.full_like(ends, layers), job.nodes.layer[job.targets]])
        span = position // step
        for value in torch.unique(span).tolist():
            mine = (span == value).nonzero()[:, 0]
            rows = mine[layer[mine].argsort(descending=True, stable=True)]
            yield _Bundle(number, int(position[mine].max()) + 1, rows, _slices(layer[rows], layers))


def _slices(layer: Tensor, layers: int) -> tuple[slice, ...]:
    """Where each layer 0..L stands in a descending list."""
    counts = torch.bincount(layer, minlength=layers + 1).tolist()
    ends = [sum(counts[index:]) for index in range(layers + 1)]
    return tuple(slice(end - count, end) for end, count in zip(ends, counts, strict=True))


def _logits(job: Job) -> int:
    return 0 if job.metric is None else len(job.metric.rows)


def _empty(job: Job, trace: Trace) -> Effects:
    count = _logits(job) + len(job.targets)
    values = job.nodes.activation
    return Effects(values.new_zeros(count, len(job.nodes)), values.new_zeros(count, trace.lengths[job.prompt]))
