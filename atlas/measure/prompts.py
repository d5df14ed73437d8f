"""A prompt -> the activation of every MLP neuron at every token.

The value of a neuron is its coordinate of the input of the MLP's down projection, as everywhere in an atlas.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from atlas.errors import InputError, ModelError
from atlas.measure.corpus import contexts
from atlas.models.adapter import Adapter
from atlas.models.tokens import token_texts

Floats = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class PromptActivations:
    """One prompt as the model read it; `tokens` start with BOS where the model has one."""

    prompt: str
    tokens: tuple[str, ...]
    values: Floats  # [layers, neurons, tokens], float32 (float64 for a model in float64)


def measure_prompt(adapter: Adapter, text: str) -> PromptActivations:
    """Run the model over a text that fits its context.

    Raises InputError for a text without tokens or longer than the context, ModelError for values that are not finite.
    """
    ids = prompt_tokens(adapter, text)
    texts = token_texts(adapter.tokenizer, adapter.spec.vocab)
    return PromptActivations(text, tuple(texts[i] for i in ids), measure_tokens(adapter, ids))


def prompt_tokens(adapter: Adapter, text: str) -> tuple[int, ...]:
    """Token ids of a text as the model reads it, BOS first where it has one.

    Raises InputError for a text without tokens and for one that is longer than the model's context.
    """
    found = list(contexts([text], adapter.tokenizer, length=adapter.spec.context))
    if not found:
        raise InputError(f"the prompt {text!r} has no tokens; give some text")
    if len(found) > 1:
        size = sum(len(context.token_ids) for context in found)
        raise InputError(f"the prompt has {size} tokens, {adapter.spec.name} reads {adapter.spec.context}; shorten it")
    return found[0].token_ids


def measure_tokens(adapter: Adapter, token_ids: Sequence[int]) -> Floats:
    """Activations [layers, neurons, tokens] of one sequence of token ids, read from position 0."""
    reached: dict[int, Floats] = {}
    ids = torch.tensor([list(token_ids)], device=adapter.device)
    with ExitStack() as stack, torch.inference_mode():
        for block in adapter.blocks:
            handle = block.down.register_forward_pre_hook(partial(_keep, reached, block.index))
            stack.callback(handle.remove)
        adapter.model(input_ids=ids, use_cache=False)
    values = np.stack([reached[block.index] for block in adapter.blocks])
    _check_finite(values, adapter.spec.name)
    return values


def _keep(reached: dict[int, Floats], layer: int, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    value = inputs[0][0].T
    reached[layer] = (value if value.dtype == torch.float64 else value.float()).cpu().numpy()


def _check_finite(values: Floats, name: str) -> None:
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        layer, neuron, position = bad[0].tolist()
        raise ModelError(
            f"{name}: {len(bad)} activations are not finite, first L{layer}/N{neuron} at token {position}; "
            "load the model in float32 or download it again"
        )
