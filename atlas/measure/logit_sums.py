"""Changes of logits, a piece of the vocabulary at a time -> KL divergence, log Z and flips at every position.

With p the model's distribution, e = logits' - logits and x = e - c, c being e of the model's most likely token:
s = sum p x, u = s + sum p (exp(x) - 1 - x), KL(p || p') = log(1 + u) - s. Nothing large is subtracted, so a KL of 1e-12
is no noise. On a processor one compiled loop reads each change once; torch takes eight passes.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor


class LogitSums:
    """Sums at [S, P] positions: in the changes' dtype inside a piece of the vocabulary, in float64 over pieces."""

    def __init__(self, centre: Tensor, top: Tensor, bound: Tensor) -> None:
        """`top` [P] is the model's most likely token, `bound` [P] its logit, `centre` [S, P] what that changes by."""
        self._centre, self._top, self._bound = centre.contiguous(), top, bound.contiguous()
        self._first, self._second, self._over = (torch.zeros_like(centre, dtype=torch.float64) for _ in range(3))
        self._compiled = centre.device.type == "cpu" and centre.dtype == torch.float32

    def add(self, e: Tensor, base: Tensor, p: Tensor, *, start: int) -> None:
        """Add the tokens from `start` on: changes e [S, P, c] (overwritten), logits and probabilities before [P, c]."""
        top = self._top - start
        here = ((top >= 0) & (top < e.shape[-1])).nonzero()[:, 0]
        e[:, here, top[here]] = self._centre[:, here]  # so that the token does not beat itself by a rounding
        if self._compiled:
            self._add_loop(e, base.contiguous(), p)
        else:
            self._add_passes(e.sub_(self._centre[..., None]), base, p)

    def divergence(self, scale: Tensor) -> tuple[Tensor, Tensor]:
        """KL [S, P], and log Z' - log Z - c; `scale` [P] corrects the rounding of log Z in p."""
        first, second = self._first * scale, self._second * scale
        u = first + second
        return (torch.log1p(u) - u + second).clamp_min_(0), torch.log1p(u)

    def flips(self) -> Tensor:
        """1.0 where another token is more likely now."""
        return (self._over > 0).double()

    def _add_passes(self, x: Tensor, base: Tensor, p: Tensor) -> None:
        self._over += (x + base > self._bound[:, None]).sum(-1)
        self._first += (x * p).sum(-1)
        self._second += torch.expm1(x).sub_(x).mul_(p).sum(-1)

    def _add_loop(self, e: Tensor, base: Tensor, p: Tensor) -> None:
        from atlas.measure.logit_loop import add_rows

        first, second, over = (one.reshape(-1).numpy() for one in (self._first, self._second, self._over))
        centre, bound = self._centre.reshape(-1).numpy(), self._bound.numpy()
        flat, count = e.flatten(0, 1).numpy(), self._centre.numel()
        share = -(-count // torch.get_num_threads())
        parts = [(start, min(start + share, count)) for start in range(0, count, share)]

        def work(rows: tuple[int, int]) -> Any:
            return add_rows(flat, base.numpy(), p.numpy(), centre, bound, first, second, over, rows)

        if len(parts) == 1:
            work(parts[0])
            return
        with ThreadPoolExecutor(len(parts)) as pool:
            list(pool.map(work, parts))
