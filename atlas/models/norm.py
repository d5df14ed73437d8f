"""A norm module -> the linear map it is once its scale factor is frozen.

RMSNorm: y = w * x * r with r = rsqrt(mean(x^2) + eps); some families store w - 1. LayerNorm: y = w * (x - mean(x)) * r
+ b with r = rsqrt(var(x) + eps). Only r depends on x non-linearly; the centring is linear.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from atlas.errors import ModelError


@dataclass(frozen=True)
class Norm:
    """One norm read from its module; `weight` [d] is the gain, `bias` [d] or None, `centred` for LayerNorm."""

    weight: Tensor
    bias: Tensor | None
    eps: float
    centred: bool

    def __call__(self, x: Tensor) -> Tensor:
        """Output [..., d] for input [..., d]."""
        return self.apply(x, self.factor(x))

    def factor(self, x: Tensor) -> Tensor:
        """Compute the scale r [..., 1] at x, in at least float32."""
        wide = self._centre(x.to(torch.promote_types(x.dtype, torch.float32)))
        return torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)

    def apply(self, x: Tensor, factor: Tensor) -> Tensor:
        """Compute the norm's output [..., d] with its scale given."""
        wide = self._centre(x.to(torch.promote_types(x.dtype, torch.float32)))
        y = self.weight * (wide * factor).to(self.weight.dtype)
        return (y if self.bias is None else y + self.bias).to(x.dtype)

    def transpose(self, cotangent: Tensor, factor: Tensor | float) -> Tensor:
        """Cotangent of the output [..., d] -> cotangent of the input [..., d], the scale frozen."""
        return self._centre(cotangent * self.weight * factor)

    def linear(self, x: Tensor, factor: Tensor | float) -> Tensor:
        """Change of the output for a change [..., d] of the input, the scale frozen."""
        return self._centre(x) * self.weight * factor

    def to(self, dtype: torch.dtype, device: torch.device | None = None) -> Norm:
        """The same norm in another dtype, and on another device where one is given."""
        shift = None if self.bias is None else self.bias.detach().to(device, dtype)
        return Norm(self.weight.detach().to(device, dtype), shift, self.eps, self.centred)

    def _centre(self, x: Tensor) -> Tensor:
        return x - x.mean(-1, keepdim=True) if self.centred else x


def is_norm(module: nn.Module) -> bool:
    """Whether a module is a LayerNorm or has what an RMSNorm has: one gain per dimension and an epsilon."""
    return isinstance(module, nn.LayerNorm) or (_epsilon(module) is not None and _gain(module) is not None)


def norm_of(module: nn.Module) -> Norm:
    """Read a LayerNorm or an RMSNorm module; raises ModelError for anything else.

    Whether the gain is the stored weight or one more than it (Gemma) is found by running the module on ones.
    """
    if isinstance(module, nn.LayerNorm):
        return Norm(module.weight, module.bias, module.eps, centred=True)
    eps, found = _epsilon(module), _gain(module)
    if eps is None or found is None:
        raise ModelError(f"{type(module).__name__} is not supported: neither LayerNorm nor RMSNorm; use another model")
    gain = (
        found.detach().to(torch.promote_types(found.dtype, torch.float32)) + 1 if _is_shifted(module, found) else found
    )
    return Norm(gain, None, eps, centred=False)


def _epsilon(module: nn.Module) -> float | None:
    found = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    return found if isinstance(found, float) else None


def _gain(module: nn.Module) -> Tensor | None:
    found = getattr(module, "weight", None)
    return found if isinstance(found, Tensor) and found.ndim == 1 and not hasattr(module, "bias") else None


@torch.no_grad()
def _is_shifted(module: nn.Module, stored: Tensor) -> bool:
    output = type(module).forward(module, torch.ones_like(stored)[None])[0]  # r is 1, up to eps; no hooks, no patches
    plain, shifted = ((output - stored - shift).abs().nansum() for shift in (0, 1))
    return bool(shifted < plain)
