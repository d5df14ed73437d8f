"""Linear modules of any storage -> weight [out, in] and bias; fused attention projections -> value and output maps."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from atlas.errors import ModelError


@dataclass(frozen=True)
class Linear:
    """One linear map: weight [out, in] and bias [out] or None."""

    weight: Tensor
    bias: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        """Output [..., out] for input [..., in]."""
        return nn.functional.linear(x, self.weight, self.bias)

    def to(self, dtype: torch.dtype) -> Linear:
        """The same map in another dtype; nothing is copied when it is that already."""
        return Linear(self.weight.to(dtype), None if self.bias is None else self.bias.to(dtype))


def weight(module: nn.Module) -> Tensor:
    """Weight of a linear module as a view [out, in]; Conv1D (GPT-2) stores [in, out]."""
    stored = module.weight
    if not isinstance(stored, Tensor):
        raise ModelError(
            f"{type(module).__name__} has no weight tensor; atlas reads Linear and Conv1D modules (quantised models: "
            "load the original weights)"
        )
    return stored if isinstance(module, nn.Linear | nn.Embedding) else stored.T


def bias(module: nn.Module) -> Tensor | None:
    """Bias of a module, or None."""
    found = getattr(module, "bias", None)
    return found if isinstance(found, Tensor) else None


def linear(module: nn.Module) -> Linear:
    """Read a linear module: views of its parameters."""
    found = bias(module)
    return Linear(weight(module).detach(), None if found is None else found.detach())


def value_and_output(attention: nn.Module) -> tuple[Linear, Linear]:
    """Value map [groups * head size, d_model] and output map [d_model, heads * head size] of an attention module.

    Raises ModelError when neither separate (v_proj, o_proj) nor known fused projections are there.
    """
    parts = dict(attention.named_children())
    if {"v_proj", "o_proj"} <= set(parts):
        return linear(parts["v_proj"]), linear(parts["o_proj"])
    if {"c_attn", "c_proj"} <= set(parts):  # GPT-2: query, key and value one after the other
        fused, output = linear(parts["c_attn"]), linear(parts["c_proj"])
        return _rows(_three(attention, fused, output), slice(2 * output.weight.shape[1], None)), output
    if {"query_key_value", "dense"} <= set(parts):  # GPT-NeoX: query, key and value of each head together
        fused, output = linear(parts["query_key_value"]), linear(parts["dense"])
        _three(attention, fused, output)
        size = int(attention.head_size)  # type: ignore[arg-type]
        index = torch.arange(output.weight.shape[1], device=fused.weight.device)
        return _rows(fused, index // size * 3 * size + 2 * size + index % size), output
    raise ModelError(
        f"{type(attention).__name__} is not supported: no value and output projections (v_proj and o_proj, c_attn and "
        f"c_proj, or query_key_value and dense), found {', '.join(parts) or 'none'}; use a supported family"
    )


def _three(attention: nn.Module, fused: Linear, output: Linear) -> Linear:
    """The fused map, which holds query, key and value of equal size."""
    found, width = fused.weight.shape[0], output.weight.shape[1]
    if found != 3 * width:
        raise ModelError(
            f"{type(attention).__name__} is not supported: its fused attention projection has {found} rows, expected "
            f"3 * {width} (query, key and value); use a supported family"
        )
    return fused


def _rows(fused: Linear, index: slice | Tensor) -> Linear:
    return Linear(fused.weight[index], None if fused.bias is None else fused.bias[index])
