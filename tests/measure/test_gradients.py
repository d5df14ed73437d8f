"""Gradient sums against autograd on one document at a time, in float64."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import brute_force
import numpy as np
import pytest
import torch
from tiny_models import FAMILIES

from atlas.errors import ModelError
from atlas.measure.corpus import Corpus
from atlas.measure.gradients import GradientOptions, measure, probe
from atlas.models.adapter import Adapter
from atlas.progress import Quiet
from atlas.shards import Shard


def measured(adapter: Adapter, corpus: Corpus, root: Path, **changes: Any) -> Any:
    workers, of = changes.pop("workers", 1), changes.pop("of", 1)
    made = {"context_length": brute_force.LENGTH, "batch_tokens": 64, "block_documents": 8} | changes
    for index in range(of):
        measure(
            adapter, corpus, root, shard=Shard("f", index, of), options=GradientOptions(**made), progress=Quiet(),
            workers=workers,
        )  # fmt: skip
    return brute_force.read(root)["gradient_stats"]


def merged(table: Any) -> dict[str, np.ndarray]:
    """Blocks added in order: each column [neurons of the model]."""
    blocks = table["block"].to_numpy()
    assert (np.diff(blocks) >= 0).all()
    return {
        name: np.add.reduce([table[name].to_numpy()[blocks == block] for block in np.unique(blocks)])
        for name in table.schema.names[3:]
    }


def expected(adapter: Adapter, corpus: Corpus) -> dict[str, np.ndarray]:
    """Sums [layers, neurons]; the loss is written out, and the gradient is that of an added zero."""
    every = brute_force.look(adapter, corpus)
    sums: dict[str, Any] = dict.fromkeys(("s_a", "s_a2", "s_abs", "s_g2", "s_ag", "s_a2g2", "s_absag", "s_ag2"), 0.0)
    for context_id, ids in every.tokens.items():
        counted = [p for p, token in enumerate(ids) if p > 0 and token != brute_force.BOS]
        a, g = (x[counted] for x in _run(adapter, ids, context_id))
        for name, value in {
            "s_a": a, "s_a2": a**2, "s_abs": abs(a), "s_g2": g**2, "s_ag": a * g, "s_a2g2": (a * g) ** 2,
            "s_absag": abs(a * g), "s_ag2": a * g**2,
        }.items():  # fmt: skip
            sums[name] = sums[name] + value.sum(axis=0)
    return sums


def _run(adapter: Adapter, ids: list[int], seed: int) -> tuple[np.ndarray, np.ndarray]:
    added = [
        torch.zeros(1, len(ids), adapter.spec.d_mlp, dtype=adapter.dtype, requires_grad=True) for _ in adapter.blocks
    ]
    seen: list[torch.Tensor] = []

    def hook(zero: torch.Tensor) -> Any:
        def add(_: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
            seen.append(inputs[0].detach()[0])
            return (inputs[0] + zero,)

        return add

    handles = [b.down.register_forward_pre_hook(hook(z)) for b, z in zip(adapter.blocks, added, strict=True)]
    logits = adapter.model(torch.tensor([ids])).logits[0]
    drawn = torch.randint(0, 2, (len(ids) - 1, logits.shape[-1]), generator=torch.Generator().manual_seed(seed),
                          dtype=torch.int8)  # fmt: skip
    loss = torch.zeros(())
    for position, signs in enumerate(drawn * 2 - 1):
        log_p = logits[position].log_softmax(-1)
        loss = loss + (signs * log_p.exp().sqrt().detach() * log_p).sum()
    for handle in handles:
        handle.remove()
    gradients = torch.autograd.grad(loss, added) if len(ids) > 1 else [torch.zeros_like(z) for z in added]
    return torch.stack(seen, 1).numpy(), torch.stack([g[0] for g in gradients], 1).numpy()


@pytest.mark.parametrize("kind", list(FAMILIES))
def test_sums_equal_autograd_on_single_documents(tmp_path: Path, kind: str) -> None:
    adapter, corpus = brute_force.model(kind), brute_force.corpus(16)
    table = measured(adapter, corpus, tmp_path)
    whole = merged(table)
    assert set(whole["n_tokens"]) == {len(brute_force.look(adapter, corpus).token)}
    assert table["block"].to_pylist() == [0] * 42 + [1] * 42  # 16 documents in blocks of 8
    assert table["layer"].to_pylist() == [layer for layer in range(3) for _ in range(14)] * 2
    assert table["neuron"].to_pylist() == list(range(14)) * 6
    for name, sums in expected(adapter, corpus).items():
        found = whole[name].reshape(3, 14)
        assert np.abs(found - sums).max() <= 1e-10 * np.abs(sums).max(), name
    assert not any(block.down._forward_pre_hooks for block in adapter.blocks)


def test_probes_have_the_fisher_matrix_as_covariance() -> None:
    p = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)
    signs = torch.tensor(list(itertools.product((-1, 1), repeat=4)))
    found = probe(p.expand(16, 4), signs)
    assert found.mean(0).abs().max() < 1e-15
    np.testing.assert_allclose(found.T @ found / 16, torch.diag(p) - torch.outer(p, p), atol=1e-15)


@pytest.mark.parametrize("changes", [{"batch_tokens": 12}, {"batch_tokens": 999}, {"block_documents": 40}])
def test_batches_change_no_answer(tmp_path: Path, changes: dict[str, int]) -> None:
    adapter, corpus = brute_force.model("llama"), brute_force.corpus()
    one = merged(measured(adapter, corpus, tmp_path / "a"))
    many = merged(measured(adapter, corpus, tmp_path / "b", **changes))
    for name, left in one.items():
        np.testing.assert_allclose(many[name], left, rtol=1e-10, atol=1e-12 * np.abs(left).max())


@pytest.mark.parametrize("of", [2, 3, 7, 50])
def test_shards_change_no_byte(tmp_path: Path, of: int) -> None:
    adapter, corpus = brute_force.model("llama", torch.float32), brute_force.corpus()
    one, many = (measured(adapter, corpus, tmp_path / str(n), of=n) for n in (1, of))
    assert many.equals(one)


def test_workers_change_no_byte(tmp_path: Path) -> None:
    adapter, corpus = brute_force.model("llama", torch.float32), brute_force.corpus(80)
    tables = [measured(adapter, corpus, tmp_path / str(w), workers=w) for w in (1, 2)]
    assert tables[0].equals(tables[1])


def test_values_that_are_not_finite_name_the_layer(tmp_path: Path) -> None:
    adapter = brute_force.model("llama", torch.float32)
    adapter.blocks[2].up.weight[3, 2] = float("nan")  # type: ignore[index,operator]
    with pytest.raises(ModelError, match="layer 0 are not finite"):
        measured(adapter, brute_force.corpus(), tmp_path)
    assert not list(tmp_path.glob("shard-*"))
