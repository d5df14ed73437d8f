"""A model -> the RelP replacement model: the same forward values, a backward pass without its non-linear parts.

In the backward pass every norm's scale, every attention pattern, every activation's ratio act(x)/x and the soft-cap's
ratio is a constant, and a product gate * up gives half of its gradient to each factor. The modules of the model are
patched inside a `with` block; a run leaves a Trace of the constants, which is all that the matrix engine
(attribution.py) needs, and with autograd on it is the oracle that the engine is tested against (arXiv 2508.21258,
2601.22594).

Norms are computed in at least float32 and in float64 for a float64 model, where transformers stops at float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from atlas.errors import InputError
from atlas.models.adapter import Adapter, Block
from atlas.models.norm import is_norm, norm_of
from atlas.models.patterns import own_attention, receiving
from atlas.models.selfcheck import capped


@dataclass(frozen=True)
class Rules:
    """Which parts are constants in the backward pass; all of them, except in tests that prove each is needed."""

    freeze_norms: bool = True
    freeze_attention: bool = True
    half: bool = True
    leaves: bool = False  # every activation h is cut from what made it: gradients with respect to h are direct effects
    live_norms: frozenset[str] = frozenset()  # roles of norms (Block.norms) that stay live


@dataclass
class BlockTrace:
    """Constants of one block; B prompts of T positions, N neurons, H heads."""

    factors: dict[str, Tensor] = field(default_factory=dict)  # by role of the norm (Block.norms): [B, T, 1]
    pattern: Tensor = field(default_factory=lambda: torch.empty(0))  # [B, H, T, T], query by key
    gate: Tensor | None = None  # [B, T, N] before the activation
    up: Tensor = field(default_factory=lambda: torch.empty(0))  # [B, T, N]; ungated: before the activation
    hidden: Tensor = field(default_factory=lambda: torch.empty(0))  # [B, T, N] the neurons
    uncut: Tensor = field(default_factory=lambda: torch.empty(0))  # [B, T, N] the same, never a leaf


@dataclass
class Trace:
    """One run on B prompts padded on the right to T tokens; what stands in padding means nothing.

    `embedding` [B, T, d] and `logits` [B, T, V] carry gradients when autograd is on.
    """

    rules: Rules
    lengths: tuple[int, ...]
    blocks: list[BlockTrace]
    embedding: Tensor
    final_factor: Tensor = field(default_factory=lambda: torch.empty(0))  # [B, T, 1]
    final_stream: Tensor = field(default_factory=lambda: torch.empty(0))  # [B, T, d] after the final norm
    logits: Tensor = field(default_factory=lambda: torch.empty(0))


class Replacement:
    """A patched model; made by `replacement(adapter)`."""

    def __init__(self, adapter: Adapter) -> None:
        self._adapter = adapter
        self._index = {block.attention: block.index for block in adapter.blocks}

    def run(self, prompts: Sequence[Sequence[int]], rules: Rules = Rules()) -> Trace:
        """Run prompts (token ids), several at once; safe in several threads at once.

        Padding stands on the right and attention is causal, so no token sees it. Raises InputError for an empty
        prompt and for one longer than the model's context.
        """
        for token_ids in prompts:
            self.check(token_ids)
        embedding = self._adapter.embedding(self._padded(prompts)).detach().requires_grad_(torch.is_grad_enabled())
        records = [BlockTrace() for _ in self._adapter.blocks]
        trace = Trace(rules, tuple(map(len, prompts)), records, embedding)

        def keep(module: nn.Module, pattern: Tensor) -> Tensor:
            records[self._index[module]].pattern = pattern.detach()
            return pattern.detach() if rules.freeze_attention else pattern

        token = _RUN.set(trace)
        try:
            with receiving(keep):
                body = getattr(self._adapter.model, str(self._adapter.model.base_model_prefix))
                trace.final_stream = body(inputs_embeds=embedding, use_cache=False).last_hidden_state
                trace.logits = self._logits(trace.final_stream)
        finally:
            _RUN.reset(token)
        return trace

    def check(self, token_ids: Sequence[int]) -> None:
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

    def _padded(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        longest = max(map(len, prompts))
        # padded with the prompt's own last token: one whose embedding is not finite must not spoil other prompts
        ids = torch.tensor([[*token_ids, *[token_ids[-1]] * (longest - len(token_ids))] for token_ids in prompts])
        return ids.to(self._adapter.device)

    def _logits(self, stream: Tensor) -> Tensor:
        logits: Tensor = self._adapter.unembedding(stream)
        cap = self._adapter.logit_cap
        return logits if cap is None else logits * cap_ratio(logits.detach(), cap)


_RUN: ContextVar[Trace] = ContextVar("atlas_replacement_run")


@contextmanager
def replacement(adapter: Adapter) -> Iterator[Replacement]:
    """Patch the model of an adapter; the model is as before when the block ends."""
    patched: list[nn.Module] = []
    with own_attention(adapter.model):
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


def cap_ratio(logits: Tensor, cap: float) -> Tensor:
    """C * tanh(x/c) / x elementwise, 1 where x is 0."""
    return torch.where(logits == 0, 1.0, capped(logits, cap) / torch.where(logits == 0, 1.0, logits))


def _patches(adapter: Adapter) -> Iterator[tuple[nn.Module, Callable[[Tensor], Tensor]]]:
    for block in adapter.blocks:
        for role, norm in block.norms.items():
            yield norm, _norm_forward(norm, role, block.index)
        yield block.mlp, _mlp_forward(block)
    yield adapter.final_norm, _norm_forward(adapter.final_norm, "final_norm", None)
    known = {adapter.final_norm, *(norm for block in adapter.blocks for norm in block.norms.values())}
    for module in adapter.model.modules():  # query and key norms: nothing passes them while patterns are frozen
        if is_norm(module) and module not in known:
            yield module, _frozen_norm_forward(module)


def _norm_forward(module: nn.Module, role: str, index: int | None) -> Callable[[Tensor], Tensor]:
    norm = norm_of(module)

    def forward(x: Tensor) -> Tensor:
        trace, factor = _RUN.get(), norm.factor(x)
        if index is None:
            trace.final_factor = factor.detach()
        else:
            trace.blocks[index].factors[role] = factor.detach()
        frozen = trace.rules.freeze_norms and role not in trace.rules.live_norms
        return norm.apply(x, factor.detach() if frozen else factor)

    return forward


def _frozen_norm_forward(module: nn.Module) -> Callable[[Tensor], Tensor]:
    norm = norm_of(module)

    def forward(x: Tensor) -> Tensor:
        factor = norm.factor(x)
        return norm.apply(x, factor.detach() if _RUN.get().rules.freeze_norms else factor)

    return forward


def _mlp_forward(block: Block) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        trace = _RUN.get()
        record = trace.blocks[block.index]
        up = block.up(x)
        record.up = up.detach()
        if block.gate is None:
            hidden = up * activation_ratio(block.act, up.detach())
        else:
            gate = block.gate(x)
            record.gate = gate.detach()
            active = gate * activation_ratio(block.act, gate.detach())
            hidden = _half(active, up) if trace.rules.half else active * up
        record.uncut = hidden
        record.hidden = hidden.detach().requires_grad_(torch.is_grad_enabled()) if trace.rules.leaves else hidden
        output: Tensor = block.down(record.hidden)
        return output

    return forward


def _half(a: Tensor, b: Tensor) -> Tensor:
    # The value is (ab + ab) / 2 = ab exactly in floating point; the gradients are b/2 and a/2.
    return 0.5 * (a * b.detach() + a.detach() * b)
