"""A tiny GPT-2 that reads numbers, an atlas of it, and the damage of ablation by editing its weights."""

from __future__ import annotations

import copy
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from synthetic import random_tables, write_atlas

sys.path.append(str(Path(__file__).parents[1] / "measure"))

from tiny_models import tiny_gpt2

from atlas.models.adapter import Adapter

LAYERS, D_MLP = 2, 40
MEAN = 0.01  # of every neuron: grad_s_a / grad_tokens of the synthetic atlas


class Numbers:
    """A tokenizer of texts that are token ids in decimal."""

    bos_token_id = None

    def __call__(self, texts: list[str], **_: Any) -> dict[str, list[list[int]]]:
        """Tokenise."""
        return {"input_ids": [[int(word) for word in text.split()] for text in texts]}


def number_model() -> Adapter:
    """2 layers of 40 neurons in float64."""
    return replace(tiny_gpt2(layers=LAYERS, d_mlp=D_MLP), tokenizer=Numbers(), bos_token_id=None)


def number_atlas(folder: Path, adapter: Adapter) -> Path:
    """An atlas of it, without calibration documents: texts must be vouched for."""
    file = folder / "numbers.duckdb"
    return write_atlas(
        file, random_tables(3, LAYERS, D_MLP), layers=LAYERS, d_mlp=D_MLP, revision=adapter.spec.revision
    )


def drawn_texts(count: int, length: int, seed: int = 0) -> tuple[str, ...]:
    """Texts of `length` random tokens."""
    dice = np.random.default_rng(seed)
    return tuple(" ".join(map(str, dice.integers(1, 23, length))) for _ in range(count))


def edited_kl(adapter: Adapter, neurons: Sequence[int], texts: Sequence[str]) -> float:
    """KL per predicted token of a copy whose columns are 0, their mean output in the bias; texts of one length."""
    model: Any = copy.deepcopy(adapter.model)
    with torch.no_grad():
        for layer, neuron in (divmod(i, D_MLP) for i in neurons):
            down = model.transformer.h[layer].mlp.c_proj  # Conv1D: rows are inputs
            down.bias += MEAN * down.weight[neuron]
            down.weight[neuron] = 0
        ids = torch.tensor(Numbers()(list(texts))["input_ids"])
        before, after = (m(ids).logits[:, :-1].log_softmax(-1) for m in (adapter.model, model))
    return float((before.exp() * (before - after)).sum(-1).mean())
