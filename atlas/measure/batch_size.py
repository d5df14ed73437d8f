"""Neurons in order, safest first -> the longest prefix whose measured damage is under the budget, by bisection.

Damage is not additive, so no sum of single neurons decides: every prefix that is asked about is measured as a set.
Bisection takes damage for growing; sizes around the found one are measured too, and tell when it is not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

NEIGHBOURS = 2  # sizes that are measured on each side of the found one


@dataclass(frozen=True)
class BatchSize:
    """The longest prefix that was measured and safe, 0 for none; and the verdict of every size that was measured.

    `monotone`: no measured prefix is unsafe that a longer, safe one contains.
    """

    size: int
    verdicts: dict[int, bool]

    @property
    def monotone(self) -> bool:
        """Whether all measured sizes up to `size` are safe."""
        return all(safe for size, safe in self.verdicts.items() if size <= self.size)


def longest_safe(is_safe: Callable[[Sequence[int]], Sequence[bool]], most: int) -> BatchSize:
    """Find the longest safe prefix of at most `most` neurons; `is_safe` measures the prefixes of the given sizes.

    At most log2(most) + 2 * NEIGHBOURS + 2 prefixes are measured, the longest and the single neuron first. A safe
    neighbour beyond the found size is taken, and the sizes around it measured in turn.
    """
    verdicts: dict[int, bool] = {}

    def measure(sizes: Sequence[int]) -> None:
        new = sorted(set(sizes) - set(verdicts))
        if new:
            verdicts.update(zip(new, is_safe(new), strict=True))

    if most < 1:
        return BatchSize(0, verdicts)
    measure([1, most])
    low, high = 0, most + 1
    if verdicts[most]:
        low = most
    while high - low > 1:
        middle = (low + high) // 2
        measure([middle])
        low, high = (middle, high) if verdicts[middle] else (low, middle)
    size, before = low, -1
    while size != before:
        before = size
        measure([n for n in range(size - NEIGHBOURS, size + NEIGHBOURS + 2) if 1 <= n <= most])
        size = max((n for n, safe in verdicts.items() if safe), default=0)
    return BatchSize(size, verdicts)
