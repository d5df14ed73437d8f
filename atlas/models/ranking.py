"""Rows of numbers -> the k largest of each, equal numbers in ascending order of their index."""

from __future__ import annotations

import torch
from torch import Tensor


def largest(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Find the k largest numbers of each row of [R, C] and their columns, both [R, min(k, C)].

    Order: number descending, column ascending. Among numbers <= 0 the choice at the end of the list is arbitrary:
    callers list positive numbers only, and sorting every row with many zeros would cost more than the product.
    """
    k = min(k, values.shape[1])
    if k == 0:
        return values[:, :0], torch.empty(len(values), 0, dtype=torch.int64, device=values.device)
    found, column = values.topk(k, dim=1)
    last = found[:, -1:]
    # topk breaks ties arbitrarily: redo the rows where the last place is shared with a number outside the list
    shared = ((last[:, 0] > 0) & ((values >= last).sum(1) > k)).nonzero()[:, 0]
    if len(shared):
        again = values[shared].sort(dim=1, descending=True, stable=True)
        found[shared], column[shared] = again.values[:, :k], again.indices[:, :k]
    return ordered(found, column)


def ordered(values: Tensor, names: Tensor) -> tuple[Tensor, Tensor]:
    """Sort each row of [R, K] by value descending, then by name ascending."""
    names, by_name = names.sort(dim=1)
    values, by_value = values.gather(1, by_name).sort(dim=1, descending=True, stable=True)
    return values, names.gather(1, by_value)
