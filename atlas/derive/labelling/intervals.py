"""Counts and samples -> 95% intervals: Wilson's for shares, a seeded bootstrap for AUCs and means."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy.typing as npt

Z = 1.959963984540054  # 97.5% quantile of the normal distribution
RESAMPLES = 500


def wilson(right: int, n: int) -> tuple[float, float]:
    """Interval of a share `right / n` (Wilson 1927); it stays inside 0 to 1 and is honest for few trials."""
    share, spread = right / n, Z * Z / n
    middle = (share + spread / 2) / (1 + spread)
    half = Z / (1 + spread) * sqrt(share * (1 - share) / n + spread / (4 * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def auc(inside: Sequence[float], outside: Sequence[float]) -> float:
    """Share of pairs (inside, outside) in which the inside is larger; ties count half."""
    import numpy as np

    return float(_aucs(np.array([inside], float), np.array([outside], float))[0])


def auc_interval(inside: Sequence[float], outside: Sequence[float], *, seed: int) -> tuple[float, float]:
    """Percentile bootstrap of an AUC: both groups are drawn anew."""
    import numpy as np

    dice = np.random.default_rng(seed)
    a, b = np.array(inside, float), np.array(outside, float)
    drawn = _aucs(
        a[dice.integers(len(a), size=(RESAMPLES, len(a)))], b[dice.integers(len(b), size=(RESAMPLES, len(b)))]
    )
    return _middle(drawn)


def mean_interval(values: Sequence[float], *, seed: int) -> tuple[float, float]:
    """Percentile bootstrap of a mean."""
    import numpy as np

    dice, given = np.random.default_rng(seed), np.array(values, float)
    means = [given[dice.integers(len(given), size=len(given))].mean() for _ in range(RESAMPLES)]
    return _middle(np.array(means))


def _middle(drawn: npt.NDArray[Any]) -> tuple[float, float]:
    import numpy as np

    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)


def _aucs(inside: npt.NDArray[Any], outside: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """[k, a] and [k, b] -> k AUCs."""
    above = inside[:, :, None] - outside[:, None, :]
    found: npt.NDArray[Any] = ((above > 0) + (above == 0) / 2.0).mean(axis=(1, 2))
    return found
