"""One prompt -> one RelP attribution graph over MLP neurons, with how much of it is explained.

Two sweeps over a recorded forward pass (sweep.py): one total sweep gives dm/dh of every neuron, from which the nodes
are chosen; one direct sweep carries all nodes of all layers back together and reads off every edge. A flow is
F(s->t) = h_s * J(s->t) * dm/dh_t, signed, J the direct effect (arXiv 2508.21258, 2601.22594).

Explained shares. The relevance R(t) of a node is the sum of the flows from all earlier neurons, the token embeddings,
the position embeddings and the biases (the metric m likewise, from all neurons). The part that the graph lists, from
its own nodes and from token embeddings, divided by R(t) is the node's share e(t); position embeddings and biases are
never listed. The graph's `explained` is the mean of e over all nodes and m, weighted by |R(t)| and |m|:
sum(sign(R) * listed) / sum(|R|); `remainder` = sum(|R|) - sum(sign(R) * listed), in units of the metric. A share above
1 means that what is missing is of the opposite sign.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atlas.errors import InputError, ModelError
from atlas.models.adapter import Adapter
from atlas.models.replacement import Replacement, Trace
from atlas.models.sweep import (
    Places,
    Total,
    linear_maps,
    metric_biases,
    metric_rows,
    source_effects,
    target_rows,
    through_attention,
    total_effects,
)

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_CELLS = 1 << 25  # numbers in one direct sweep's array [T, K, d]: 128 MB in float32


@dataclass(frozen=True)
class Targets:
    """The metric: sum of the `positive` logits minus the `negative` ones, at `position` (-1 = the last)."""

    positive: tuple[int, ...]
    negative: tuple[int, ...] = ()
    position: int = -1


@dataclass(frozen=True)
class RelpOptions:
    """What makes a graph; part of a measurement's fingerprint."""

    tau: float = 0.005  # keep |R| >= tau * |m|
    top_k: int = 5
    max_nodes: int | None = 400
    skip_bos: bool = True  # leave the begin-of-text position out of the nodes; its embedding edges stay
    max_tokens: int = 64  # a longer prompt is refused, never cut
    metric: str = "top_k"  # sum of the top_k logits; or "margin": best minus second-best logit


@dataclass(frozen=True)
class Nodes:
    """Neurons at positions, sorted by (layer, position, neuron); arrays of n."""

    layer: Ints
    position: Ints
    neuron: Ints
    activation: Floats
    gradient: Floats  # dm/dh, all paths
    relevance: Floats  # h * dm/dh, metric units
    direct: Floats  # h * dm/dh with every later MLP stopped, metric units
    explained: Floats  # share of the relevance that the graph lists; NaN where the relevance is 0


@dataclass(frozen=True)
class Edges:
    """Weighted pairs of indices (into nodes, positions or targets, as the field of Graph says), zeros left out."""

    source: Ints
    target: Ints
    weight: Floats


@dataclass(frozen=True)
class Graph:
    """One attribution graph; weights are signed flows in units of the metric."""

    token_ids: list[int]
    metric: str
    metric_value: float
    targets: list[int]  # token ids, positive ones first
    target_position: int
    nodes: Nodes
    edges: Edges  # node -> node, sorted by (source, target)
    embedding: Edges  # position -> node
    logit: Edges  # node -> index into `targets`
    nodes_dropped: int
    relevance_dropped: float  # sum of |R| of the dropped
    explained: float
    remainder: float
    completeness_residual: float  # |sum of all input relevance - m| / |m|: the numerical check of the whole graph


class NotFiniteError(ModelError):
    """Activations of one prompt that are not numbers; the layer is named."""


@dataclass(frozen=True)
class _Metric:
    name: str
    tokens: Tensor  # [K]
    signs: Tensor  # [K] +1 or -1
    position: int
    value: float


@dataclass(frozen=True)
class _Chosen:
    layer: Tensor
    position: Tensor
    neuron: Tensor
    activation: Tensor
    gradient: Tensor
    dropped: int
    relevance_dropped: float

    def of_layer(self, layer: int, among: Tensor) -> Tensor:
        """Pick from the node indices `among` those of one layer."""
        return among[self.layer[among] == layer]

    def places(self, index: Tensor) -> Places:
        return Places(self.neuron[index], self.position[index])


@dataclass(frozen=True)
class _Flows:
    """What the direct sweeps found: flows between nodes, from nodes to the K logits, from T embeddings to both."""

    edges: Edges
    logit: Floats  # [n, K]
    embedding: Floats  # [T, n]
    embedding_logit: float  # all embeddings' direct effect on the metric


class Engine:
    """The matrix engine for one model; one instance serves many threads."""

    def __init__(self, adapter: Adapter, model: Replacement, options: RelpOptions) -> None:
        if options.metric not in ("top_k", "margin"):
            raise InputError(f'unknown metric {options.metric!r}; choose "top_k" or "margin", or name target tokens')
        self._adapter, self._model, self._options = adapter, model, options
        self._maps = linear_maps(adapter)

    def check(self, token_ids: list[int]) -> None:
        """Raise InputError for a prompt that cannot have a graph."""
        self._model.check(token_ids)
        if len(token_ids) > self._options.max_tokens:
            raise InputError(
                f"the prompt has {len(token_ids)} tokens, max_tokens is {self._options.max_tokens}; "
                "shorten the prompt or raise max_tokens"
            )

    @torch.no_grad()
    def graph(self, token_ids: list[int], targets: Targets | None = None) -> Graph:
        """Make the graph of one prompt; raises InputError (prompt, targets) and NotFiniteError."""
        self.check(token_ids)
        trace = self._model.run(token_ids)
        _check_finite(trace)
        metric = self._metric(trace, targets)
        start = metric_rows(self._maps, trace, metric.tokens, metric.signs, metric.position)
        total = total_effects(self._maps, trace, start.sum(1, keepdim=True))
        chosen = self._choose(token_ids, trace, total, metric)
        flows = self._direct(trace, start, chosen)
        return _assemble(token_ids, metric, chosen, flows, self._residual(trace, total, metric))

    def _metric(self, trace: Trace, targets: Targets | None) -> _Metric:
        position = -1 if targets is None else targets.position
        count = len(trace.logits)
        if not -count <= position < count:
            raise InputError(
                f"target position {position} is outside the prompt's {count} tokens; choose 0..{count - 1}"
            )
        logits = trace.logits[position].to(self._maps.dtype)
        name, positive, negative = self._targets(logits, targets)
        tokens = torch.tensor([*positive, *negative], device=logits.device)
        signs = torch.tensor([1.0] * len(positive) + [-1.0] * len(negative), device=logits.device, dtype=logits.dtype)
        return _Metric(name, tokens, signs, position % count, float((logits[tokens] * signs).sum()))

    def _targets(self, logits: Tensor, targets: Targets | None) -> tuple[str, list[int], list[int]]:
        if targets is None:
            margin = self._options.metric == "margin"
            top = logits.topk(min(2 if margin else self._options.top_k, len(logits))).indices.tolist()
            return ("margin", top[:1], top[1:]) if margin else (f"top_{len(top)}_logits", top, [])
        named = [*targets.positive, *targets.negative]
        if not targets.positive or not all(0 <= token < len(logits) for token in named):
            raise InputError(f"targets need token ids in 0..{len(logits) - 1}, got {named}; name at least one positive")
        name = "logit_difference" if targets.negative else "logits"
        return name, list(targets.positive), list(targets.negative)

    def _choose(self, token_ids: list[int], trace: Trace, total: Total, metric: _Metric) -> _Chosen:
        hidden = torch.stack([record.hidden for record in trace.blocks]).to(total.neurons.dtype)  # [L, T, N]
        relevance = (hidden * total.neurons).abs()
        keep = relevance >= self._options.tau * abs(metric.value)
        if self._options.skip_bos and token_ids[0] == self._adapter.bos_token_id:
            keep[:, 0] = False
        layer, position, neuron = keep.nonzero(as_tuple=True)
        strength = relevance[layer, position, neuron]
        kept = _strongest(strength, self._options.max_nodes)
        layer, position, neuron = layer[kept], position[kept], neuron[kept]
        return _Chosen(
            layer=layer,
            position=position,
            neuron=neuron,
            activation=hidden[layer, position, neuron],
            gradient=total.neurons[layer, position, neuron],
            dropped=len(strength) - len(kept),
            relevance_dropped=float(strength.double().sum() - strength[kept].double().sum()),
        )

    def _direct(self, trace: Trace, start: Tensor, chosen: _Chosen) -> _Flows:
        """Run direct sweeps over batches of targets whose array [T, K, d] stays under _CELLS numbers."""
        count, logits = len(chosen.layer), start.shape[1]
        flows: list[tuple[Tensor, Tensor, Tensor]] = []
        to_logits = start.new_zeros(count, logits)
        embedding = start.new_zeros(len(start), logits + count)
        size = max(64, _CELLS // start[:, 0].numel())
        batches = torch.split(torch.arange(count, device=start.device), size)
        self._sweep(trace, start, (chosen, chosen.layer.new_empty(0)), (to_logits, embedding[:, :logits], []))
        for batch in batches:
            columns = embedding[:, logits + int(batch[0]) : logits + int(batch[-1]) + 1]
            self._sweep(trace, start[:, :0], (chosen, batch), (to_logits[:, :0], columns, flows))
        return _Flows(
            edges=_edges(flows),
            logit=to_logits.double().cpu().numpy(),
            embedding=embedding[:, logits:].double().cpu().numpy(),
            embedding_logit=float(embedding[:, :logits].double().sum()),
        )

    def _sweep(
        self,
        trace: Trace,
        cotangent: Tensor,
        what: tuple[_Chosen, Tensor],
        into: tuple[Tensor, Tensor, list[tuple[Tensor, Tensor, Tensor]]],
    ) -> None:
        """Carry the metric's rows (`cotangent`) and one batch of targets down to the embeddings."""
        chosen, batch = what
        to_logits, embedding, flows = into
        every = torch.arange(len(chosen.layer), device=cotangent.device)
        rows = [torch.empty(0, dtype=torch.int64, device=cotangent.device)]  # node of each row after the metric's
        for index in reversed(range(len(self._maps.blocks))):
            block, record = self._maps.blocks[index], trace.blocks[index]
            sources = chosen.of_layer(index, every)
            effect = source_effects(block, cotangent, chosen.places(sources)) * chosen.activation[sources]
            logits = to_logits.shape[1]
            to_logits[sources] = effect[:logits].T
            flows.append((sources, torch.cat(rows), effect[logits:]))
            mine = chosen.of_layer(index, batch)
            rows.append(mine)
            new = target_rows(block, record, chosen.places(mine), chosen.gradient[mine])
            cotangent, _ = through_attention(block, record, torch.cat([cotangent, new], dim=1))
        order = torch.cat(rows)
        found = torch.einsum("td,tkd->tk", trace.embedding[0].to(cotangent.dtype), cotangent)
        embedding.copy_(found if not len(order) else found[:, order.argsort()])

    def _residual(self, trace: Trace, total: Total, metric: _Metric) -> float:
        """Sum the relevance of all inputs (embeddings, positions, biases) and compare it with the metric."""
        inputs = trace.embedding[0].to(total.embedding.dtype)
        if self._adapter.position_embedding is not None:
            inputs = inputs + self._adapter.position_embedding(torch.arange(len(inputs), device=inputs.device))
        found = float((inputs * total.embedding).sum()) + total.biases
        found += metric_biases(self._maps, metric.tokens, metric.signs)
        return abs(found - metric.value) / max(abs(metric.value), 1e-30)


def _check_finite(trace: Trace) -> None:
    for index, record in enumerate(trace.blocks):
        parts = (record.pattern, record.up, record.hidden, record.attention_factor, record.mlp_factor)
        if not all(bool(torch.isfinite(part).all()) for part in parts):
            raise NotFiniteError(f"activations of layer {index} are not finite; check the weights, or use float32")
    if not torch.isfinite(trace.logits).all():
        raise NotFiniteError("the logits are not finite after the last layer; check the weights, or use float32")


def _strongest(strength: Tensor, limit: int | None) -> Tensor:
    """Find the indices, ascending, of the `limit` largest values; equal values keep the earlier one."""
    if limit is None or len(strength) <= limit:
        return torch.arange(len(strength), device=strength.device)
    return strength.sort(descending=True, stable=True).indices[:limit].sort().values


def _edges(flows: list[tuple[Tensor, Tensor, Tensor]]) -> Edges:
    parts = [_cells(*flow) for flow in flows]
    if not parts:
        return Edges(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))
    source, target, value = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    order = np.lexsort((target, source))
    return Edges(source[order], target[order], value[order])


def _cells(sources: Tensor, targets: Tensor, effect: Tensor) -> tuple[Ints, Ints, Floats]:
    row, column = effect.nonzero(as_tuple=True)
    values: Floats = effect[row, column].double().cpu().numpy()
    return sources[column].cpu().numpy(), targets[row].cpu().numpy(), values


def _dense_edges(cells: Floats) -> Edges:
    source, target = cells.nonzero()
    return Edges(source.astype(np.int64), target.astype(np.int64), cells[source, target])


def _assemble(token_ids: list[int], metric: _Metric, chosen: _Chosen, flows: _Flows, residual: float) -> Graph:
    nodes, listed = _nodes(chosen, flows)
    found = np.append(np.sign(nodes.relevance) * listed, np.sign(metric.value) * _listed_metric(flows)).sum()
    whole = np.abs(nodes.relevance).sum() + abs(metric.value)
    return Graph(
        token_ids=token_ids,
        metric=metric.name,
        metric_value=metric.value,
        targets=metric.tokens.tolist(),
        target_position=metric.position,
        nodes=nodes,
        edges=flows.edges,
        embedding=_dense_edges(flows.embedding),
        logit=_dense_edges(flows.logit),
        nodes_dropped=chosen.dropped,
        relevance_dropped=chosen.relevance_dropped,
        explained=float(found / whole) if whole else float("nan"),
        remainder=float(whole - found),
        completeness_residual=residual,
    )


def _nodes(chosen: _Chosen, flows: _Flows) -> tuple[Nodes, Floats]:
    """Nodes, and per node the relevance that the graph lists."""
    activation, gradient = chosen.activation.double().cpu().numpy(), chosen.gradient.double().cpu().numpy()
    relevance = activation * gradient
    listed = np.bincount(flows.edges.target, flows.edges.weight, len(relevance)) + flows.embedding.sum(0)
    share = np.divide(listed, relevance, out=np.full(len(relevance), np.nan), where=relevance != 0)
    layer, position, neuron = (t.cpu().numpy() for t in (chosen.layer, chosen.position, chosen.neuron))
    return Nodes(layer, position, neuron, activation, gradient, relevance, flows.logit.sum(1), share), listed


def _listed_metric(flows: _Flows) -> float:
    return float(flows.logit.sum() + flows.embedding_logit)
