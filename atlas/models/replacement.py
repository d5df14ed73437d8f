"""A model -> the RelP replacement model: the same forward values, a backward pass without its non-linear parts.

In the backward pass every norm's scale, every attention pattern and every activation's ratio act(x)/x is a constant,
and a product gate * up gives half of its gradient to each factor. The modules of the model are patched inside a
`with` block; a run leaves a Trace of the constants, which is all that the matrix engine (measure/relp.py) needs, and
with autograd on it is the oracle that the engine is tested against (arXiv 2508.21258, 2601.22594).

Norms are computed in at least float32 and in float64 for a float64 model, where transformers stops at float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from atlas.errors import InputError
from atlas.models.adapter import Adapter, Block
from atlas.models.norm import norm_of

_ATTENTION = "atlas_recorded_pattern"


@dataclass(frozen=True)
class Rules:
    """Which parts are constants in the backward pass; all of them, except in tests that prove each is needed."""

    freeze_norms: bool = True
    freeze_attention: bool = True
    half: bool = True
    leaves: bool = False  # every activation h is cut from what made it: gradients with respect to h are direct effects


@dataclass
class BlockTrace:
    """Constants of one block for one prompt; T positions, N neurons, H heads."""

    attention_factor: Tensor = field(default_factory=lambda: torch.empty(0))  # [T, 1]
    mlp_factor: Tensor = field(default_factory=lambda: torch.empty(0))  # [T, 1]
    pattern: Tensor = field(default_factory=lambda: torch.empty(0))  # [H, T, T], query by key
    gate: Tensor | None = None  # [T, N] before the activation
    up: Tensor = field(default_factory=lambda: torch.empty(0))  # [T, N]; ungated: before the activation
    hidden: Tensor = field(default_factory=lambda: torch.empty(0))  # [T, N] the neurons
    uncut: Tensor = field(default_factory=lambda: torch.empty(0))  # [T, N] the same, never a leaf


@dataclass
class Trace:
    """One run of the replacement model; `embedding` [T, d] and `logits` [T, V] carry gradients when autograd is on."""

    rules: Rules
    blocks: list[BlockTrace]
    attentions: dict[nn.Module, BlockTrace]  # the same records, by attention module
    embedding: Tensor
    final_factor: Tensor = field(default_factory=lambda: torch.empty(0))  # [T, 1]
    logits: Tensor = field(default_factory=lambda: torch.empty(0))


class Replacement:
    """A patched model; made by `replacement(adapter)`."""

    def __init__(self, adapter: Adapter) -> None:
        self._adapter = adapter

    def run(self, token_ids: list[int], rules: Rules = Rules()) -> Trace:
        """Run one prompt; safe in several threads at once.

        Raises InputError for an empty prompt and for one longer than the model's context.
        """
        self.check(token_ids)
        ids = torch.tensor([token_ids], device=self._adapter.device)
        embedding = self._adapter.embedding(ids).detach().requires_grad_(torch.is_grad_enabled())
        records = [BlockTrace() for _ in self._adapter.blocks]
        attentions = {b.attention: record for b, record in zip(self._adapter.blocks, records, strict=True)}
        trace = Trace(rules, records, attentions, embedding)
        token = _RUN.set(trace)
        try:
            trace.logits = self._adapter.model(inputs_embeds=embedding, use_cache=False).logits[0]
        finally:
            _RUN.reset(token)
        return trace

    def check(self, token_ids: list[int]) -> None:
        """Raise InputError for a prompt that the model cannot read."""
        spec = self._adapter.spec
        if not token_ids:
            raise InputError("an empty prompt has no graph; give at least one token")
        if len(token_ids) > spec.context:
            raise InputError(
                f"the prompt has {len(token_ids)} tokens, {spec.name} reads {spec.context}; shorten the prompt"
            )
        if not 0 <= min(token_ids) <= max(token_ids) < spec.vocab:
            raise InputError(f"token ids must lie in 0..{spec.vocab - 1}; use the tokenizer of {spec.name}")


_RUN: ContextVar[Trace] = ContextVar("atlas_replacement_run")


@contextmanager
def replacement(adapter: Adapter) -> Iterator[Replacement]:
    """Patch the model of an adapter; the model is as before when the block ends."""
    patched: list[nn.Module] = []
    with _recorded_attention(adapter):
        try:
            for module, forward in _patches(adapter):
                module.forward = forward
                patched.append(module)
            yield Replacement(adapter)
        finally:
            for module in patched:
                del module.forward  # the instance attribute; the class method shows again


def activation_ratio(act: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """act(x)/x elementwise, with its limit act'(0) where x is 0 (activations with act(0) = 0)."""
    zero = x == 0
    ratio = act(x) / torch.where(zero, torch.ones_like(x), x)
    return torch.where(zero, slope_at_zero(act), ratio)


def slope_at_zero(act: Callable[[Tensor], Tensor]) -> float:
    """act'(0): 0.5 for SiLU and GELU."""
    with torch.enable_grad():
        origin = torch.zeros((), dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(act(origin), origin)
    return float(slope)


def _patches(adapter: Adapter) -> Iterator[tuple[nn.Module, Callable[[Tensor], Tensor]]]:
    for block in adapter.blocks:
        yield block.attention_norm, _norm_forward(block.attention_norm, _store(block.index, "attention_factor"))
        yield block.mlp_norm, _norm_forward(block.mlp_norm, _store(block.index, "mlp_factor"))
        yield block.mlp, _mlp_forward(block)
    yield adapter.final_norm, _norm_forward(adapter.final_norm, _store(None, "final_factor"))


def _store(index: int | None, name: str) -> Callable[[Trace, Tensor], None]:
    def store(trace: Trace, value: Tensor) -> None:
        setattr(trace if index is None else trace.blocks[index], name, value)

    return store


def _norm_forward(module: nn.Module, store: Callable[[Trace, Tensor], None]) -> Callable[[Tensor], Tensor]:
    norm = norm_of(module)

    def forward(x: Tensor) -> Tensor:
        trace = _RUN.get()
        factor = norm.factor(x)
        store(trace, factor[0].detach())
        return norm.apply(x, factor.detach() if trace.rules.freeze_norms else factor)

    return forward


def _mlp_forward(block: Block) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        trace = _RUN.get()
        record = trace.blocks[block.index]
        up = block.up(x)
        record.up = up[0].detach()
        if block.gate is None:
            hidden = up * activation_ratio(block.act, up.detach())
        else:
            gate = block.gate(x)
            record.gate = gate[0].detach()
            active = gate * activation_ratio(block.act, gate.detach())
            hidden = _half(active, up) if trace.rules.half else active * up
        record.uncut = hidden[0]
        hidden = hidden.detach().requires_grad_(torch.is_grad_enabled()) if trace.rules.leaves else hidden
        record.hidden = hidden[0]
        output: Tensor = block.down(record.hidden[None])
        return output

    return forward


def _half(a: Tensor, b: Tensor) -> Tensor:
    # The value is (ab + ab) / 2 = ab exactly in floating point; the gradients are b/2 and a/2.
    return 0.5 * (a * b.detach() + a.detach() * b)


@contextmanager
def _recorded_attention(adapter: Adapter) -> Iterator[None]:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask

    AttentionInterface.register(_ATTENTION, _attention)
    AttentionMaskInterface.register(_ATTENTION, eager_mask)
    model: Any = adapter.model
    before = model.config._attn_implementation
    model.set_attn_implementation(_ATTENTION)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def _attention(  # noqa: PLR0917  (the signature that transformers calls)
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float,
    **_: object,
) -> tuple[Tensor, Tensor]:
    """Compute P V on [1, heads, T, head size]; the pattern P [H, T, T] is recorded and, by the rules, constant."""
    trace = _RUN.get()
    groups = query.shape[1] // key.shape[1]
    scores = query @ key.repeat_interleave(groups, dim=1).transpose(2, 3) * scaling + attention_mask
    wide = torch.promote_types(query.dtype, torch.float32)
    pattern = torch.softmax(scores, dim=-1, dtype=wide).to(query.dtype)
    trace.attentions[module].pattern = pattern[0].detach()
    mixed = (pattern.detach() if trace.rules.freeze_attention else pattern) @ value.repeat_interleave(groups, dim=1)
    return mixed.transpose(1, 2).contiguous(), pattern
