"""A norm module -> the linear map it is once its scale factor is frozen.

RMSNorm: y = w * x * r with r = rsqrt(mean(x^2) + eps). LayerNorm: y = w * (x - mean(x)) * r + b with
r = rsqrt(var(x) + eps). Only r depends on x non-linearly; the centring is linear.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from atlas.errors import ModelError


@dataclass(frozen=True)
class Norm:
    """One norm read from its module; `weight` [d], `bias` [d] or None, `centred` for LayerNorm."""

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
        y = self.weight * (wide * factor).to(x.dtype)
        return y if self.bias is None else y + self.bias

    def transpose(self, cotangent: Tensor, factor: Tensor) -> Tensor:
        """Cotangent of the output [..., d] -> cotangent of the input [..., d], the scale frozen."""
        return self._centre(cotangent * self.weight * factor)

    def _centre(self, x: Tensor) -> Tensor:
        return x - x.mean(-1, keepdim=True) if self.centred else x


def norm_of(module: nn.Module) -> Norm:
    """Read a LayerNorm or an RMSNorm module; raises ModelError for anything else."""
    if isinstance(module, nn.LayerNorm):
        return Norm(module.weight, module.bias, module.eps, centred=True)
    eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    found = getattr(module, "weight", None)
    if not isinstance(found, Tensor) or not isinstance(eps, float) or hasattr(module, "bias"):
        raise ModelError(f"{type(module).__name__} is not supported: neither LayerNorm nor RMSNorm; use another model")
    return Norm(found, None, eps, centred=False)
