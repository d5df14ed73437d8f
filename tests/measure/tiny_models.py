"""Seeded random models of both families, small enough for float64 and brute force; no tokenizer, no files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from atlas.models.adapter import Adapter, adapt

SHARED = Path(os.environ.get("ATLAS_SHARED", Path(__file__).parents[2].parent / "shared"))


def tiny_llama(dtype: torch.dtype = torch.float64, *, layers: int = 3, d_mlp: int = 14, seed: int = 0) -> Adapter:
    """Llama: d 16, 4 heads over 2 key-value heads, SiLU; norm weights away from 1."""
    config = LlamaConfig(
        vocab_size=23, hidden_size=16, intermediate_size=d_mlp, num_hidden_layers=layers, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=32, tie_word_embeddings=False,
    )  # fmt: skip
    return _randomised(LlamaForCausalLM(config), dtype, seed)


def tiny_gpt2(dtype: torch.dtype = torch.float64, *, layers: int = 3, d_mlp: int = 14, seed: int = 0) -> Adapter:
    """GPT-2: d 16, 4 heads, tanh GELU; biases, LayerNorm weights and position embeddings all random."""
    config = GPT2Config(
        vocab_size=23,
        n_embd=16,
        n_inner=d_mlp,
        n_layer=layers,
        n_head=4,
        n_positions=32,
        bos_token_id=0,
        eos_token_id=0,
    )
    return _randomised(GPT2LMHeadModel(config), dtype, seed)


def shared_model(name: str) -> Path:
    folder = SHARED / "data" / "models" / name
    if not folder.is_dir():
        pytest.skip(f"needs {name}; set ATLAS_SHARED to the folder of shared data")
    return folder


def tokens(count: int, *, vocab: int = 23, seed: int = 1) -> list[int]:
    return torch.randint(vocab, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float(((found - expected).abs().max() / expected.abs().max()).detach())


def _randomised(model: nn.Module, dtype: torch.dtype, seed: int) -> Adapter:
    generator = torch.Generator().manual_seed(seed)
    model.to(dtype)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(dtype)
        if "norm" in name or ".ln_" in name:
            parameter.data = 1 + 0.4 * noise if name.endswith("weight") else 0.3 * noise
        elif name.endswith("bias"):
            parameter.data = 0.3 * noise
        else:
            # unit-variance outputs keep gates, patterns and norms well away from their linear range
            parameter.data = noise * (1.0 if "emb" in name or "wte" in name or "wpe" in name else 0.35)
    model.tie_weights()  # type: ignore[operator]
    return adapt(model, None, name="tiny", revision="0" * 16)
