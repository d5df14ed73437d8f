"""A Hugging Face causal language model -> its parts by role: blocks, norms, gate, up, down, unembedding.

Roles are read from the modules (what a block holds), not from a list of model names, and then proved by a forward
pass (selfcheck.py). A block has an attention half and an MLP half, each with a norm before it, after it or both, one
after the other or in parallel; the MLP is gated (Llama) or not (GPT-2).
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
from atlas.models.device import find_device
from atlas.models.folder import check_folder, find_folder, read_config, revision
from atlas.models.linear import bias, weight
from atlas.models.tokens import token_texts
from atlas.neuron import ModelSpec, NormPlacement

__all__ = ["Adapter", "Block", "adapt", "bias", "load_model", "token_texts", "weight"]

FAMILIES = "Llama, Mistral, Qwen2, Qwen3, OLMo-2, OLMo-3, Gemma-2, GPT-2 or GPT-NeoX"

# The names under which one role appears; a model is accepted when every role of its kind of block is there.
_ATTENTION = ("self_attn", "attn", "attention")
_GATED = {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"}
_UNGATED = (
    {"up": "c_fc", "down": "c_proj"},
    {"up": "dense_h_to_4h", "down": "dense_4h_to_h"},
    {"up": "up_proj", "down": "down_proj"},
)
_ACT = ("act_fn", "act")
_FINAL_NORM = ("norm", "ln_f", "final_layer_norm")
_NORMS = ("attention_norm", "attention_out_norm", "mlp_norm", "mlp_out_norm")
# The sets of norms that a block may hold -> their roles, in the order of _NORMS (None: no such norm).
_PLACEMENTS: dict[NormPlacement, tuple[tuple[str | None, ...], ...]] = {
    "pre": (("input_layernorm", None, "post_attention_layernorm", None), ("ln_1", None, "ln_2", None)),
    "post": ((None, "post_attention_layernorm", None, "post_feedforward_layernorm"),),
    "both": (
        ("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm"),
    ),
}
_NEXT = f"use a model of the families {FAMILIES}"
_DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Block:
    """The roles of one transformer block; neurons are the inputs of `down`.

    A norm is None where the block has none there; `gate` is None for an ungated MLP. `parallel`: the MLP reads the
    input of the block, not what attention made of it.
    """

    index: int
    attention: nn.Module
    attention_norm: nn.Module | None
    attention_out_norm: nn.Module | None
    mlp_norm: nn.Module | None
    mlp_out_norm: nn.Module | None
    mlp: nn.Module
    gate: nn.Module | None
    up: nn.Module
    down: nn.Module
    act: Callable[[Tensor], Tensor]
    parallel: bool

    @property
    def norms(self) -> dict[str, nn.Module]:
        """The norms that are there, by role."""
        return {role: getattr(self, role) for role in _NORMS if getattr(self, role) is not None}


@dataclass(frozen=True)
class Adapter:
    """A model in evaluation mode with its parts by role.

    logits = unembedding(final_norm(residual stream)), then c * tanh(logits / c) where `logit_cap` c is set.
    """

    model: nn.Module
    tokenizer: Any
    spec: ModelSpec
    blocks: tuple[Block, ...]
    embedding: nn.Module
    position_embedding: nn.Module | None
    final_norm: nn.Module
    unembedding: nn.Module
    logit_cap: float | None
    device: torch.device
    dtype: torch.dtype
    bos_token_id: int | None


def load_model(
    source: str | Path, *, dtype: str = "float32", device: str = "auto", attention: str | None = None
) -> Adapter:
    """Turn a local folder or hub name into an Adapter; `device="auto"` takes CUDA when there is one.

    `attention` names an implementation of transformers; None takes the best that the family supports.
    Raises InputError for what the person gave (missing folder, file, dtype, device) and ModelError for damaged weights
    and unsupported architectures. Not-a-number weights load: they are found where activations are measured.
    """
    if dtype not in _DTYPES:
        raise InputError(f"unknown dtype {dtype!r}; choose one of {', '.join(_DTYPES)}")
    where, folder = find_device(device), find_folder(source)
    check_folder(folder)
    with _quiet():
        read_blocks(outline(folder))  # refuses what cannot be read before hours go into loading it
        model = _read_model(folder, _DTYPES[dtype], attention)
        tokenizer = _read_tokenizer(folder)
        model = model.to(where)
    return adapt(model, tokenizer, name=folder.resolve().name, revision=revision(folder))


def adapt(model: nn.Module, tokenizer: Any, *, name: str, revision: str) -> Adapter:
    """Turn a model in memory into an Adapter, after the self check; `tokenizer` may be None.

    Raises ModelError that names the part that was not found or that computes something else than its role.
    """
    from atlas.models.selfcheck import check

    _check_positions(model)
    model.eval().requires_grad_(False)
    body, blocks = _body(model), read_blocks(model)
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
        logit_cap=getattr(model.config, "final_logit_softcapping", None),
        device=embedding.weight.device,
        dtype=embedding.weight.dtype,
        bos_token_id=None if tokenizer is None else tokenizer.bos_token_id,
    )
    check(adapter)
    return adapter


def outline(folder: Path) -> nn.Module:
    """The architecture of a folder without weights: every parameter is on the meta device.

    Raises ModelError for an architecture that transformers does not know.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        with torch.device("meta"):
            found: nn.Module = AutoModelForCausalLM.from_config(config)
            return found
    except (ValueError, KeyError, TypeError, ImportError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(f"cannot load {folder}: {_named(folder)}: {reason}; {_NEXT}") from error


def _check_positions(model: nn.Module) -> None:
    """Refuse rotary positions that depend on the longest prompt of a batch: a prompt's values would too."""
    rope: Any = getattr(model.config, "rope_parameters", None) or {}
    kinds = {part.get("rope_type") for part in (rope, *rope.values()) if isinstance(part, dict)}
    if "longrope" in kinds:
        raise ModelError(
            f"{_name(model)} is not supported: longrope positions depend on what else is in a batch; "
            "use a model with another rope_type"
        )


def read_blocks(model: nn.Module) -> tuple[Block, ...]:
    """Read the blocks by role, without the self check; also for a model without weights (meta device)."""
    return tuple(_block(i, module) for i, module in enumerate(_block_list(_body(model), model)))


def _body(model: nn.Module) -> nn.Module:
    body = getattr(model, str(getattr(model, "base_model_prefix", "")), None)
    if not isinstance(body, nn.Module):
        raise ModelError(f"{_name(model)} has no transformer body; give a causal language model")
    return body


def _block_list(body: nn.Module, model: nn.Module) -> nn.ModuleList:
    lists = [child for child in body.children() if isinstance(child, nn.ModuleList) and len(child)]
    if len(lists) != 1:
        raise ModelError(f"{_name(model)} is not supported: expected one list of blocks, found {len(lists)}; {_NEXT}")
    return lists[0]


def _block(index: int, module: nn.Module) -> Block:
    mlp, norms = _role(module, ("mlp",), "MLP"), _block_norms(module)
    names = _GATED if hasattr(mlp, "gate_proj") else next((n for n in _UNGATED if hasattr(mlp, n["up"])), _UNGATED[0])
    parts = {role: _role(mlp, (name,), f"MLP {role} projection") for role, name in names.items()}
    return Block(
        index=index,
        attention=_role(module, _ATTENTION, "self attention"),
        **norms,
        mlp=mlp,
        gate=parts.get("gate"),
        up=parts["up"],
        down=parts["down"],
        act=_role(mlp, _ACT, "activation function"),
        parallel=bool(getattr(module, "use_parallel_residual", False)),
    )


def _block_norms(module: nn.Module) -> dict[str, nn.Module | None]:
    """The norms of a block by role; the names that are there tell where each stands."""
    there = {n for n, _ in module.named_children() if "norm" in n or n.startswith("ln_")}
    for choices in _PLACEMENTS.values():
        for names in choices:
            if there == {name for name in names if name}:
                return {r: None if n is None else module.get_submodule(n) for r, n in zip(_NORMS, names, strict=True)}
    raise ModelError(
        f"{_name(module)} is not supported: its norms are {', '.join(sorted(there)) or 'none'}, which is neither "
        f"before, after nor around attention and MLP; {_NEXT}"
    )


def _role(parent: nn.Module, names: tuple[str, ...], role: str) -> nn.Module:
    for name in names:
        found = getattr(parent, name, None)
        if isinstance(found, nn.Module):
            return found
    raise ModelError(f"{_name(parent)} is not supported: no {role} ({' or '.join(names)}); {_NEXT}")


def _placement(block: Block) -> NormPlacement:
    if block.mlp_norm is None:
        return "post"
    return "pre" if block.mlp_out_norm is None else "both"


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
        norm_placement=_placement(blocks[0]),
    )


def _name(module: nn.Module) -> str:
    return type(module).__name__


def _read_model(folder: Path, dtype: torch.dtype, attention: str | None) -> nn.Module:
    from transformers import AutoModelForCausalLM

    try:
        model, facts = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, attn_implementation=attention, local_files_only=True, output_loading_info=True
        )
    except (RuntimeError, OSError, ValueError, KeyError, TypeError, ImportError) as error:
        reason = str(error).strip().splitlines()[0]
        named = f"the weights of {folder} do not fit {_named(folder)}"
        raise ModelError(f"{named}: {reason}; download the model again") from error
    # transformers fills a missing tensor with random numbers and only warns.
    wrong = sorted({*facts["missing_keys"], *(str(key) for key in facts["mismatched_keys"])})
    if wrong:
        raise ModelError(f"{folder} lacks weights for {', '.join(wrong[:3])} ({len(wrong)} in all); download it again")
    found: nn.Module = model
    return found


def _named(folder: Path) -> str:
    config = read_config(folder)
    return f"{'/'.join(config.get('architectures') or []) or 'no architecture'} (type {config.get('model_type')!r})"


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
