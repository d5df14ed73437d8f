"""An adapter -> proof that its roles compute what the model computes, or a ModelError naming the module.

One forward pass on a few seeded random tokens records the input and output of every part. Then each norm is
recomputed from its weight, each MLP from gate, up, act and down, and the residual stream from the sum of its parts:
a model that scales, clips or reorders anything is refused instead of measured wrongly.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from atlas.errors import ModelError
from atlas.models.norm import norm_of

if TYPE_CHECKING:
    from atlas.models.adapter import Adapter, Block

_TOKENS = 8
# float64 is held to float32's accuracy because transformers computes RMSNorm in float32 whatever the model's dtype.
_TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-4, torch.float16: 3e-2, torch.bfloat16: 1e-1}

_Seen = dict[nn.Module, tuple[Tensor, Tensor]]  # module -> first input and first output, each [1, T, width]


@torch.no_grad()
def check(adapter: Adapter) -> None:
    """Raise ModelError when a part does not compute its role; values that are not numbers are left to measuring."""
    count = min(_TOKENS, adapter.spec.context)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(adapter.spec.vocab, (1, count), generator=generator).to(adapter.device)
    parts = _parts(adapter)
    with _recording(list(parts)) as seen:
        logits = adapter.model(tokens, use_cache=False).logits
    if not torch.isfinite(logits).all():
        return
    tolerance = _TOLERANCE[adapter.dtype]
    for name, found, expected in _claims(adapter, seen, tokens, logits):
        scale = expected.abs().max().clamp_min(1e-30)
        if found.shape != expected.shape or (found - expected).abs().max() > tolerance * scale:
            raise ModelError(
                f"{adapter.spec.architecture} is not supported: {name} does not compute what its role says; "
                "use a Llama- or GPT-2-shaped model"
            )


def _parts(adapter: Adapter) -> Iterator[nn.Module]:
    for block in adapter.blocks:
        yield from (block.attention_norm, block.attention, block.mlp_norm, block.mlp)
    yield adapter.final_norm


def _claims(adapter: Adapter, seen: _Seen, tokens: Tensor, logits: Tensor) -> Iterator[tuple[str, Tensor, Tensor]]:
    stream = adapter.embedding(tokens)
    if adapter.position_embedding is not None:
        stream = stream + adapter.position_embedding(torch.arange(tokens.shape[1], device=tokens.device))
    for block in adapter.blocks:
        name = f"block {block.index}"
        yield f"the input of {name}", stream, seen[block.attention_norm][0]
        yield f"{name} attention norm", norm_of(block.attention_norm)(stream), seen[block.attention_norm][1]
        stream = stream + seen[block.attention][1]
        yield f"the input of {name}'s MLP norm", stream, seen[block.mlp_norm][0]
        yield f"{name} MLP norm", norm_of(block.mlp_norm)(stream), seen[block.mlp_norm][1]
        yield f"{name} MLP", _mlp_output(block, seen[block.mlp][0]), seen[block.mlp][1]
        stream = stream + seen[block.mlp][1]
    yield "the input of the final norm", stream, seen[adapter.final_norm][0]
    normed = norm_of(adapter.final_norm)(stream)
    yield "the final norm", normed, seen[adapter.final_norm][1]
    yield "the unembedding", adapter.unembedding(normed), logits


def _mlp_output(block: Block, x: Tensor) -> Tensor:
    hidden = block.act(block.up(x)) if block.gate is None else block.act(block.gate(x)) * block.up(x)
    output: Tensor = block.down(hidden)
    return output


@contextmanager
def _recording(modules: list[nn.Module]) -> Iterator[_Seen]:
    seen: _Seen = {}

    def record(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        first = args[0] if args else kwargs["hidden_states"]
        seen[module] = (first, output[0] if isinstance(output, tuple) else output)

    handles = [module.register_forward_hook(record, with_kwargs=True) for module in modules]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
