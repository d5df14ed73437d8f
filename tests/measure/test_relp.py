"""The identities of RelP attribution graphs in float64, against one autograd backward per target."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from tiny_models import (
    FAMILIES,
    relative_error,
    shared_model,
    tiny_gemma2,
    tiny_gpt2,
    tiny_llama,
    tiny_neox,
    tiny_olmo2,
    tiny_olmo3,
    tokens,
)
from torch import Tensor, nn

from atlas.errors import InputError
from atlas.measure.relp import Graph, NotFiniteError, RelpOptions, Targets, attribute
from atlas.models.adapter import Adapter, Block, load_model, weight
from atlas.models.attribution import Engine
from atlas.models.norm import is_norm, norm_of
from atlas.models.replacement import BlockTrace, Rules, replacement
from atlas.models.sweep import linear_maps

ALL = RelpOptions(tau=0.0, max_nodes=None, skip_bos=False)
BIASED = {"qwen2", "gpt2", "neox"}  # biases or position embeddings: sources that a graph does not list


@pytest.fixture(params=FAMILIES)
def adapter(request: pytest.FixtureRequest) -> Adapter:
    return FAMILIES[request.param]()


@pytest.fixture(params=["stories260K-hf", "slm4096-hf"])
def trained(request: pytest.FixtureRequest) -> Adapter:
    return load_model(shared_model(request.param), dtype="float64")


@pytest.fixture(params=[False, True], ids=["backward", "forward"])
def options(request: pytest.FixtureRequest) -> RelpOptions:
    """Every node, carried in one direction."""
    return replace(ALL, forward=request.param)


@pytest.fixture(params=[*FAMILIES, "stories260K-hf", "slm4096-hf"])
def any_model(request: pytest.FixtureRequest) -> Adapter:
    if request.param in FAMILIES:
        return FAMILIES[request.param]()
    return load_model(shared_model(request.param), dtype="float64")


@dataclass
class Inputs:
    """Relevance that reaches the inputs of the model, by kind, and the metric."""

    metric: float
    embedding: float
    positions: float
    biases: float
    neurons: float


def backward(adapter: Adapter, ids: list[int], rules: Rules, metric: list[int]) -> Inputs:
    """Autograd oracle: sum of value * gradient over every kind of input."""
    parts = _parameters(adapter)
    for parameter in parts.values():
        parameter.requires_grad_(True)
    try:
        with replacement(adapter) as model:
            trace = model.run([ids], rules)
            value = trace.logits[0, -1, metric].sum()
            hidden = [record.hidden for record in trace.blocks] if rules.leaves else []
            gradients = torch.autograd.grad(
                value, [trace.embedding, *hidden, *parts.values()], allow_unused=True, materialize_grads=True
            )
            values = [trace.embedding, *hidden, *parts.values()]
            products = [float((g * v).sum().detach()) for g, v in zip(gradients, values, strict=True)]
    finally:
        for parameter in parts.values():
            parameter.requires_grad_(False)
    named = dict(zip(parts, products[1 + len(hidden) :], strict=True))
    positions = named.pop("positions", 0.0)
    return Inputs(value.item(), products[0], positions, sum(named.values()), sum(products[1 : 1 + len(hidden)]))


def _parameters(adapter: Adapter) -> dict[str, Tensor]:
    found = {n: p for n, p in adapter.model.named_parameters() if n.endswith("bias")}
    if adapter.position_embedding is not None:
        found["positions"] = adapter.position_embedding.weight
    return found


def oracle(adapter: Adapter, ids: list[int], graph: Graph) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Flows, embedding edges, direct effects and total gradients of all nodes: one backward per target."""
    nodes = graph.nodes
    with replacement(adapter) as model:
        live = model.run([ids])
        hidden = [record.hidden for record in live.blocks]
        total = torch.autograd.grad(live.logits[0, -1, graph.targets].sum(), hidden)
        gradient = torch.stack(total)[:, 0][nodes.layer, nodes.position, nodes.neuron]
        cut = model.run([ids], Rules(leaves=True))
        leaves = [record.hidden for record in cut.blocks]
        flows, embedding = [], []
        for k in range(len(nodes.layer)):
            target = cut.blocks[nodes.layer[k]].uncut[0, nodes.position[k], nodes.neuron[k]]
            found = torch.autograd.grad(
                target, [cut.embedding, *leaves], retain_graph=True, allow_unused=True, materialize_grads=True
            )
            effect = (torch.stack(found[1:]) * torch.stack(leaves))[:, 0] * gradient[k]
            flows.append(effect[nodes.layer, nodes.position, nodes.neuron])
            embedding.append((found[0] * cut.embedding)[0].sum(-1) * gradient[k])
        direct = torch.autograd.grad(cut.logits[0, -1, graph.targets].sum(), leaves)
        share = (torch.stack(direct) * torch.stack(leaves))[:, 0][nodes.layer, nodes.position, nodes.neuron]
    parts = (torch.stack(flows, 1), torch.stack(embedding, 1), share, gradient)
    return tuple(part.detach().numpy() for part in parts)  # type: ignore[return-value]


def dense(graph: Graph) -> np.ndarray:
    found = np.zeros((len(graph.nodes.layer),) * 2)
    found[graph.edges.source, graph.edges.target] = graph.edges.weight
    return found


def test_forward_value_is_unchanged(adapter: Adapter, monkeypatch: pytest.MonkeyPatch) -> None:  # I0
    ids = tokens(9)
    for module in filter(is_norm, adapter.model.modules()):
        # transformers computes RMSNorm in float32 whatever the dtype: compare like with like
        monkeypatch.setattr(module, "forward", norm_of(module), raising=False)
    before = adapter.model(torch.tensor([ids])).logits[0]
    monkeypatch.undo()
    with replacement(adapter) as model:
        # Gemma-2 has no sdpa, and transformers' eager attention takes its softmax in float32
        bound = 1e-6 if adapter.spec.architecture.startswith("Gemma2") else 1e-12
        assert relative_error(model.run([ids]).logits[0], before) < bound
    after = adapter.model(torch.tensor([ids])).logits[0]
    assert relative_error(after, before) < 1e-5  # and the model is itself again
    assert adapter.model.config._attn_implementation != "atlas_recorded_pattern"


def test_completeness(any_model: Adapter) -> None:  # I1, I6
    graph = attribute(any_model, tokens(5), options=ALL)
    assert graph.completeness_residual < 1e-12
    found = backward(any_model, tokens(5), Rules(), graph.targets)
    assert found.metric == pytest.approx(graph.metric_value, rel=1e-12)
    whole = found.embedding + found.positions + found.biases
    assert whole == pytest.approx(found.metric, rel=1e-12)


def test_direct_completeness(any_model: Adapter) -> None:  # I3, I6
    graph = attribute(any_model, tokens(5), options=ALL)
    found = backward(any_model, tokens(5), Rules(leaves=True), graph.targets)
    assert found.embedding + found.positions + found.biases + found.neurons == pytest.approx(found.metric, rel=1e-12)
    assert found.neurons == pytest.approx(graph.nodes.direct.sum(), rel=1e-10)


@pytest.mark.parametrize("make", [tiny_gpt2, tiny_neox])
def test_without_biases_and_positions_it_is_incomplete(make: Callable[[], Adapter]) -> None:  # I6
    found = backward(make(), tokens(9), Rules(), [0, 1, 2])
    assert abs(found.embedding / found.metric - 1) > 0.1
    assert abs((found.embedding + found.positions) / found.metric - 1) > 0.1
    assert found.positions == 0 or abs((found.embedding + found.biases) / found.metric - 1) > 0.1


NEEDED = {
    "half rule": Rules(half=False),
    "norms": Rules(freeze_norms=False),
    "attention": Rules(freeze_attention=False),
}


@pytest.mark.parametrize("rule", NEEDED)
def test_every_rule_is_needed(adapter: Adapter, rule: str) -> None:  # I7
    if rule == "half rule" and not adapter.spec.gated:
        pytest.skip("no gate, no half rule")
    right, wrong = (_inputs_errors(adapter, rules) for rules in (Rules(), NEEDED[rule]))
    assert max(right) < 1e-12
    assert np.mean(wrong) > 0.03  # one prompt may come out right by chance


@pytest.mark.parametrize("make", [tiny_olmo2, tiny_olmo3, tiny_gemma2])
@pytest.mark.parametrize("role", ["attention_out_norm", "mlp_out_norm"])
def test_norms_behind_a_half_are_frozen_too(make: Callable[[], Adapter], role: str) -> None:  # I7
    assert np.mean(_inputs_errors(make(), Rules(live_norms=frozenset([role])))) > 0.1


def _inputs_errors(adapter: Adapter, rules: Rules) -> list[float]:
    """By prompt: how far the relevance of all inputs is from the metric, relative to it."""
    found = [backward(adapter, tokens(9, seed=seed), rules, [0, 1, 2, 3, 4]) for seed in (1, 2, 3)]
    return [abs(one.embedding + one.positions + one.biases - one.metric) / abs(one.metric) for one in found]


def test_engine_equals_one_backward_per_target(adapter: Adapter, options: RelpOptions) -> None:
    graph = attribute(adapter, tokens(9), options=options)
    flows, embedding, direct, gradient = oracle(adapter, tokens(9), graph)
    scale = np.abs(flows).max()
    assert len(graph.nodes.layer) == 3 * 9 * 14
    assert np.abs(dense(graph) - flows).max() < 1e-10 * scale
    tokens_in = np.zeros_like(embedding)
    tokens_in[graph.embedding.source, graph.embedding.target] = graph.embedding.weight
    assert np.abs(tokens_in - embedding).max() < 1e-10 * np.abs(embedding).max()
    assert np.allclose(graph.nodes.direct, direct, rtol=0, atol=1e-10 * np.abs(direct).max())
    assert np.allclose(graph.nodes.gradient, gradient, rtol=0, atol=1e-10 * np.abs(gradient).max())


@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - BIASED))
def test_flows_into_a_neuron_sum_to_its_relevance(family: str) -> None:  # I4
    graph = attribute(FAMILIES[family](), tokens(9), options=ALL)
    incoming = np.bincount(graph.edges.target, graph.edges.weight, len(graph.nodes.layer))
    incoming += np.bincount(graph.embedding.target, graph.embedding.weight, len(graph.nodes.layer))
    assert np.allclose(incoming, graph.nodes.relevance, rtol=0, atol=1e-12 * np.abs(graph.nodes.relevance).max())
    counts = graph.nodes.relevance != 0  # last-layer neurons away from the target position have none
    assert np.allclose(graph.nodes.explained[counts], 1, atol=1e-9)
    assert np.isnan(graph.nodes.explained[~counts]).all()
    assert graph.explained == pytest.approx(1, abs=1e-12)
    assert graph.remainder == pytest.approx(0, abs=1e-9)


def test_flow_is_conserved(any_model: Adapter) -> None:  # I5
    nodes = (graph := attribute(any_model, tokens(5), options=ALL)).nodes
    outgoing = np.bincount(graph.edges.source, graph.edges.weight, len(nodes.layer)) + nodes.direct
    assert np.allclose(outgoing, nodes.relevance, rtol=0, atol=1e-12 * np.abs(nodes.relevance).max())
    by_token = np.bincount(graph.logit.source, graph.logit.weight, len(nodes.layer))
    assert np.allclose(by_token, nodes.direct, rtol=0, atol=1e-12 * np.abs(nodes.direct).max())


def test_biases_and_positions_are_the_rest_of_a_neurons_relevance() -> None:  # I4, I6
    for family in sorted(BIASED):
        adapter, ids = FAMILIES[family](), tokens(9)
        graph = attribute(adapter, ids, options=ALL)
        nodes = graph.nodes
        listed = np.bincount(graph.edges.target, graph.edges.weight, len(nodes.layer))
        listed += np.bincount(graph.embedding.target, graph.embedding.weight, len(nodes.layer))
        target = int(np.abs(nodes.relevance * (nodes.layer == 2)).argmax())
        rest = _bias_flow(adapter, ids, (2, nodes.position[target], nodes.neuron[target])) * nodes.gradient[target]
        assert abs(rest) > 1e-3 * abs(nodes.relevance[target])
        assert listed[target] + rest == pytest.approx(nodes.relevance[target], rel=1e-10)


def _bias_flow(adapter: Adapter, ids: list[int], place: tuple[int, int, int]) -> float:
    """Autograd oracle: b * dh/db summed over every bias and position embedding, the MLPs between stopped."""
    parts = list(_parameters(adapter).values())
    with replacement(adapter) as model:
        for part in parts:
            part.requires_grad_(True)
        target = model.run([ids], Rules(leaves=True)).blocks[place[0]].uncut[0, place[1], place[2]]
        found = torch.autograd.grad(target, parts, allow_unused=True, materialize_grads=True)
        for part in parts:
            part.requires_grad_(False)
    return sum(float((g * p).sum().detach()) for g, p in zip(found, parts, strict=True))


def test_intervention_moves_everything_by_delta_times_j(
    any_model: Adapter, options: RelpOptions
) -> None:  # I8: no autograd anywhere
    adapter, ids = any_model, tokens(5)  # I8: no autograd anywhere
    graph = attribute(adapter, ids, options=options)
    nodes, flows, delta = graph.nodes, dense(graph), 1e-2
    source = int(np.flatnonzero((nodes.layer == 0) & (nodes.position == 3))[5])
    changes, logits = _intervene(adapter, ids, (0, 3, int(nodes.neuron[source])), delta)
    later = np.flatnonzero(nodes.layer > 0)
    moved = changes.numpy()[nodes.layer[later], nodes.position[later], nodes.neuron[later]]
    expected = nodes.activation[source] * moved / delta * nodes.gradient[later]
    assert np.abs(expected).max() > 0
    assert np.allclose(flows[source, later], expected, rtol=0, atol=1e-10 * np.abs(expected).max())
    direct = nodes.activation[source] * float(logits[graph.targets].sum()) / delta
    assert direct == pytest.approx(nodes.direct[source], rel=1e-9, abs=1e-12)
    assert not changes[0].any()


def _intervene(adapter: Adapter, ids: list[int], source: tuple[int, int, int], delta: float) -> tuple[Tensor, Tensor]:
    """Push one neuron through a forward pass written out here, everything frozen at recorded values.

    Gives the change of every neuron's replacement value [L, T, N] and of the last position's logits [V].
    """
    with replacement(adapter) as model, torch.no_grad():
        trace = model.run([ids])
    layer, position, neuron = source
    stream = torch.zeros(len(ids), adapter.spec.d_model, dtype=adapter.dtype)  # the change of the residual stream
    changes = torch.zeros(adapter.spec.layers, len(ids), adapter.spec.d_mlp, dtype=adapter.dtype)
    for index, (block, record) in enumerate(zip(adapter.blocks, trace.blocks, strict=True)):
        attended = _normed(block, record, "attention_norm", stream)
        attended = _attend(block, record.pattern[0], attended)
        middle = stream + _normed(block, record, "attention_out_norm", attended)
        read = _normed(block, record, "mlp_norm", stream if block.parallel else middle)
        changes[index] = _replaced_neurons(block, record, read)
        written = torch.zeros_like(stream)
        if index == layer:
            written[position] = delta * weight(block.down)[:, neuron]
        stream = middle + _normed(block, record, "mlp_out_norm", written)
    normed = _linear_norm(adapter.final_norm, stream, trace.final_factor[0])[-1]
    logits = weight(adapter.unembedding) @ normed
    if adapter.logit_cap is not None:
        before = adapter.unembedding(trace.final_stream[0, -1])
        logits = logits * torch.tanh(before / adapter.logit_cap) * adapter.logit_cap / before
    return changes, logits.detach()


def _normed(block: Block, record: BlockTrace, role: str, x: Tensor) -> Tensor:
    norm = getattr(block, role)
    return x if norm is None else _linear_norm(norm, x, record.factors[role][0])


def _linear_norm(norm: nn.Module, x: Tensor, factor: Tensor) -> Tensor:
    if isinstance(norm, nn.LayerNorm):
        return (x - x.mean(-1, keepdim=True)) * factor * norm.weight
    return x * factor * (norm.weight + ("Gemma" in type(norm).__name__))


def _attend(block: Block, pattern: Tensor, x: Tensor) -> Tensor:
    """P V O without biases; the value rows of fused projections by hand."""
    attention, count, heads = block.attention, len(x), pattern.shape[0]
    if hasattr(attention, "v_proj"):
        value, output = x @ attention.v_proj.weight.T, attention.o_proj.weight
    elif hasattr(attention, "c_attn"):
        value, output = (x @ attention.c_attn.weight)[:, -x.shape[1] :], attention.c_proj.weight.T
    else:
        value = (x @ attention.query_key_value.weight.T).view(count, heads, 3, -1)[:, :, 2].reshape(count, -1)
        output = attention.dense.weight
    value = value.view(count, -1, output.shape[1] // heads)
    value = value.repeat_interleave(heads // value.shape[1], dim=1)
    mixed = torch.einsum("hqk,khe->qhe", pattern, value).reshape(count, -1)
    return mixed @ output.T


def _replaced_neurons(block: Block, record: BlockTrace, x: Tensor) -> Tensor:
    """Half rule and frozen ratio, linear in the change x."""
    up = x @ weight(block.up).T
    if block.gate is None:
        return up * block.act(record.up[0]) / record.up[0]
    ratio = block.act(record.gate[0]) / record.gate[0]
    return 0.5 * ratio * (record.up[0] * (x @ weight(block.gate).T) + record.gate[0] * up)


def test_edges_go_to_later_layers_and_positions(adapter: Adapter) -> None:
    graph = attribute(adapter, tokens(9), options=ALL)
    nodes, edges = graph.nodes, graph.edges
    assert (nodes.layer[edges.source] < nodes.layer[edges.target]).all()
    assert (nodes.position[edges.source] <= nodes.position[edges.target]).all()
    assert (edges.weight != 0).all()
    assert len(set(zip(edges.source.tolist(), edges.target.tolist(), strict=True))) == len(edges.source)


def test_selection_keeps_the_strongest_and_records_the_rest(adapter: Adapter) -> None:
    every = attribute(adapter, tokens(9), options=ALL)
    strength = np.sort(np.abs(every.nodes.relevance))[::-1]
    graph = attribute(adapter, tokens(9), options=RelpOptions(tau=0.0, max_nodes=20))
    assert np.allclose(np.sort(np.abs(graph.nodes.relevance))[::-1], strength[:20])
    assert graph.nodes_dropped == len(strength) - 20
    assert graph.relevance_dropped == pytest.approx(strength[20:].sum())
    tau = RelpOptions(tau=0.05, max_nodes=None)
    assert (
        len(attribute(adapter, tokens(9), options=tau).nodes.layer)
        == (strength >= 0.05 * abs(every.metric_value)).sum()
    )


def test_batches_of_targets_change_nothing(
    adapter: Adapter, options: RelpOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = attribute(adapter, tokens(9), options=options)
    monkeypatch.setattr("atlas.models.attribution._CELLS", 1)
    parts = attribute(adapter, tokens(9), options=options)
    assert np.allclose(dense(parts), dense(whole), rtol=0, atol=1e-12 * np.abs(whole.edges.weight).max())
    assert np.allclose(parts.embedding.weight, whole.embedding.weight, rtol=1e-9, atol=1e-12)
    assert parts.explained == pytest.approx(whole.explained, rel=1e-9)


def test_prompts_worked_on_together_give_the_same_graphs(adapter: Adapter, options: RelpOptions) -> None:
    prompts = [tokens(count, seed=count) for count in (11, 4, 9)]
    with replacement(adapter) as model:
        together = Engine(adapter, model, options).graphs(prompts)
    for ids, found in zip(prompts, together, strict=True):
        alone = attribute(adapter, ids, options=options)
        assert found.token_ids == ids and found.targets == alone.targets
        assert np.array_equal(found.nodes.neuron, alone.nodes.neuron)
        assert np.allclose(dense(found), dense(alone), rtol=0, atol=1e-12 * np.abs(alone.edges.weight).max())
        assert found.completeness_residual < 1e-12


def test_a_bad_token_spoils_no_prompt_without_it() -> None:
    adapter = tiny_llama()
    adapter.embedding.weight[0] = float("nan")
    with replacement(adapter) as model:
        found = Engine(adapter, model, ALL).graphs([[3, 4, 6, 7], [3, 6], [7, 0]])
    assert [isinstance(one, NotFiniteError) for one in found] == [False, False, True]


def aimed(targets: Targets) -> Graph:
    return attribute(tiny_llama(), tokens(4), options=replace(ALL, targets=targets))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda: RelpOptions(tau=float("nan")), "tau is nan"),
        (lambda: RelpOptions(tau=-1.0), "tau is -1"),
        (lambda: RelpOptions(max_nodes=0), "max_nodes is 0"),
        (lambda: RelpOptions(max_nodes_per_layer=-2), "max_nodes_per_layer is -2"),
        (lambda: RelpOptions(top_k=0), "top_k is 0"),
        (lambda: Targets(()), "name at least one positive"),
        (lambda: Targets((3,), (3,)), "none twice or on both sides"),
        (lambda: attribute(tiny_llama(), tokens(4), options=replace(ALL, targets=Targets((99,)))), "0..22, got"),
        (
            lambda: attribute(tiny_llama(), tokens(4), options=replace(ALL, targets=Targets((3,), position=4))),
            "outside",
        ),
    ],
)
def test_wrong_options_are_refused(wrong: Callable[[], object], says: str) -> None:
    with pytest.raises(InputError, match=says):
        wrong()


def test_cap_of_a_layer_keeps_its_strongest(adapter: Adapter) -> None:
    every = attribute(adapter, tokens(9), options=ALL).nodes
    graph = attribute(adapter, tokens(9), options=replace(ALL, max_nodes_per_layer=6, max_nodes=15))
    strength = [np.sort(np.abs(every.relevance[every.layer == layer]))[::-1][:6] for layer in range(3)]
    kept = np.sort(np.concatenate(strength))[::-1][:15]
    assert np.allclose(np.sort(np.abs(graph.nodes.relevance))[::-1], kept)
    assert graph.nodes_dropped == len(every.layer) - 15
    assert graph.relevance_dropped == pytest.approx(np.abs(every.relevance).sum() - kept.sum())


@pytest.mark.parametrize("family", ["llama", "gemma2", "neox"])
def test_half_precision_sums_in_single_precision(family: str) -> None:
    half = FAMILIES[family](torch.bfloat16)
    graph = attribute(half, tokens(9), options=ALL)
    assert graph.completeness_residual < 0.05  # activations have 8 bits, the sweeps 24
    assert np.isfinite(graph.edges.weight).all()
    outgoing = np.bincount(graph.edges.source, graph.edges.weight, len(graph.nodes.layer)) + graph.nodes.direct
    assert np.allclose(outgoing, graph.nodes.relevance, rtol=0, atol=1e-4 * np.abs(graph.nodes.relevance).max())
    assert all(part.dtype == torch.float32 for part in (linear_maps(half).block(0).down.weight,))


def test_named_targets_and_difference(adapter: Adapter) -> None:
    ids = tokens(9)
    with replacement(adapter) as model, torch.no_grad():
        logits = model.run([ids]).logits[0]
    named = attribute(adapter, ids, options=replace(ALL, targets=Targets((3, 5), position=4)))
    assert named.metric_value == pytest.approx(float(logits[4, 3] + logits[4, 5]), rel=1e-12)
    assert (named.metric, named.target_position, named.nodes.position[named.nodes.relevance != 0].max()) == (
        "logits", 4, 4,
    )  # fmt: skip
    difference = attribute(adapter, ids, options=replace(ALL, targets=Targets((3,), (5,))))
    assert difference.metric_value == pytest.approx(float(logits[-1, 3] - logits[-1, 5]), rel=1e-12)
    assert difference.completeness_residual < 1e-11
    margin = attribute(adapter, ids, options=RelpOptions(metric="margin"))
    best = logits[-1].topk(2).values
    assert margin.metric_value == pytest.approx(float(best[0] - best[1]), rel=1e-12)
    with pytest.raises(InputError, match="unknown metric"):
        attribute(adapter, ids, options=RelpOptions(metric="loss"))


def test_refused_prompts(adapter: Adapter) -> None:
    for ids, reason in (([], "empty"), (tokens(33), "reads 32"), ([99], "token ids")):
        with pytest.raises(InputError, match=reason):
            attribute(adapter, ids)
    with pytest.raises(InputError, match="max_tokens"):
        attribute(adapter, tokens(9), options=RelpOptions(max_tokens=8))


def test_layer_of_a_bad_weight_is_named() -> None:
    adapter = tiny_llama()
    adapter.blocks[1].up.weight[0, 0] = float("nan")
    with pytest.raises(NotFiniteError, match="layer 1"):
        attribute(adapter, tokens(9))


def test_overflow_is_refused_though_norms_hide_it() -> None:
    adapter = tiny_llama(torch.float32)
    adapter.blocks[1].down.weight[:, 3] = 3e38
    with pytest.raises(NotFiniteError, match="not finite"):
        attribute(adapter, tokens(9))


def test_zero_activation_has_the_limit_as_ratio() -> None:
    adapter = tiny_llama()
    adapter.blocks[1].gate.weight[2] = 0  # gate exactly 0 everywhere: ratio 0.5, never 0/0
    graph = attribute(adapter, tokens(9), options=ALL)
    assert graph.completeness_residual < 1e-12
    assert np.isfinite(graph.edges.weight).all()


def test_trained_models(trained: Adapter) -> None:
    ids = list(range(3, 23)) if trained.bos_token_id is None else [1, *range(410, 429)]
    graph = attribute(trained, ids, options=RelpOptions(max_nodes=60))
    flows, *_ = oracle(trained, ids, graph)
    assert graph.completeness_residual < 1e-11
    assert np.abs(dense(graph) - flows).max() < 1e-10 * np.abs(flows).max()
    if trained.bos_token_id is not None:
        assert graph.nodes.position.min() > 0
        assert (graph.embedding.source == 0).any()
    single = attribute(load_model(shared_model(trained.spec.name)), ids, options=RelpOptions(max_nodes=60))
    assert single.completeness_residual < 1e-5


def test_begin_of_text_is_no_node_but_its_embedding_counts() -> None:
    ids = tokens(9)
    adapter = replace(tiny_llama(), bos_token_id=ids[0])
    kept = attribute(adapter, ids, options=ALL)
    left = attribute(adapter, ids, options=replace(ALL, skip_bos=True))
    assert (kept.nodes.position == 0).any() and not (left.nodes.position == 0).any()
    assert len(kept.nodes.layer) - len(left.nodes.layer) == adapter.spec.neurons
    assert (left.embedding.source == 0).any()
    moved = attribute(adapter, [(ids[0] + 1) % 23, *ids[1:]], options=replace(ALL, skip_bos=True))
    assert (moved.nodes.position == 0).any()  # position 0 is an ordinary token
