"""An adapter -> proof that its roles compute what the model computes, or a ModelError naming the module.

One forward pass on a few seeded random tokens records the input and output of every part and every attention pattern.
Then each norm is recomputed from its gain, each attention from its pattern, value and output maps, each MLP from gate,
up, act and down, and the residual stream from the sum of its parts: a model that scales, clips or reorders anything is
refused instead of measured wrongly.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from atlas.errors import ModelError
from atlas.models.linear import value_and_output
from atlas.models.norm import norm_of
from atlas.models.patterns import mix, own_attention, receiving

if TYPE_CHECKING:
    from atlas.models.adapter import Adapter, Block

_TOKENS = 24
_TRIES = 8
# Root mean square error relative to what is expected. Each claim is one rounding step from recorded values: measured
# over nine families 5e-3 in bfloat16, 7e-4 in float16, 2e-7 in float32 and (RMSNorm is float32 there) in float64.
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.5e-2}
_WHOLE = 10  # times that for the logits of the whole model, where roundings of all layers add up

_Claim = tuple[str, Tensor, Tensor]  # what, as the roles say, as the model did


@dataclass
class _Seen:
    """First input and output [1, T, width] of every part, and the patterns [1, heads, T, T] by attention module."""

    parts: dict[nn.Module, tuple[Tensor, Tensor]]
    patterns: dict[nn.Module, Tensor]


@torch.no_grad()
def check(adapter: Adapter) -> None:
    """Raise ModelError when a part does not compute its role.

    A model none of whose logits are numbers is left to measuring, which names the layer.
    """
    tokens = _tokens(adapter)
    if tokens is None:
        return
    logits = adapter.model(tokens, use_cache=False).logits
    with own_attention(adapter.model), _recording(list(_parts(adapter))) as seen:
        again = adapter.model(tokens, use_cache=False).logits
    for block in adapter.blocks:
        if block.attention not in seen.patterns:
            raise _refused(adapter, f"block {block.index} attention does not use transformers' attention interface")
    whole = "softmax attention with the model's mask and scale"
    _compare(adapter, (whole, again, logits), _WHOLE)
    for claim in _claims(adapter, seen, tokens, again):
        _compare(adapter, claim)
    for block in adapter.blocks:
        if float(block.act(torch.zeros((), dtype=adapter.dtype, device=adapter.device))) != 0:
            raise _refused(adapter, f"the activation of block {block.index} is not 0 at 0, so act(x)/x has a pole")


def _tokens(adapter: Adapter) -> Tensor | None:
    """Seeded random tokens [1, T] with finite logits; None when none of the tries gives them."""
    count = min(_TOKENS, adapter.spec.context)
    for seed in range(_TRIES):
        generator = torch.Generator().manual_seed(seed)
        tokens = torch.randint(adapter.spec.vocab, (1, count), generator=generator).to(adapter.device)
        if torch.isfinite(adapter.model(tokens, use_cache=False).logits).all():
            return tokens
    return None


def _compare(adapter: Adapter, claim: _Claim, times: float = 1) -> None:
    name, found, expected = claim
    same = found.shape == expected.shape
    error = (found - expected).double().norm() / expected.double().norm().clamp_min(1e-30) if same else torch.inf
    if not error <= times * _TOLERANCE[adapter.dtype]:  # also when it is not a number
        raise _refused(adapter, f"{name} does not compute what its role says")


def _refused(adapter: Adapter, reason: str) -> ModelError:
    from atlas.models.adapter import FAMILIES

    return ModelError(f"{adapter.spec.architecture} is not supported: {reason}; use a model of the families {FAMILIES}")


def _parts(adapter: Adapter) -> Iterator[nn.Module]:
    for block in adapter.blocks:
        yield from (block.attention, block.mlp, *block.norms.values())
    yield adapter.final_norm


def _claims(adapter: Adapter, seen: _Seen, tokens: Tensor, logits: Tensor) -> Iterator[_Claim]:
    stream = adapter.embedding(tokens)
    if adapter.position_embedding is not None:
        stream = stream + adapter.position_embedding(torch.arange(tokens.shape[1], device=tokens.device))
    for block in adapter.blocks:
        stream = yield from _block_claims(block, seen, stream)
    yield "the input of the final norm", stream, seen.parts[adapter.final_norm][0]
    normed = norm_of(adapter.final_norm)(seen.parts[adapter.final_norm][0])
    yield "the final norm", normed, seen.parts[adapter.final_norm][1]
    yield "the unembedding", capped(adapter.unembedding(normed), adapter.logit_cap), logits


def capped(logits: Tensor, cap: float | None) -> Tensor:
    """Soft-cap logits: c * tanh(x / c); unchanged without a cap."""
    return logits if cap is None else cap * torch.tanh(logits / cap)


def _block_claims(block: Block, seen: _Seen, stream: Tensor) -> Generator[_Claim, None, Tensor]:
    """Claims of one block; returns the residual stream after it. Each starts from recorded values, not from others."""

    def attention(x: Tensor) -> Tensor:
        value, output = value_and_output(block.attention)
        pattern = seen.patterns[block.attention]
        size = output.weight.shape[1] // pattern.shape[1]
        mixed = mix(pattern, value(x).view(1, x.shape[1], -1, size).transpose(1, 2))
        return output(mixed.transpose(1, 2).flatten(2))

    name = f"block {block.index} attention"
    norms = (block.attention_norm, block.attention_out_norm)
    yield f"the input of block {block.index}", stream, seen.parts[block.attention_norm or block.attention][0]
    stream = seen.parts[block.attention_norm or block.attention][0]
    attended = yield from _half_claims(name, (block.attention, *norms), seen, stream, attention)
    read = stream if block.parallel else stream + attended
    name = f"block {block.index} MLP"
    written = yield from _half_claims(
        name, (block.mlp, block.mlp_norm, block.mlp_out_norm), seen, read, lambda x: _mlp_output(block, x)
    )
    return stream + attended + written


def _half_claims(
    name: str,
    parts: tuple[nn.Module, nn.Module | None, nn.Module | None],
    seen: _Seen,
    stream: Tensor,
    compute: Callable[[Tensor], Tensor],
) -> Generator[_Claim, None, Tensor]:
    """Claims of attention or MLP with the norms around it; returns what it adds to the residual stream."""
    module, before, after = parts
    x = stream
    if before is not None:
        yield f"the input of {name} norm", x, seen.parts[before][0]
        yield f"{name} norm", norm_of(before)(seen.parts[before][0]), seen.parts[before][1]
        x = seen.parts[before][1]
    yield f"the input of {name}", x, seen.parts[module][0]
    y = seen.parts[module][1]
    yield name, compute(seen.parts[module][0]), y
    if after is not None:
        yield f"the input of {name} output norm", y, seen.parts[after][0]
        yield f"{name} output norm", norm_of(after)(y), seen.parts[after][1]
        y = seen.parts[after][1]
    return y


def _mlp_output(block: Block, x: Tensor) -> Tensor:
    hidden = block.act(block.up(x)) if block.gate is None else block.act(block.gate(x)) * block.up(x)
    output: Tensor = block.down(hidden)
    return output


@contextmanager
def _recording(modules: list[nn.Module]) -> Iterator[_Seen]:
    seen = _Seen({}, {})

    def record(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        first = args[0] if args else kwargs["hidden_states"]
        seen.parts[module] = (first, output[0] if isinstance(output, tuple) else output)

    def keep(module: nn.Module, pattern: Tensor) -> Tensor:
        seen.patterns[module] = pattern
        return pattern

    handles = [module.register_forward_hook(record, with_kwargs=True) for module in modules]
    try:
        with receiving(keep):
            yield seen
    finally:
        for handle in handles:
            handle.remove()
