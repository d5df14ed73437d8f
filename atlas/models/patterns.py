"""An attention module at work -> its pattern P, handed to a receiver that may replace it.

An attention implementation of our own is registered with transformers: every supported family calls it with query,
key, value, mask, scale and soft-cap, so patterns are read in one place. The receiver is that of the running thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

_NAME = "atlas_recorded_pattern"

# Gets the attention module and P [batch, heads, T, T] (query by key); gives the pattern to mix the values with.
Receiver = Callable[[nn.Module, Tensor], Tensor]
RECEIVER: ContextVar[Receiver] = ContextVar("atlas_pattern_receiver")


@contextmanager
def own_attention(model: Any) -> Iterator[None]:
    """Compute every attention of a model here inside the block; set RECEIVER before running it."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask

    AttentionInterface.register(_NAME, _attention)
    AttentionMaskInterface.register(_NAME, eager_mask)
    before = model.config._attn_implementation
    model.set_attn_implementation(_NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


@contextmanager
def receiving(receiver: Receiver) -> Iterator[None]:
    """Hand this thread's patterns to `receiver`."""
    token = RECEIVER.set(receiver)
    try:
        yield
    finally:
        RECEIVER.reset(token)


def mix(pattern: Tensor, value: Tensor) -> Tensor:
    """P V with grouped heads: [..., heads, T, T] and [..., groups, T, size] -> [..., heads, T, size]."""
    heads, groups = pattern.shape[-3], value.shape[-3]
    return pattern @ value.repeat_interleave(heads // groups, dim=-3)


def _attention(  # noqa: PLR0917  (the signature that transformers calls)
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float,
    softcap: float | None = None,
    **_: object,
) -> tuple[Tensor, Tensor]:
    """Compute P V on [batch, heads, T, head size]."""
    groups = query.shape[1] // key.shape[1]
    scores = query @ key.repeat_interleave(groups, dim=1).transpose(2, 3) * scaling
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    wide = torch.promote_types(query.dtype, torch.float32)
    pattern = torch.softmax(scores + attention_mask, dim=-1, dtype=wide).to(query.dtype)
    mixed = mix(RECEIVER.get()(module, pattern), value)
    return mixed.transpose(1, 2).contiguous(), pattern
