"""The modules of two clusterings -> how far they agree, from the counts of neurons that two modules share.

Figures are over the neurons that both place, entropies in bits. Adjusted mutual information takes off what clusterings
with modules of these sizes share by chance (Vinh, Epps, Bailey 2010, equation 24a), divided by the mean entropy.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_AT_ONCE = 1 << 21  # terms of the expectation held at once, 17 MB a column
# Overlaps less likely than e^-45 are left out of the expectation: 1e-12 bits in all, whatever the number of modules.
_UNLIKELY = 45.0


@dataclass(frozen=True)
class Agreement:
    """Of clusterings a and b; None where they have no neuron in common."""

    neurons_in_both: int
    only_in_a: int
    only_in_b: int
    adjusted_mutual_information: float | None = None  # 1: equal, 0: as by chance
    normalized_mutual_information: float | None = None  # over the mean entropy
    mutual_information: float | None = None  # bits
    expected_mutual_information: float | None = None  # bits, by chance
    variation_of_information: float | None = None  # bits, 0: equal
    co_member_jaccard: float | None = None  # pairs together in both, of those together in either
    best_match_of_a: float | None = None  # Jaccard of a's modules with their likest of b, mean over neurons
    best_match_of_b: float | None = None


@dataclass(frozen=True)
class _Block:
    """Pairs of sizes a and b, how many modules are such pairs, and their first and last overlap."""

    a: Ints
    b: Ints
    times: Floats
    low: Ints
    high: Ints


def agreement(a: tuple[Ints, Ints], b: tuple[Ints, Ints]) -> Agreement:
    """Compare two pairs of (packed ids, ascending; module of each, from 0). Memory: about 100 bytes a neuron."""
    both, at_a, at_b = np.intersect1d(a[0], b[0], assume_unique=True, return_indices=True)
    alone = len(a[0]) - len(both), len(b[0]) - len(both)
    if not len(both):
        return Agreement(0, *alone)
    return agreement_of_overlaps(*_overlaps(a[1][at_a], b[1][at_b]), alone=alone)


def agreement_of_overlaps(row: Ints, column: Ints, shared: Ints, *, alone: tuple[int, int] = (0, 0)) -> Agreement:
    """The same from (module of a, module of b, neurons that both hold), each pair once; alone: neurons of one only."""
    total = int(shared.sum())
    if not total:
        return Agreement(0, *alone)
    rows, columns = np.bincount(row, shared).astype(np.int64), np.bincount(column, shared).astype(np.int64)
    found = _information(shared, rows[row], columns[column], total)
    chance = expected_information(rows[rows > 0], columns[columns > 0])
    entropies = _entropy(rows, total), _entropy(columns, total)
    apart, mean = sum(entropies) - 2 * found, sum(entropies) / 2
    matches = _best_matches(row, column, shared, rows, columns)
    return Agreement(
        total,
        *alone,
        adjusted_mutual_information=_ratio(found - chance, mean - chance, equal=apart < 1e-9),
        normalized_mutual_information=_ratio(found, mean, equal=apart < 1e-9),
        mutual_information=found,
        expected_mutual_information=chance,
        variation_of_information=max(apart, 0.0),
        co_member_jaccard=_pairs(shared, rows, columns),
        best_match_of_a=matches[0],
        best_match_of_b=matches[1],
    )


def expected_information(rows: Ints, columns: Ints) -> float:
    """Bits of information that two clusterings with modules of these sizes share by chance.

    The overlap of two modules is hypergeometric. Modules of equal size have equal terms, so each pair of sizes is
    summed once: 300,000 modules of 1.64M neurons have at most 1,811 sizes. Of the overlaps only those are summed that
    have a chance of e^-45 or more by Chernoff's bound, which holds for the hypergeometric (Hoeffding 1963).
    """
    total = int(rows.sum())
    logs = _log_factorials(total)
    blocks = _blocks(_sizes(rows), _sizes(columns), total)
    return float(sum(_terms(block, total, logs) for block in blocks) / np.log(2))


def _sizes(modules: Ints) -> tuple[Ints, Ints]:
    found, times = np.unique(modules, return_counts=True)
    return found, times


def _blocks(rows: tuple[Ints, Ints], columns: tuple[Ints, Ints], total: int) -> Iterator[_Block]:
    """Pairs of (sizes, how many modules have each) in blocks of about two million terms."""
    step = max(_AT_ONCE // (len(columns[0]) * 64), 1)
    for at in range(0, len(rows[0]), step):
        a, b = (one.ravel() for one in np.meshgrid(rows[0][at : at + step], columns[0], indexing="ij"))
        times = np.outer(rows[1][at : at + step], columns[1]).ravel().astype(np.float64)
        mean = a.astype(np.float64) * b / total
        low = np.maximum(np.floor(mean - np.sqrt(2 * _UNLIKELY * mean)), np.maximum(a + b - total, 1)).astype(np.int64)
        rise = (_UNLIKELY + np.sqrt(_UNLIKELY**2 + 8 * _UNLIKELY * mean)) / 2
        high = np.minimum(np.ceil(mean + rise).astype(np.int64), np.minimum(a, b))
        ends = np.cumsum(np.maximum(high - low + 1, 0))
        for cut in np.split(np.arange(len(a)), np.searchsorted(ends, np.arange(_AT_ONCE, ends[-1], _AT_ONCE))):
            if len(cut):
                yield _Block(a[cut], b[cut], times[cut], low[cut], high[cut])


def _terms(pairs: _Block, total: int, logs: Floats) -> float:
    """Sum of (n/N) log(N n / ab) P(n) over the overlaps n of each pair of sizes, in nats."""
    lengths = np.maximum(pairs.high - pairs.low + 1, 0)
    at = np.repeat(np.arange(len(lengths)), lengths)
    n = np.arange(len(at)) - np.repeat(np.cumsum(lengths) - lengths, lengths) + pairs.low[at]
    fixed = sum(logs[one] + logs[total - one] for one in (pairs.a, pairs.b)) - logs[total]
    a, b = pairs.a[at], pairs.b[at]
    chance = np.exp(fixed[at] - logs[n] - logs[a - n] - logs[b - n] - logs[total - a - b + n])
    return float((n / total * np.log(total / a * n / b) * chance * pairs.times[at]).sum())


def _log_factorials(most: int) -> Floats:
    """log(n!) for n from 0; long doubles keep 1.6M terms exact to the last digits of a double."""
    logs = np.log(np.maximum(np.arange(most + 1), 1).astype(np.longdouble))
    return np.cumsum(logs).astype(np.float64)


def _overlaps(a: Ints, b: Ints) -> tuple[Ints, Ints, Ints]:
    """(module of a, module of b, neurons of both) of every pair of modules that share a neuron."""
    width = int(b.max()) + 1
    pairs, shared = np.unique(a * width + b, return_counts=True)
    return pairs // width, pairs % width, shared


def _information(shared: Ints, rows: Ints, columns: Ints, total: int) -> float:
    return float((shared / total * np.log2(total / rows * shared / columns)).sum())


def _entropy(sizes: Ints, total: int) -> float:
    share = sizes[sizes > 0] / total
    return max(float(-(share * np.log2(share)).sum()), 0.0)


def _ratio(part: float, whole: float, *, equal: bool) -> float:
    """0/0 is 1 for equal clusterings (all in one module, or each alone) and 0 for others."""
    return (1.0 if equal else 0.0) if abs(whole) < 1e-12 else part / whole


def _pairs(shared: Ints, rows: Ints, columns: Ints) -> float:
    in_both, in_a, in_b = (float((one * (one - 1)).sum()) for one in (shared, rows, columns))
    either = in_a + in_b - in_both
    return in_both / either if either else 1.0


def _best_matches(row: Ints, column: Ints, shared: Ints, rows: Ints, columns: Ints) -> tuple[float, float]:
    likeness = shared / (rows[row] + columns[column] - shared)
    best_a, best_b = np.zeros(len(rows)), np.zeros(len(columns))
    np.maximum.at(best_a, row, likeness)
    np.maximum.at(best_b, column, likeness)
    return float(best_a @ rows / rows.sum()), float(best_b @ columns / columns.sum())
