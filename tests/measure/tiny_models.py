"""Seeded random models of all families, small enough for float64 and brute force; no tokenizer, no files."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    Olmo2Config,
    Olmo3Config,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

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


def tiny_mistral(dtype: torch.dtype = torch.float64, **size: int) -> Adapter:
    """Mistral: as Llama, with a sliding window of 6 tokens in every layer."""
    return _tiny(MistralConfig, dtype, size, sliding_window=6, head_dim=4)


def tiny_qwen2(dtype: torch.dtype = torch.float64, **size: int) -> Adapter:
    """Qwen2: as Llama, with biases on query, key and value; a bias on V is a source of relevance."""
    return _tiny(Qwen2Config, dtype, size)


def tiny_qwen3(dtype: torch.dtype = torch.float64, **size: int) -> Adapter:
    """Qwen3: as Llama, with norms on query and key and a head size of its own."""
    return _tiny(Qwen3Config, dtype, size, head_dim=6)


def tiny_olmo2(dtype: torch.dtype = torch.float64, **size: int) -> Adapter:
    """OLMo-2: norms stand behind attention and MLP, none before them."""
    return _tiny(Olmo2Config, dtype, size)


def tiny_olmo3(dtype: torch.dtype = torch.float64, **size: int) -> Adapter:
    """OLMo-3: as OLMo-2, with a sliding window of 6 tokens in some layers."""
    return _tiny(Olmo3Config, dtype, size, sliding_window=6, layer_types=_window_types(size))


def tiny_gemma2(dtype: torch.dtype = torch.float64, **size: int) -> Adapter:
    """Gemma-2: norms before and behind both halves with gain 1 + w, GeGLU, soft-caps, scaled embeddings."""
    special = {"sliding_window": 6, "layer_types": _window_types(size), "query_pre_attn_scalar": 5, "head_dim": 4}
    caps = {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0, "hidden_activation": "gelu_pytorch_tanh"}
    return _tiny(Gemma2Config, dtype, size, **special, **caps)


def tiny_neox(dtype: torch.dtype = torch.float64, **size: int) -> Adapter:
    """GPT-NeoX: attention and MLP in parallel, rotary positions on a quarter of a head, exact GELU, biases."""
    rope = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}
    return _tiny(GPTNeoXConfig, dtype, size, use_parallel_residual=True, rope_parameters=rope)


FAMILIES: dict[str, Callable[..., Adapter]] = {
    "llama": tiny_llama,
    "mistral": tiny_mistral,
    "qwen2": tiny_qwen2,
    "qwen3": tiny_qwen3,
    "olmo2": tiny_olmo2,
    "olmo3": tiny_olmo3,
    "gemma2": tiny_gemma2,
    "gpt2": tiny_gpt2,
    "neox": tiny_neox,
}


def _window_types(size: dict[str, int]) -> list[str]:
    return [("sliding_attention", "full_attention")[i % 2] for i in range(size.get("layers", 3))]


def _tiny(kind: type[PreTrainedConfig], dtype: torch.dtype, size: dict[str, int], **special: Any) -> Adapter:
    common = {"vocab_size": 23, "hidden_size": 16, "intermediate_size": size.get("d_mlp", 14),
              "num_hidden_layers": size.get("layers", 3), "num_attention_heads": 4, "max_position_embeddings": 32,
              "tie_word_embeddings": False, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0}  # fmt: skip
    grouped = {} if kind is GPTNeoXConfig else {"num_key_value_heads": 2}
    model = AutoModelForCausalLM.from_config(kind(**common, **grouped, **special))
    return _randomised(model, dtype, size.get("seed", 0))


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
