"""Prompts -> RelP attribution graphs over MLP neurons (graph.py), several prompts at once.

Two sweeps over a recorded forward pass: a total sweep (sweep.py) gives dm/dh of every neuron, from which the nodes are
chosen; a direct sweep (direct.py) carries all nodes of all layers and prompts back together and reads off every edge.
A flow is F(s->t) = h_s * J(s->t) * dm/dh_t, signed, J the direct effect (arXiv 2508.21258, 2601.22594).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from atlas.errors import InputError
from atlas.models.adapter import Adapter
from atlas.models.direct import Effects, Job, Metric, Selected, direct_effects, rows_of, work
from atlas.models.graph import Graph, Nodes, NotFiniteError, Part, dense_edges, explained, flows_of, listed, shares
from atlas.models.replacement import Replacement, Trace, cap_ratio
from atlas.models.sweep import linear_maps, total_effects
from atlas.neuron import NeuronId

_CELLS = 1 << 23  # numbers in the matrix of one direct sweep: 32 MB in float32; larger ones leave the cache


@dataclass(frozen=True)
class Targets:
    """The metric: sum of the `positive` logits minus the `negative` ones, at `position` (-1 = the last)."""

    positive: tuple[int, ...]
    negative: tuple[int, ...] = ()
    position: int = -1

    def __post_init__(self) -> None:
        named = [*self.positive, *self.negative]
        if not self.positive or len(set(named)) < len(named):
            raise InputError(f"targets are {named}; name at least one positive token, and none twice or on both sides")


@dataclass(frozen=True)
class RelpOptions:
    """What makes a graph; part of a measurement's fingerprint."""

    tau: float = 0.005  # keep |R| >= tau * |m|
    top_k: int = 5
    max_nodes: int | None = 400  # of a graph, the strongest |R|
    max_nodes_per_layer: int | None = None
    skip_bos: bool = True  # leave the begin-of-text position out of the nodes; its embedding edges stay
    max_tokens: int = 64  # a longer prompt is refused, never cut
    always_on: tuple[NeuronId, ...] = ()  # neurons that are no nodes
    metric: str = "top_k"  # sum of the top_k logits; or "margin": best minus second-best logit
    targets: Targets | None = None  # named target tokens instead
    forward: bool | None = None  # direction of the direct sweep; None: the cheaper one of each prompt

    def __post_init__(self) -> None:
        if not 0 <= self.tau < math.inf:
            raise InputError(f"tau is {self.tau}; use a share of the metric from 0 up, such as 0.005")
        for name in ("top_k", "max_nodes", "max_nodes_per_layer", "max_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}; use at least 1")


@dataclass(frozen=True)
class _Goal:
    """The metric of one prompt."""

    name: str
    tokens: list[int]
    rows: Tensor  # [K, d] cotangents behind the last block
    position: int
    value: float
    biases: float  # what the final norm's and the unembedding's biases add to it


@dataclass(frozen=True)
class _Choice:
    """The nodes of one prompt and what the caps cut."""

    nodes: Selected
    dropped: int
    relevance_dropped: float


@dataclass(frozen=True)
class _Found:
    """Neurons of one layer that pass the threshold, over all prompts; each field [n]."""

    layer: int
    prompt: Tensor
    position: Tensor
    neuron: Tensor
    activation: Tensor
    gradient: Tensor

    def of(self, prompt: int) -> Selected:
        mine = (self.prompt == prompt).nonzero()[:, 0]
        layer = torch.full_like(mine, self.layer)
        return Selected(layer, self.position[mine], self.neuron[mine], self.activation[mine], self.gradient[mine])


class Engine:
    """The matrix engine for one model; one instance serves many threads."""

    def __init__(self, adapter: Adapter, model: Replacement, options: RelpOptions) -> None:
        if options.metric not in ("top_k", "margin"):
            raise InputError(f'unknown metric {options.metric!r}; choose "top_k" or "margin", or name target tokens')
        self._adapter, self._model, self._options = adapter, model, options
        self._maps = linear_maps(adapter)
        self._silent = _by_layer(options.always_on, adapter)

    def check(self, token_ids: Sequence[int]) -> None:
        """Raise InputError for a prompt that cannot have a graph."""
        self._model.check(token_ids)
        if len(token_ids) > self._options.max_tokens:
            raise InputError(
                f"the prompt has {len(token_ids)} tokens, max_tokens is {self._options.max_tokens}; "
                "shorten the prompt or raise max_tokens"
            )
        if (targets := self._options.targets) is not None:
            _check_targets(targets, len(token_ids), self._adapter.spec.vocab)

    def graph(self, token_ids: Sequence[int]) -> Graph:
        """Make the graph of one prompt; raises InputError (prompt, targets) and NotFiniteError."""
        (found,) = self.graphs([token_ids])
        if isinstance(found, NotFiniteError):
            raise found
        return found

    @torch.no_grad()
    def graphs(self, prompts: Sequence[Sequence[int]]) -> list[Graph | NotFiniteError]:
        """Make the graphs of several prompts of similar length; a prompt whose values are not numbers gives its error.

        Raises InputError (prompts, targets). The numbers depend, in their last bits, on what else is in the batch.
        """
        for token_ids in prompts:
            self.check(token_ids)
        trace = self._model.run(prompts)
        faults = [_fault(trace, prompt) for prompt in range(len(prompts))]
        good = [prompt for prompt, fault in enumerate(faults) if fault is None]
        goals = {prompt: self._goal(trace, prompt) for prompt in good}
        choices, residuals = self._choose(trace, prompts, goals)
        found = self._direct(trace, goals, choices)
        graphs: list[Graph | NotFiniteError] = []
        for prompt, token_ids in enumerate(prompts):
            fault = faults[prompt]
            graphs.append(
                fault or _assemble(list(token_ids), goals[prompt], choices[prompt], found[prompt], residuals[prompt])
            )
        return graphs

    def _goal(self, trace: Trace, prompt: int) -> _Goal:
        targets = self._options.targets
        position = (-1 if targets is None else targets.position) % trace.lengths[prompt]
        logits = trace.logits[prompt, position].to(self._maps.dtype)
        name, positive, negative = self._targets(logits)
        signs = logits.new_tensor([1.0] * len(positive) + [-1.0] * len(negative))
        tokens = torch.tensor([*positive, *negative], device=logits.device)
        value = float((logits[tokens] * signs).sum())
        return self._towards(trace, (prompt, position), (tokens, signs), (name, value))

    def _towards(
        self, trace: Trace, place: tuple[int, int], signed: tuple[Tensor, Tensor], named: tuple[str, float]
    ) -> _Goal:
        """Pull signed logits back to the end of the residual stream."""
        maps, (tokens, scale) = self._maps, signed
        if self._adapter.logit_cap is not None:
            before = self._adapter.unembedding(trace.final_stream[place])[tokens].to(maps.dtype)
            scale = scale * cap_ratio(before, self._adapter.logit_cap)
        rows = maps.unembedding.weight[tokens].to(maps.dtype) * scale[:, None]
        biases = 0.0 if maps.final_norm.bias is None else float((rows @ maps.final_norm.bias).sum())
        if maps.unembedding.bias is not None:
            biases += float(maps.unembedding.bias[tokens].to(maps.dtype) @ scale)
        pulled = maps.final_norm.transpose(rows, trace.final_factor[place].to(maps.dtype))
        return _Goal(named[0], tokens.tolist(), pulled, place[1], named[1], biases)

    def _targets(self, logits: Tensor) -> tuple[str, list[int], list[int]]:
        if (targets := self._options.targets) is None:
            margin = self._options.metric == "margin"
            top = logits.topk(min(2 if margin else self._options.top_k, len(logits))).indices.tolist()
            return ("margin", top[:1], top[1:]) if margin else (f"top_{len(top)}_logits", top, [])
        name = "logit_difference" if targets.negative else "logits"
        return name, list(targets.positive), list(targets.negative)

    def _choose(
        self, trace: Trace, prompts: Sequence[Sequence[int]], goals: dict[int, _Goal]
    ) -> tuple[dict[int, _Choice], dict[int, float]]:
        """Run the total sweep: the nodes of every prompt, and how far its inputs' relevance is from the metric."""
        start = torch.zeros_like(trace.embedding, dtype=self._maps.dtype)
        bar = start.new_full((len(prompts), 1, 1), torch.inf)
        for prompt, goal in goals.items():
            start[prompt, goal.position] = goal.rows.sum(0)
            bar[prompt] = self._options.tau * abs(goal.value)
        allowed = self._allowed(trace, prompts)
        found: list[_Found] = []

        def visit(layer: int, effect: Tensor) -> None:
            hidden = trace.blocks[layer].hidden.to(effect.dtype)
            keep = ((hidden * effect).abs() >= bar) & allowed
            keep[:, :, self._silent.get(layer, [])] = False
            prompt, position, neuron = place = keep.nonzero(as_tuple=True)
            found.append(_Found(layer, prompt, position, neuron, hidden[place], effect[place]))

        inputs, biases = total_effects(self._maps, trace, start, visit)
        relevance = (self._inputs(trace) * inputs).sum((1, 2), dtype=torch.float64) + biases
        choices = {prompt: self._cut([layer.of(prompt) for layer in reversed(found)]) for prompt in goals}
        return choices, {p: _distance(float(relevance[p]) + g.biases, g.value) for p, g in goals.items()}

    def _allowed(self, trace: Trace, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Positions that may hold nodes [B, T, 1]."""
        lengths = torch.tensor(trace.lengths, device=trace.embedding.device)
        found = torch.arange(trace.embedding.shape[1], device=lengths.device)[None] < lengths[:, None]
        for prompt, token_ids in enumerate(prompts):
            if self._options.skip_bos and token_ids[0] == self._adapter.bos_token_id:
                found[prompt, 0] = False
        return found[..., None]

    def _inputs(self, trace: Trace) -> Tensor:
        """Token plus position embeddings [B, T, d]."""
        inputs = trace.embedding.to(self._maps.dtype)
        if self._adapter.position_embedding is not None:
            inputs = inputs + self._adapter.position_embedding(torch.arange(inputs.shape[1], device=inputs.device))
        return inputs

    def _cut(self, layers: list[Selected]) -> _Choice:
        """Apply the caps: the strongest of each layer, then of the graph."""
        kept = [_take(layer, _strongest(_strength(layer), self._options.max_nodes_per_layer)) for layer in layers]
        joined = _join(kept)
        nodes = _take(joined, _strongest(_strength(joined), self._options.max_nodes))
        before, after = (_strength(part).double().sum() for part in (_join(layers), nodes))
        return _Choice(nodes, sum(map(len, layers)) - len(nodes), float(before - after))

    def _direct(self, trace: Trace, goals: dict[int, _Goal], choices: dict[int, _Choice]) -> dict[int, list[Part]]:
        """Run the direct sweeps, as much at once as stays under _CELLS numbers."""
        found: dict[int, list[Part]] = {prompt: [] for prompt in goals}
        jobs = [job for prompt, goal in goals.items() for job in self._jobs(prompt, goal, choices[prompt].nodes)]
        for together in _together(jobs, trace.embedding.shape[2]):
            for job, effects in zip(together, direct_effects(self._maps, trace, together), strict=True):
                found[job.prompt].append(_part(job, effects))
        return found

    def _jobs(self, prompt: int, goal: _Goal, nodes: Selected) -> Iterator[Job]:
        """All that is to be carried for a prompt, in its cheaper direction; the first job with the ends."""
        metric, layers = Metric(goal.rows, goal.position), len(self._maps)
        ways = {forward: work(nodes, metric, layers, forward=forward) for forward in (False, True)}
        forward = self._options.forward if self._options.forward is not None else ways[True] < ways[False]
        size = max(32, _CELLS // ((goal.position + 1) * goal.rows.shape[1]))
        pieces = torch.split(torch.arange(len(nodes), device=nodes.layer.device), size)
        for number, carried in enumerate(pieces):
            yield Job(prompt, nodes, metric, forward, carried, ends=number == 0)


def _part(job: Job, effects: Effects) -> Part:
    nodes, others = (part.double().cpu().numpy() for part in (effects.nodes, effects.ends))
    return Part(job.forward, job.first, job.carried.cpu().numpy(), nodes, others)


def _together(jobs: list[Job], d_model: int) -> Iterator[list[Job]]:
    """Jobs of one direction, up to _CELLS numbers at once."""
    for forward in (False, True):
        waiting: list[Job] = []
        held = 0
        for job in (job for job in jobs if job.forward == forward):
            size = rows_of(job) * d_model
            if waiting and held + size > _CELLS:
                yield waiting
                waiting, held = [], 0
            waiting.append(job)
            held += size
        if waiting:
            yield waiting


def _check_targets(targets: Targets, count: int, vocab: int) -> None:
    if not -count <= targets.position < count:
        raise InputError(
            f"target position {targets.position} is outside the prompt's {count} tokens; choose 0..{count - 1}"
        )
    if not all(0 <= token < vocab for token in (*targets.positive, *targets.negative)):
        named = [*targets.positive, *targets.negative]
        raise InputError(f"targets need token ids in 0..{vocab - 1}, got {named}; use the model's tokenizer")


def _fault(trace: Trace, prompt: int) -> NotFiniteError | None:
    span = slice(trace.lengths[prompt])
    for index, record in enumerate(trace.blocks):
        parts = [record.pattern[prompt, :, span, span], record.up[prompt, span], record.hidden[prompt, span]]
        # a norm of something that overflowed has the scale 0, and everything behind it looks finite
        parts += [1 / factor[prompt, span] for factor in record.factors.values()]
        if not all(bool(torch.isfinite(part).all()) for part in parts):
            return NotFiniteError(f"activations of layer {index} are not finite; check the weights, or use float32")
    if not (torch.isfinite(trace.logits[prompt, span]).all() and trace.final_factor[prompt, span].all()):
        return NotFiniteError("the logits are not finite after the last layer; check the weights, or use float32")
    return None


def _by_layer(neurons: Sequence[NeuronId], adapter: Adapter) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for one in neurons:
        if not (0 <= one.layer < adapter.spec.layers and 0 <= one.neuron < adapter.spec.d_mlp):
            raise InputError(f"{one} of always_on is no neuron of {adapter.spec.name}; correct the list")
        found.setdefault(one.layer, []).append(one.neuron)
    return found


def _distance(found: float, expected: float) -> float:
    return abs(found - expected) / max(abs(expected), 1e-30)


def _strength(nodes: Selected) -> Tensor:
    return (nodes.activation * nodes.gradient).abs()


def _take(nodes: Selected, index: Tensor) -> Selected:
    return Selected(*(getattr(nodes, name)[index] for name in Selected.__dataclass_fields__))


def _join(parts: list[Selected]) -> Selected:
    return Selected(*(torch.cat([getattr(part, name) for part in parts]) for name in Selected.__dataclass_fields__))


def _strongest(strength: Tensor, limit: int | None) -> Tensor:
    """Find the indices, ascending, of the `limit` largest values; equal values keep the earlier one."""
    if limit is None or len(strength) <= limit:
        return torch.arange(len(strength), device=strength.device)
    last = strength.topk(limit).values[-1]  # a full sort of two million neurons takes as long as the sweeps
    above, equal = (strength > last).nonzero()[:, 0], (strength == last).nonzero()[:, 0]
    return torch.cat([above, equal[: limit - len(above)]]).sort().values


def _assemble(token_ids: list[int], goal: _Goal, choice: _Choice, parts: list[Part], residual: float) -> Graph:
    nodes, flows = choice.nodes, flows_of(len(choice.nodes), len(goal.tokens), len(token_ids), parts)
    activation, gradient = nodes.activation.double().cpu().numpy(), nodes.gradient.double().cpu().numpy()
    relevance = activation * gradient
    shown = listed(relevance, flows)
    share, remainder = explained(relevance, shown, (goal.value, flows))
    layer, position, neuron = (t.cpu().numpy() for t in (nodes.layer, nodes.position, nodes.neuron))
    direct = flows.logit.sum(1)
    return Graph(
        token_ids=token_ids,
        metric=goal.name,
        metric_value=goal.value,
        targets=goal.tokens,
        target_position=goal.position,
        nodes=Nodes(layer, position, neuron, activation, gradient, relevance, direct, shares(relevance, shown)),
        edges=flows.edges,
        embedding=dense_edges(flows.embedding),
        logit=dense_edges(flows.logit),
        nodes_dropped=choice.dropped,
        relevance_dropped=choice.relevance_dropped,
        explained=share,
        remainder=remainder,
        completeness_residual=residual,
    )
