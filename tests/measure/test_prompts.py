"""Prompt activations: the value is the input of the down projection, by brute force."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import tiny_gpt2, tiny_llama, tokens

from atlas.errors import InputError, ModelError
from atlas.measure.prompts import measure_prompt, measure_tokens
from atlas.models.adapter import Adapter, load_model

DEMO = Path(__file__).parents[2] / "data" / "demo" / "model"


@pytest.fixture(scope="module")
def demo() -> Adapter:
    return load_model(DEMO, device="cpu")


def by_hand(adapter: Adapter, ids: list[int]) -> list[torch.Tensor]:
    """act(gate x) * up x, or act(fc x), from what enters each MLP."""
    inputs: list[torch.Tensor] = []
    handles = [b.mlp.register_forward_pre_hook(lambda _, x: inputs.append(x[0][0])) for b in adapter.blocks]
    with torch.no_grad():
        adapter.model(input_ids=torch.tensor([ids]))
    for handle in handles:
        handle.remove()
    found = []
    for block, x in zip(adapter.blocks, inputs, strict=True):
        inner = block.act(block.up(x)) if block.gate is None else block.act(block.gate(x)) * block.up(x)
        found.append(inner.detach())
    return found


@pytest.mark.parametrize("make", [tiny_llama, tiny_gpt2])
def test_values_are_the_inputs_of_the_down_projection(make: type) -> None:
    adapter, ids = make(), tokens(9)
    values = measure_tokens(adapter, ids)
    assert values.shape == (3, 14, 9)
    assert values.dtype == np.float64
    for layer, expected in enumerate(by_hand(adapter, ids)):
        np.testing.assert_allclose(values[layer], expected.numpy().T, rtol=1e-10, atol=1e-12)


def test_half_precision_gives_float32_and_hooks_are_removed() -> None:
    adapter = tiny_llama(torch.bfloat16)
    assert measure_tokens(adapter, tokens(4)).dtype == np.float32
    assert all(not block.down._forward_pre_hooks for block in adapter.blocks)


def test_values_that_are_not_finite_are_refused() -> None:
    adapter = tiny_llama()
    adapter.blocks[1].up.weight.data[5] = float("nan")
    with pytest.raises(ModelError, match=r"L1/N5 at token 0"):
        measure_tokens(adapter, tokens(3))


def test_a_prompt_is_read_as_the_corpus_is(demo: Adapter) -> None:
    found = measure_prompt(demo, "the dog sleeps")
    ids = demo.tokenizer("the dog sleeps", add_special_tokens=False)["input_ids"]
    start = [] if demo.bos_token_id is None else [demo.bos_token_id]
    assert found.values.shape == (demo.spec.layers, demo.spec.d_mlp, len(start) + len(ids)) == (
        *found.values.shape[:2], len(found.tokens),
    )  # fmt: skip
    assert [text.strip() for text in found.tokens[len(start) :]] == ["the", "dog", "sleeps"]
    np.testing.assert_array_equal(found.values, measure_tokens(demo, [*start, *ids]))


def test_empty_and_long_prompts_are_refused(demo: Adapter) -> None:
    with pytest.raises(InputError, match="no tokens"):
        measure_prompt(demo, "")
    with pytest.raises(InputError, match=f"reads {demo.spec.context}"):
        measure_prompt(demo, "dog " * (demo.spec.context + 1))
