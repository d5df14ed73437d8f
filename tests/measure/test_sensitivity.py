"""The estimate of every neuron's KL against its definition by Jacobians, and against weight editing."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tiny_models import tiny_gemma2, tiny_gpt2, tiny_llama

from atlas.errors import InputError, ModelError
from atlas.measure.ablation import HeldOut
from atlas.measure.corpus import Context
from atlas.measure.sensitivity import sensitivity
from atlas.models.adapter import Adapter

TOKENS = [[1, 5, 9, 2, 7], [3, 3, 8], [4, 11, 6, 20, 1, 13]]
DOCUMENTS = [0, 0, 1]


def held() -> HeldOut:
    contexts = tuple(Context(i, d, 0, tuple(ids)) for i, (d, ids) in enumerate(zip(DOCUMENTS, TOKENS, strict=True)))
    return HeldOut(contexts, ("a", "b"), 8)


def by_jacobians(adapter: Adapter, layer: int, means: NDArray[np.float64]) -> NDArray[np.float64]:
    """1/2 sum over positions s and predicted positions t of (a - mu)_s^2 J' F J, by document: [2, d_mlp]."""
    found = np.zeros((2, adapter.spec.d_mlp))
    for document, ids in zip(DOCUMENTS, TOKENS, strict=True):
        tokens, seen = torch.tensor([ids]), list[torch.Tensor]()

        def logits(change: torch.Tensor, tokens=tokens, seen=seen) -> torch.Tensor:
            def add(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
                seen.append(inputs[0].detach())
                return inputs[0] + change

            handle = adapter.blocks[layer].down.register_forward_pre_hook(add)
            try:
                return adapter.model(input_ids=tokens, use_cache=False).logits[0, :-1]
            finally:
                handle.remove()

        zero = torch.zeros(1, len(ids), adapter.spec.d_mlp, dtype=torch.float64)
        jacobian = torch.autograd.functional.jacobian(logits, zero)[:, :, 0]  # [t, V, s, d_mlp]
        p = logits(zero).softmax(-1)
        fisher = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
        curvature = torch.einsum("tvsn,tvw,twsn->sn", jacobian, fisher, jacobian)
        away = seen[0][0] - torch.from_numpy(means)
        found[document] += (0.5 * away.square() * curvature).sum(0).numpy()
    return found


@pytest.mark.parametrize("make", [tiny_gpt2, tiny_gemma2])
def test_probes_average_to_the_second_order_term(make: Callable[..., Adapter]) -> None:
    adapter = make(layers=2, d_mlp=6)
    means = np.linspace(-0.1, 0.1, 6)
    found = sensitivity(adapter, held(), layer=0, means=means, probes=300)
    assert found.kl == pytest.approx(by_jacobians(adapter, 0, means), rel=0.3)
    assert found.tokens.tolist() == [6, 5]


def test_activations_are_of_predicted_positions() -> None:
    adapter, seen = tiny_llama(), []
    handle = adapter.blocks[1].down.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][0, :-1]))
    with torch.no_grad():
        for ids in TOKENS:
            adapter.model(input_ids=torch.tensor([ids]), use_cache=False)
    handle.remove()
    a = torch.cat(seen).numpy()
    found = sensitivity(adapter, held(), layer=1, means=np.zeros(14))
    assert found.magnitude == pytest.approx(np.abs(a).mean(0))
    assert found.variance == pytest.approx(a.var(0))


def test_the_same_text_gives_the_same_numbers_and_leaves_the_model_as_it_was() -> None:
    adapter = tiny_gpt2()
    first, again = (sensitivity(adapter, held(), layer=2, means=np.zeros(14)) for _ in range(2))
    assert np.array_equal(first.kl, again.kl)
    assert not adapter.blocks[2].down._forward_pre_hooks
    assert not adapter.final_norm._forward_hooks


def test_a_layer_that_is_not_there_and_numbers_that_are_not_finite_are_refused() -> None:
    adapter = tiny_llama()
    with pytest.raises(InputError, match=r"layer 3 is out of range: this model has layers 0\.\.2"):
        sensitivity(adapter, held(), layer=3, means=np.zeros(14))
    with torch.no_grad():
        adapter.blocks[1].up.weight[3] = torch.nan
    with pytest.raises(ModelError, match="not finite"):
        sensitivity(adapter, held(), layer=0, means=np.zeros(14))
