"""Ablation by hooks against copies of the model with edited weights, run by plain transformers, read in numpy."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import FAMILIES, shared_model, tiny_gemma2, tiny_gpt2, tiny_llama

from atlas.errors import InputError, ModelError
from atlas.measure.ablation import Ablation, Ablator, Damages, HeldOut, held_out
from atlas.measure.corpus import Context
from atlas.models.adapter import Adapter, load_model, read_blocks, weight

DEMO = Path(__file__).parents[2] / "data" / "demo"
SETS = [[], [0], [13], [14 + 3], [2 * 14 + 5], [1, 2, 3], [40, 16, 2, 16], [30, 31, 41], list(range(0, 42, 3))]


@dataclass(frozen=True)
class Expected:
    """By position: arrays of all documents one after the other."""

    kl: Any
    nll: Any
    flips: Any
    change: Any
    document: Any


def brute_force(adapter: Adapter, held: HeldOut, ids: list[int], means: Any) -> Expected:
    """Zero the out column of each neuron, add mean * column to the bias (made where there is none), compare."""
    model = copy.deepcopy(adapter.model)
    blocks = read_blocks(model)
    with torch.no_grad():
        for layer, neuron in (divmod(i, adapter.spec.d_mlp) for i in set(ids)):
            down = blocks[layer].down
            if down.bias is None:
                down.bias = torch.nn.Parameter(torch.zeros(adapter.spec.d_model, dtype=adapter.dtype))
            column = weight(down)[:, neuron]
            down.bias += means[layer, neuron] * column
            column.zero_()
        parts = [_document(adapter.model, model, context) for context in held.contexts]
    owner = np.concatenate([[c.document] * (len(c.token_ids) - 1) for c in held.contexts])
    return Expected(*(np.concatenate(column) for column in zip(*parts, strict=True)), owner)


def _document(before: Any, after: Any, context: Context) -> tuple[Any, ...]:
    (old, stream), (new, moved) = (_run(model, context) for model in (before, after))
    targets = np.array(context.token_ids[1:])
    places = np.arange(len(targets))
    p, q = (x - np.log(np.exp(x - x.max(-1, keepdims=True)).sum(-1, keepdims=True)) - x.max(-1, keepdims=True)
            for x in (old, new))  # fmt: skip
    kl = (np.exp(p) * (p - q)).sum(-1)
    change = np.linalg.norm(moved - stream, axis=-1) / np.linalg.norm(stream, axis=-1)
    return kl, p[places, targets] - q[places, targets], p.argmax(-1) != q.argmax(-1), change


def _run(model: Any, context: Context) -> tuple[Any, Any]:
    """Logits and the end of the residual stream at the predicted positions, float64."""
    seen: list[Any] = []
    body = getattr(model, model.base_model_prefix)
    norm = next(m for n, m in body.named_children() if n in ("norm", "ln_f", "final_layer_norm"))
    handle = norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][0, :-1].double().numpy()))
    logits = model(torch.tensor([context.token_ids]), use_cache=False).logits[0, :-1].double().numpy()
    handle.remove()
    return logits, seen[0]


def drawn(adapter: Adapter, lengths: list[list[int]], seed: int = 0) -> HeldOut:
    """Random contexts: by document the lengths of its contexts."""
    dice = np.random.default_rng(seed)
    contexts = tuple(
        Context((document << 20) + i, document, 0, tuple(dice.integers(adapter.spec.vocab, size=length).tolist()))
        for document, some in enumerate(lengths)
        for i, length in enumerate(some)
    )
    return HeldOut(contexts, tuple(f"{i:064}" for i in range(len(lengths))), adapter.spec.context)


def drawn_means(adapter: Adapter, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=(adapter.spec.layers, adapter.spec.d_mlp)) * 0.3


def measured(adapter: Adapter, held: HeldOut, sets: list[list[int]], means: Any, **more: Any) -> Damages:
    with Ablator(adapter, held, Ablation("mean", means), **more) as ablator:
        return ablator.measure(sets)


def compare(found: Damages, row: int, expected: Expected, *, within: float) -> None:
    for name in ("kl", "nll", "flips", "change"):
        by_document = np.bincount(expected.document, getattr(expected, name), len(found.tokens))
        ours = getattr(found, name)[row] / found.tokens
        assert np.abs(ours - by_document / found.tokens).max() <= within, (name, row)
    assert found.max_change[row] == pytest.approx(expected.change.max(), abs=within)
    # one position, not a mean
    assert found.kl_p99[row] == pytest.approx(np.quantile(expected.kl, 0.99), abs=10 * within)


LENGTHS = [[12, 5], [7], [12, 12, 2], [3]]


@pytest.mark.parametrize("kind", list(FAMILIES))
def test_every_family_equals_edited_weights(kind: str) -> None:
    adapter = FAMILIES[kind]()
    held, means = drawn(adapter, LENGTHS), drawn_means(adapter)
    found = measured(adapter, held, SETS, means)
    assert found.tokens.tolist() == [15, 6, 23, 2]
    for row, ids in enumerate(SETS):
        compare(found, row, brute_force(adapter, held, ids, means), within=1e-10)
    assert not found.kl[0].any() and not found.nll[0].any() and not found.change[0].any()


@pytest.mark.parametrize("made", [tiny_llama, tiny_gpt2, tiny_gemma2])
def test_zero_ablation_is_a_mean_of_zero(made: Any) -> None:
    adapter = made()
    held = drawn(adapter, LENGTHS)
    with Ablator(adapter, held, Ablation("zero")) as ablator:
        found = ablator.measure(SETS)
    for row, ids in enumerate(SETS):
        compare(found, row, brute_force(adapter, held, ids, np.zeros((3, 14))), within=1e-10)


def test_a_change_of_everything_is_measured_as_exactly() -> None:
    for made, within in ((lambda: tiny_gpt2(torch.float32), 3e-4), (tiny_gpt2, 1e-8)):
        adapter = made()
        held, means = drawn(adapter, LENGTHS), drawn_means(adapter) * 1000
        found = measured(adapter, held, [[5, 20], [40]], means)
        for row, ids in enumerate([[5, 20], [40]]):
            expected = brute_force(adapter, held, ids, means)
            assert expected.kl.max() > 3
            compare(found, row, expected, within=within)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["demo", "stories260K-hf", "slm4096-hf"])
def test_real_models_equal_edited_weights(name: str, dtype: str) -> None:
    """In float32 the oracle's own logits, 20 wide, are known to 2e-6: a loss of few tokens is no better."""
    adapter = load_model(DEMO / "model" if name == "demo" else shared_model(name), device="cpu", dtype=dtype)
    width, count = adapter.spec.d_mlp, adapter.spec.neurons
    held, means = drawn(adapter, [[40], [25, 9], [17]]), drawn_means(adapter)
    dice = np.random.default_rng(5)
    sets = [[], [7], [count - 1], [width + 3], dice.choice(count, 12, replace=False).tolist()]
    found = measured(adapter, held, sets, means)
    assert not found.kl[0].any()
    for row, ids in enumerate(sets):
        expected = brute_force(adapter, held, ids, means)
        assert found.kl[row].sum() / found.tokens.sum() == pytest.approx(expected.kl.mean(), abs=1e-6)
        compare(found, row, expected, within=1e-5 if dtype == "float32" else 1e-9)


def test_a_tiny_kl_in_float32_is_no_noise() -> None:
    """A neuron moved by 1e-5 of its spread: the float32 model gives what the float64 model gives."""
    found = []
    for dtype in (torch.float32, torch.float64):
        adapter = tiny_llama(dtype)
        held = drawn(adapter, [[20], [20]])
        with torch.no_grad():
            weight(adapter.blocks[1].down)[:, 4] *= 1e-5
        found.append(measured(adapter, held, [[14 + 4]], np.zeros((3, 14))).kl.sum() / 38)
    assert 1e-14 < found[1] < 1e-8
    assert found[0] == pytest.approx(found[1], rel=1e-2)


def test_nothing_depends_on_what_is_kept_or_batched() -> None:
    adapter = tiny_llama()
    held, means = drawn(adapter, [[32] * 20, [30] * 20, [9]]), drawn_means(adapter)  # two pieces of contexts
    kept, passing = (measured(adapter, held, SETS, means, memory=memory) for memory in (1 << 30, 0))
    with Ablator(adapter, held, Ablation("mean", means)) as ablator:
        alone = [ablator.measure([one]) for one in SETS]
    for name in ("kl", "nll", "flips", "change", "max_change", "kl_p99"):
        assert getattr(kept, name) == pytest.approx(getattr(passing, name), rel=1e-9, abs=1e-14)
        one_by_one = np.concatenate([getattr(one, name) for one in alone])
        assert getattr(kept, name) == pytest.approx(one_by_one, rel=1e-9, abs=1e-14)


def test_the_model_is_left_as_it_was() -> None:
    adapter = tiny_gpt2()
    held, ids = drawn(adapter, LENGTHS), torch.tensor([[1, 2, 3, 4]])
    before = adapter.model(ids).logits
    with Ablator(adapter, held, Ablation("zero")) as ablator:
        ablator.measure(SETS)
        assert torch.equal(adapter.model(ids).logits, before)
        with pytest.raises(InputError, match=r"neuron id 42 is out of range: tiny has 3 layers of 14 neurons"):
            ablator.measure([[42]])
    assert not any(block.down._forward_pre_hooks for block in adapter.blocks)


def test_a_half_precision_model_is_measured() -> None:
    adapter = tiny_llama(torch.bfloat16)
    held, means = drawn(adapter, LENGTHS), drawn_means(adapter)
    found, exact = measured(adapter, held, SETS, means), measured(tiny_llama(), held, SETS, means)
    assert not found.kl[0].any()
    assert found.kl[-1].sum() == pytest.approx(exact.kl[-1].sum(), rel=0.2)


def test_refusals() -> None:
    adapter = tiny_llama()
    held, means = drawn(adapter, LENGTHS), drawn_means(adapter)
    with pytest.raises(InputError, match=r"needs means of shape \(3, 14\), found \(2, 14\)"):
        Ablator(adapter, held, Ablation("mean", means[:2]))
    means[1, 4] = np.nan
    with pytest.raises(InputError, match="the mean of L1/N4 is not a number"):
        Ablator(adapter, held, Ablation("mean", means))
    broken = tiny_llama()
    with torch.no_grad():
        weight(broken.blocks[1].up)[3] = torch.nan
    with pytest.raises(ModelError, match="logits are not finite"), Ablator(broken, held, Ablation("zero")) as ablator:
        ablator.measure([[0]])
    with pytest.raises(InputError, match="no tokenizer"):
        held_out(adapter, ["some text"])


def test_documents_become_contexts() -> None:
    adapter = load_model(DEMO / "model", device="cpu")
    texts = [text if isinstance(text, str) else text["text"] for text in json.loads((DEMO / "corpus.json").read_text())]
    held = held_out(adapter, ["", texts[0], texts[1]], context_length=8)
    lengths = [len(adapter.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts[:2]]
    assert held.tokens == sum(lengths)  # BOS predicts the first token
    assert {c.document for c in held.contexts} == {0, 1} and len(held.sha256) == 2
    assert max(len(c.token_ids) for c in held.contexts) == 8
    cut = held_out(adapter, texts, max_tokens=100)
    assert cut.tokens == 100 and cut.contexts[0].token_ids[:8] == held.contexts[0].token_ids
    with pytest.raises(InputError, match="hold no token to predict"):
        held_out(adapter, ["", ""])
