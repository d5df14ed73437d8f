"""How many neurons each two modules share -> how far two partitions agree: mutual information, AMI, variation.

Information is in nats. AMI is the mutual information beyond that of chance (sizes kept, members drawn), over the mean
entropy beyond it (Vinh, Epps and Bailey 2010); 1 = the same partition, 0 = as by chance.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Longs = NDArray[np.int64]


@dataclass(frozen=True)
class Agreement:
    """Two partitions of the same neurons, compared."""

    neurons: int
    mutual_information: float
    ami: float
    variation: float  # of information, H(A|B) + H(B|A)
    entropies: tuple[float, float]


def agreement(shared: Iterable[tuple[object, object, int]]) -> Agreement:
    """(module of one, module of the other, neurons in both) -> how the partitions agree; AMI 1 for two trivial ones.

    >>> round(agreement([("1", "2", 3), ("2", "1", 3)]).ami, 6)
    1.0
    """
    rows = [row for row in shared if row[2]]
    n = np.array([row[2] for row in rows], np.int64)
    first, second = (_margin([row[side] for row in rows], n) for side in (0, 1))
    total = int(n.sum())
    if not total:
        return Agreement(0, 0.0, 1.0, 0.0, (0.0, 0.0))
    inside = n / total * np.log(n * total / (first[0][first[1]] * second[0][second[1]].astype(np.float64)))
    mutual = float(np.sort(inside).sum())
    entropies = _entropy(first[0]), _entropy(second[0])
    chance = expected_mutual_information(first[0], second[0])
    room = sum(entropies) / 2 - chance
    same = len(rows) == len(first[0]) == len(second[0])
    ami = 1.0 if same or abs(room) < 1e-12 else (mutual - chance) / room
    variation = 0.0 if same else max(0.0, sum(entropies) - 2 * mutual)
    return Agreement(total, mutual, ami, variation, entropies)


def expected_mutual_information(first: Longs, second: Longs) -> float:
    """Mean mutual information of partitions with these module sizes over all ways to draw their members.

    Sizes that several modules have are worked out once. Time: pairs of different sizes times the smaller size.
    """
    total = int(first.sum())
    log = np.concatenate([[0.0], np.log(np.arange(1, total + 1))])
    factorial = log.cumsum()  # log n!
    found = []
    for a, times_a in zip(*np.unique(first, return_counts=True), strict=True):
        for b, times_b in zip(*np.unique(second, return_counts=True), strict=True):
            n = np.arange(max(1, a + b - total), min(a, b) + 1)
            if len(n):
                chance = factorial[a] + factorial[b] + factorial[total - a] + factorial[total - b] - factorial[total]
                chance = chance - factorial[n] - factorial[a - n] - factorial[b - n] - factorial[total - a - b + n]
                terms = n / total * (log[n] + log[total] - log[a] - log[b]) * np.exp(chance)
                found.append(times_a * times_b * float(terms.sum()))
    return float(np.sum(found))


def _margin(names: list[object], n: Longs) -> tuple[Longs, Longs]:
    """Neurons of each module, and the module of each row."""
    places: dict[object, int] = {}
    at = np.array([places.setdefault(name, len(places)) for name in names], np.int64)
    return np.bincount(at, weights=n, minlength=len(places)).astype(np.int64), at


def _entropy(sizes: Longs) -> float:
    share = sizes / sizes.sum()
    return float(-(share * np.log(share)).sum())
