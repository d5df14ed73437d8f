"""A Hugging Face causal language model -> its parts by role: blocks, norms, gate, up, down, unembedding.

Roles are read from the modules (what a block holds), not from a list of model names, and then proved by one forward
pass (selfcheck.py). Supported shape: pre-norm blocks, residual stream, gated MLP (Llama) or ungated MLP (GPT-2).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from atlas.errors import InputError, ModelError
from atlas.models.folder import check_folder, find_folder, read_config, revision
from atlas.models.tokens import token_texts
from atlas.neuron import ModelSpec

__all__ = ["Adapter", "Block", "adapt", "bias", "load_model", "token_texts", "weight"]

# The names under which one role appears; a model is accepted when every role of its kind of block is there.
_ATTENTION = ("self_attn", "attn")
_ATTENTION_NORM = ("input_layernorm", "ln_1")
_MLP_NORM = ("post_attention_layernorm", "ln_2")
_GATED = {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"}
_UNGATED = {"up": "c_fc", "down": "c_proj"}
_ACT = ("act_fn", "act")
_FINAL_NORM = ("norm", "ln_f")
_DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Block:
    """The roles of one transformer block; `gate` is None for an ungated MLP; neurons are the inputs of `down`."""

    index: int
    attention: nn.Module
    attention_norm: nn.Module
    mlp_norm: nn.Module
    mlp: nn.Module
    gate: nn.Module | None
    up: nn.Module
    down: nn.Module
    act: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Adapter:
    """A model in evaluation mode with its parts by role; logits = unembedding(final_norm(residual stream))."""

    model: nn.Module
    tokenizer: Any
    spec: ModelSpec
    blocks: tuple[Block, ...]
    embedding: nn.Module
    position_embedding: nn.Module | None
    final_norm: nn.Module
    unembedding: nn.Module
    device: torch.device
    dtype: torch.dtype
    bos_token_id: int | None


def load_model(source: str | Path, *, dtype: str = "float32", device: str = "auto", attention: str = "sdpa") -> Adapter:
    """Turn a local folder or hub name into an Adapter; `device="auto"` takes CUDA when there is one.

    Raises InputError for what the person gave (missing folder, file, dtype) and ModelError for damaged weights and
    unsupported architectures. Not-a-number weights load: they are found where activations are measured.
    """
    if dtype not in _DTYPES:
        raise InputError(f"unknown dtype {dtype!r}; choose one of {', '.join(_DTYPES)}")
    folder = find_folder(source)
    check_folder(folder)
    where = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    with _quiet():
        model = _read_model(folder, _DTYPES[dtype], attention)
        tokenizer = _read_tokenizer(folder)
        model = model.to(torch.device(where))
    return adapt(model, tokenizer, name=folder.resolve().name, revision=revision(folder))


def adapt(model: nn.Module, tokenizer: Any, *, name: str, revision: str) -> Adapter:
    """Turn a model in memory into an Adapter, after the self check; `tokenizer` may be None.

    Raises ModelError that names the part that was not found or that computes something else than its role.
    """
    from atlas.models.selfcheck import check

    model.eval().requires_grad_(False)
    body = _body(model)
    blocks = tuple(_block(i, module) for i, module in enumerate(_block_list(body, model)))
    embedding = model.get_input_embeddings()  # type: ignore[operator]
    unembedding = model.get_output_embeddings()  # type: ignore[operator]
    if unembedding is None:
        raise ModelError(f"{_name(model)} has no output embedding; give a causal language model")
    adapter = Adapter(
        model=model,
        tokenizer=tokenizer,
        spec=_spec(model, blocks, unembedding, (name, revision)),
        blocks=blocks,
        embedding=embedding,
        position_embedding=getattr(body, "wpe", None),
        final_norm=_role(body, _FINAL_NORM, "final norm"),
        unembedding=unembedding,
        device=embedding.weight.device,
        dtype=embedding.weight.dtype,
        bos_token_id=None if tokenizer is None else tokenizer.bos_token_id,
    )
    check(adapter)
    return adapter


def weight(module: nn.Module) -> Tensor:
    """Weight of a linear module as a view [out, in]; Conv1D (GPT-2) stores [in, out]."""
    stored = module.weight
    if not isinstance(stored, Tensor):
        raise ModelError(f"{_name(module)} has no weight tensor; atlas reads Linear and Conv1D modules")
    return stored if isinstance(module, nn.Linear | nn.Embedding) else stored.T


def bias(module: nn.Module) -> Tensor | None:
    """Bias of a module, or None."""
    found = getattr(module, "bias", None)
    return found if isinstance(found, Tensor) else None


def _body(model: nn.Module) -> nn.Module:
    body = getattr(model, str(getattr(model, "base_model_prefix", "")), None)
    if not isinstance(body, nn.Module):
        raise ModelError(f"{_name(model)} has no transformer body; give a causal language model")
    return body


def _block_list(body: nn.Module, model: nn.Module) -> nn.ModuleList:
    lists = [child for child in body.children() if isinstance(child, nn.ModuleList) and len(child)]
    if len(lists) != 1:
        raise ModelError(
            f"{_name(model)} is not supported: expected one list of blocks, found {len(lists)}; "
            "use a Llama- or GPT-2-shaped model"
        )
    return lists[0]


def _block(index: int, module: nn.Module) -> Block:
    mlp = _role(module, ("mlp",), "MLP")
    names = _GATED if hasattr(mlp, "gate_proj") else _UNGATED
    parts = {role: _role(mlp, (name,), f"MLP {role} projection") for role, name in names.items()}
    norms = sum("norm" in name or name.startswith("ln") for name, _ in module.named_children())
    if norms > 2 and not hasattr(module, "ln_cross_attn"):
        raise ModelError(f"{_name(module)} is not supported: {norms} norms in a block, expected 2 (before its halves)")
    return Block(
        index=index,
        attention=_role(module, _ATTENTION, "self attention"),
        attention_norm=_role(module, _ATTENTION_NORM, "norm before attention"),
        mlp_norm=_role(module, _MLP_NORM, "norm before the MLP"),
        mlp=mlp,
        gate=parts.get("gate"),
        up=parts["up"],
        down=parts["down"],
        act=_role(mlp, _ACT, "activation function"),
    )


def _role(parent: nn.Module, names: tuple[str, ...], role: str) -> nn.Module:
    for name in names:
        found = getattr(parent, name, None)
        if isinstance(found, nn.Module):
            return found
    raise ModelError(
        f"{_name(parent)} is not supported: no {role} ({' or '.join(names)}); use a Llama- or GPT-2-shaped model"
    )


def _spec(model: nn.Module, blocks: tuple[Block, ...], unembedding: nn.Module, origin: tuple[str, str]) -> ModelSpec:
    config: Any = model.config
    d_model, d_mlp = weight(blocks[0].down).shape
    return ModelSpec(
        name=origin[0],
        revision=origin[1],
        architecture=(config.architectures or [_name(model)])[0],
        layers=len(blocks),
        d_mlp=d_mlp,
        d_model=d_model,
        vocab=weight(unembedding).shape[0],
        context=config.max_position_embeddings,
        gated=blocks[0].gate is not None,
        norm_placement="pre",
    )


def _name(module: nn.Module) -> str:
    return type(module).__name__


def _read_model(folder: Path, dtype: torch.dtype, attention: str) -> nn.Module:
    from transformers import AutoModelForCausalLM

    config = read_config(folder)
    named = f"{'/'.join(config.get('architectures') or []) or 'no architecture'} (type {config.get('model_type')!r})"
    try:
        model, facts = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, attn_implementation=attention, local_files_only=True, output_loading_info=True
        )
    except (ValueError, KeyError, TypeError, ImportError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(f"cannot load {folder}: {named}: {reason}; use a Llama- or GPT-2-shaped model") from error
    except (RuntimeError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(f"the weights of {folder} do not fit {named}: {reason}; download the model again") from error
    # transformers fills a missing tensor with random numbers and only warns.
    wrong = sorted({*facts["missing_keys"], *(str(key) for key in facts["mismatched_keys"])})
    if wrong:
        raise ModelError(f"{folder} lacks weights for {', '.join(wrong[:3])} ({len(wrong)} in all); download it again")
    found: nn.Module = model
    return found


def _read_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"no usable tokenizer in {folder} ({reason}); save the model's tokenizer there") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the loader's warnings and progress bars (they bury our own lines); errors pass."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
