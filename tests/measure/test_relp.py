"""The identities of RelP attribution graphs in float64, against one autograd backward per target."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from tiny_models import relative_error, shared_model, tiny_gpt2, tiny_llama, tokens
from torch import Tensor

from atlas.errors import InputError
from atlas.measure.relp import Graph, NotFiniteError, RelpOptions, Targets, attribute
from atlas.models.adapter import Adapter, load_model
from atlas.models.norm import norm_of
from atlas.models.replacement import Rules, replacement

ALL = RelpOptions(tau=0.0, max_nodes=None, skip_bos=False)
MAKERS = {"llama": tiny_llama, "gpt2": tiny_gpt2}


@pytest.fixture(params=MAKERS)
def adapter(request: pytest.FixtureRequest) -> Adapter:
    return MAKERS[request.param]()


@pytest.fixture(params=["stories260K-hf", "slm4096-hf"])
def trained(request: pytest.FixtureRequest) -> Adapter:
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
            trace = model.run(ids, rules)
            value = trace.logits[-1, metric].sum()
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
        live = model.run(ids)
        hidden = [record.hidden for record in live.blocks]
        total = torch.autograd.grad(live.logits[-1, graph.targets].sum(), hidden)
        gradient = torch.stack(total)[nodes.layer, nodes.position, nodes.neuron]
        cut = model.run(ids, Rules(leaves=True))
        leaves = [record.hidden for record in cut.blocks]
        flows, embedding = [], []
        for k in range(len(nodes.layer)):
            target = cut.blocks[nodes.layer[k]].uncut[nodes.position[k], nodes.neuron[k]]
            found = torch.autograd.grad(
                target, [cut.embedding, *leaves], retain_graph=True, allow_unused=True, materialize_grads=True
            )
            effect = torch.stack(found[1:]) * torch.stack(leaves) * gradient[k]
            flows.append(effect[nodes.layer, nodes.position, nodes.neuron])
            embedding.append((found[0] * cut.embedding)[0].sum(-1) * gradient[k])
        direct = torch.autograd.grad(cut.logits[-1, graph.targets].sum(), leaves)
        share = (torch.stack(direct) * torch.stack(leaves))[nodes.layer, nodes.position, nodes.neuron]
    parts = (torch.stack(flows, 1), torch.stack(embedding, 1), share, gradient)
    return tuple(part.detach().numpy() for part in parts)  # type: ignore[return-value]


def dense(graph: Graph) -> np.ndarray:
    found = np.zeros((len(graph.nodes.layer),) * 2)
    found[graph.edges.source, graph.edges.target] = graph.edges.weight
    return found


def test_forward_value_is_unchanged(adapter: Adapter, monkeypatch: pytest.MonkeyPatch) -> None:  # I0
    ids = tokens(9)
    for block in adapter.blocks:  # transformers computes RMSNorm in float32 whatever the dtype: compare like with like
        for module in (block.attention_norm, block.mlp_norm):
            monkeypatch.setattr(module, "forward", norm_of(module), raising=False)
    monkeypatch.setattr(adapter.final_norm, "forward", norm_of(adapter.final_norm), raising=False)
    before = adapter.model(torch.tensor([ids])).logits[0]
    monkeypatch.undo()
    with replacement(adapter) as model:
        assert relative_error(model.run(ids).logits, before) < 1e-12
    after = adapter.model(torch.tensor([ids])).logits[0]
    assert relative_error(after, before) < 1e-5  # and the model is itself again
    assert adapter.model.config._attn_implementation != "atlas_recorded_pattern"


def test_completeness(adapter: Adapter) -> None:  # I1, I6
    graph = attribute(adapter, tokens(9), options=ALL)
    assert graph.completeness_residual < 1e-12
    found = backward(adapter, tokens(9), Rules(), graph.targets)
    assert found.metric == pytest.approx(graph.metric_value, rel=1e-12)
    whole = found.embedding + found.positions + found.biases
    assert whole == pytest.approx(found.metric, rel=1e-12)


def test_direct_completeness(adapter: Adapter) -> None:  # I3, I6
    graph = attribute(adapter, tokens(9), options=ALL)
    found = backward(adapter, tokens(9), Rules(leaves=True), graph.targets)
    assert found.embedding + found.positions + found.biases + found.neurons == pytest.approx(found.metric, rel=1e-12)
    assert found.neurons == pytest.approx(graph.nodes.direct.sum(), rel=1e-10)


def test_gpt2_without_biases_and_positions_is_incomplete() -> None:  # I6
    found = backward(tiny_gpt2(), tokens(9), Rules(), [0, 1, 2])
    assert abs(found.embedding / found.metric - 1) > 0.1
    assert abs((found.embedding + found.positions) / found.metric - 1) > 0.1
    assert abs((found.embedding + found.biases) / found.metric - 1) > 0.1


@pytest.mark.parametrize("rules", [Rules(half=False), Rules(freeze_norms=False), Rules(freeze_attention=False)])
def test_every_rule_is_needed(rules: Rules) -> None:  # I7
    found = backward(tiny_llama(), tokens(9), rules, [0, 1, 2, 3, 4])
    assert abs(found.embedding / found.metric - 1) > 0.1


def test_engine_equals_one_backward_per_target(adapter: Adapter) -> None:
    graph = attribute(adapter, tokens(9), options=ALL)
    flows, embedding, direct, gradient = oracle(adapter, tokens(9), graph)
    scale = np.abs(flows).max()
    assert len(graph.nodes.layer) == 3 * 9 * 14
    assert np.abs(dense(graph) - flows).max() < 1e-10 * scale
    tokens_in = np.zeros_like(embedding)
    tokens_in[graph.embedding.source, graph.embedding.target] = graph.embedding.weight
    assert np.abs(tokens_in - embedding).max() < 1e-10 * np.abs(embedding).max()
    assert np.allclose(graph.nodes.direct, direct, rtol=0, atol=1e-10 * np.abs(direct).max())
    assert np.allclose(graph.nodes.gradient, gradient, rtol=0, atol=1e-10 * np.abs(gradient).max())


def test_flows_into_a_neuron_sum_to_its_relevance() -> None:  # I4
    graph = attribute(tiny_llama(), tokens(9), options=ALL)
    incoming = np.bincount(graph.edges.target, graph.edges.weight, len(graph.nodes.layer))
    incoming += np.bincount(graph.embedding.target, graph.embedding.weight, len(graph.nodes.layer))
    assert np.allclose(incoming, graph.nodes.relevance, rtol=0, atol=1e-12 * np.abs(graph.nodes.relevance).max())
    counts = graph.nodes.relevance != 0  # last-layer neurons away from the target position have none
    assert np.allclose(graph.nodes.explained[counts], 1, atol=1e-9)
    assert np.isnan(graph.nodes.explained[~counts]).all()
    assert graph.explained == pytest.approx(1, abs=1e-12)
    assert graph.remainder == pytest.approx(0, abs=1e-9)


def test_flow_is_conserved(adapter: Adapter) -> None:  # I5
    nodes = (graph := attribute(adapter, tokens(9), options=ALL)).nodes
    outgoing = np.bincount(graph.edges.source, graph.edges.weight, len(nodes.layer)) + nodes.direct
    assert np.allclose(outgoing, nodes.relevance, rtol=0, atol=1e-12 * np.abs(nodes.relevance).max())
    by_token = np.bincount(graph.logit.source, graph.logit.weight, len(nodes.layer))
    assert np.allclose(by_token, nodes.direct, rtol=0, atol=1e-12 * np.abs(nodes.direct).max())


def test_intervention_moves_later_neurons_by_delta_times_j() -> None:  # I8: no autograd anywhere
    adapter, ids = tiny_llama(), tokens(9)
    graph = attribute(adapter, ids, options=ALL)
    nodes = graph.nodes
    source = int(np.flatnonzero((nodes.layer == 0) & (nodes.position == 3))[5])
    delta = 1e-2
    change, fixed = _intervene(adapter, ids, (0, 3, int(nodes.neuron[source])), delta)
    for target in np.flatnonzero(nodes.layer > 0):
        place = nodes.layer[target], nodes.position[target], nodes.neuron[target]
        flow = nodes.activation[source] * float(change[place]) / delta * nodes.gradient[target]
        assert flow == pytest.approx(dense(graph)[source, target], rel=1e-8, abs=1e-12)
    assert float(change.abs().max()) > 1e-4
    assert fixed


def _intervene(adapter: Adapter, ids: list[int], source: tuple[int, int, int], delta: float) -> tuple[Tensor, bool]:
    """Push one neuron in a hand-written frozen forward pass; change of every neuron's replacement value."""
    with replacement(adapter) as model, torch.no_grad():
        trace = model.run(ids)
    layer, position, neuron = source
    spec = adapter.spec
    stream = torch.zeros(len(ids), spec.d_model, dtype=adapter.dtype)  # the change of the residual stream
    changes = torch.zeros(spec.layers, len(ids), spec.d_mlp, dtype=adapter.dtype)
    for index, (block, record) in enumerate(zip(adapter.blocks, trace.blocks, strict=True)):
        normed = stream * block.attention_norm.weight * record.attention_factor
        value = (normed @ block.attention.v_proj.weight.T).view(len(ids), 2, 4).repeat_interleave(2, dim=1)
        mixed = torch.einsum("hqk,khe->qhe", record.pattern, value).reshape(len(ids), -1)
        stream = stream + mixed @ block.attention.o_proj.weight.T
        normed = stream * block.mlp_norm.weight * record.mlp_factor
        gate, up = normed @ block.gate.weight.T, normed @ block.up.weight.T
        ratio = torch.sigmoid(record.gate)
        changes[index] = 0.5 * ratio * (record.up * gate + record.gate * up)  # half rule, linear in the change
        if index == layer:
            stream[position] += delta * block.down.weight[:, neuron]
    return changes, bool((changes[: layer + 1] == 0).all())


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


def test_batches_of_targets_change_nothing(adapter: Adapter, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = attribute(adapter, tokens(9), options=ALL)
    monkeypatch.setattr("atlas.models.attribution._CELLS", 1)
    parts = attribute(adapter, tokens(9), options=ALL)
    assert np.allclose(dense(parts), dense(whole), rtol=0, atol=1e-12 * np.abs(whole.edges.weight).max())
    assert np.allclose(parts.embedding.weight, whole.embedding.weight, rtol=1e-9, atol=1e-12)
    assert parts.explained == pytest.approx(whole.explained, rel=1e-9)


def test_named_targets_and_difference(adapter: Adapter) -> None:
    ids = tokens(9)
    with replacement(adapter) as model, torch.no_grad():
        logits = model.run(ids).logits
    named = attribute(adapter, ids, options=ALL, targets=Targets((3, 5), position=4))
    assert named.metric_value == pytest.approx(float(logits[4, 3] + logits[4, 5]), rel=1e-12)
    assert (named.metric, named.target_position, named.nodes.position[named.nodes.relevance != 0].max()) == (
        "logits", 4, 4,
    )  # fmt: skip
    difference = attribute(adapter, ids, options=ALL, targets=Targets((3,), (5,)))
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
