"""How strongly edges differ, counted -> what sampling alone reaches: floors by count, and false discovery rates.

Edges are counted in cells: a test ("weight" of edges that both sides have, "rate" of those that one has), a stratum
(floor(log2 of the smaller count)) and a bin of |score|, a normal deviate. Two halves of the same graphs fill cells by
sampling alone, so a quantile of their |score| in a stratum is the floor of edges with as many observations; a score has
its observations in it already and needs no scaling. A difference of means has not: with n graphs on both sides it
has variance 2 s^2/n, between the halves of n graphs 4 s^2/n, so floors of |delta| are those of the halves times
sqrt((1/nA + 1/nB) / (1/n1 + 1/n2)), which is sqrt(1/2) for nA = nB = n, at counts that are as many times larger.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

STRATA = 32
BINS_PER_UNIT = 50  # of |score|: a floor is exact to 0.02
MOST_SCORE = 60
SCORE_BINS = MOST_SCORE * BINS_PER_UNIT + 1  # the last holds everything beyond
DELTA_STEPS = 16  # bins of |delta| for each factor of 2: 4.4 %
LEAST_DELTA = -60  # log2
DELTA_BINS = 80 * DELTA_STEPS
TESTS = ("weight", "rate")
Counts = NDArray[np.int64]
Floats = NDArray[np.float64]


def _counts(bins: int) -> Counts:
    return np.zeros((STRATA, bins), np.int64)


@dataclass(frozen=True)
class Levels:
    """Numbers of edges by test, stratum and bin [STRATA, SCORE_BINS], and by |delta| [STRATA, DELTA_BINS]."""

    scores: dict[str, Counts] = field(default_factory=lambda: {test: _counts(SCORE_BINS) for test in TESTS})
    deltas: Counts = field(default_factory=lambda: _counts(DELTA_BINS))

    def add(self, rows: Iterable[tuple[Any, ...]]) -> None:
        """Add rows (test or 'delta', stratum, bin, edges)."""
        for test, stratum, place, edges in rows:
            into = self.deltas if test == "delta" else self.scores[test]
            into[min(stratum, STRATA - 1), place] += edges

    @property
    def judged(self) -> int:
        """Edges that have a score."""
        return int(sum(one.sum() for one in self.scores.values()))


@dataclass(frozen=True)
class Floors:
    """What must be reached, by stratum [STRATA]; NaN where nothing says it."""

    weight: Floats
    rate: Floats
    delta: Floats

    def bound(self) -> dict[str, list[float | None]]:
        """Values for the parameters of diff_edges."""
        lists = {"weight_floors": self.weight, "rate_floors": self.rate, "delta_floors": self.delta}
        return {name: [None if math.isnan(x) else float(x) for x in one] for name, one in lists.items()}


@dataclass(frozen=True)
class Change:
    """How exposures (graphs) of a comparison and of the halves relate."""

    scale: float = 1.0  # of |delta|
    strata: int = 0  # by which the halves' counts are lower


def change_of(compared: tuple[float, float], halves: tuple[float, float]) -> Change:
    """Scale and shift of deltas from the graphs of both sides.

    >>> change_of((100, 100), (50, 50))
    Change(scale=0.7071067811865476, strata=1)
    """
    scale = math.sqrt((1 / compared[0] + 1 / compared[1]) / (1 / halves[0] + 1 / halves[1]))
    return Change(scale, max(0, round(math.log2(min(compared) / min(halves)))))


def floors_of_halves(noise: Levels, quantile: float, change: Change) -> Floors:
    """The quantile of the halves in every stratum, which takes in neighbours until it has 2 / (1 - quantile) edges."""
    found = {test: np.full(STRATA, np.nan) for test in TESTS}
    least = 2 / (1 - quantile)
    for test in TESTS:
        for stratum in range(STRATA):
            place = _quantile(window(noise.scores[test], stratum, least), quantile)
            found[test][stratum] = np.nan if place is None else place / BINS_PER_UNIT
    delta = np.full(STRATA, np.nan)
    for stratum in range(STRATA):
        place = _quantile(window(noise.deltas, max(0, stratum - change.strata), least), quantile)
        if place is not None:
            delta[stratum] = change.scale * 2.0 ** (place / DELTA_STEPS + LEAST_DELTA)
    return Floors(found["weight"], found["rate"], delta)


def normal_floors(levels: Levels, quantile: float, rate: float) -> Floors:
    """Floors without halves: the normal quantile, or where Benjamini and Hochberg put the false discovery rate."""
    least = math.ceil(NormalDist().inv_cdf((1 + quantile) / 2) * BINS_PER_UNIT)
    places = [place for _, _, place, q in false_discovery(levels, None, quantile) if q <= rate]
    floor = np.full(STRATA, max(min(places, default=_past(levels)), least) / BINS_PER_UNIT)
    return Floors(floor, floor.copy(), np.full(STRATA, np.nan))


def false_discovery(levels: Levels, noise: Levels | None, quantile: float) -> list[tuple[str, int, int, float]]:
    """(test, stratum, bin, q) of every cell with edges: Benjamini and Hochberg (1995) over all edges compared.

    p of a cell is the share of the halves' edges in its stratum at or beyond it, (1 + edges) / (1 + all), without
    halves that of the normal distribution, two-sided, at the lower edge of the bin.
    """
    places = {test: np.argwhere(levels.scores[test]) for test in TESTS}
    tails = {test: _tails(None if noise is None else noise.scores[test], quantile) for test in TESTS}
    p = np.concatenate([tails[test][tuple(places[test].T)] for test in TESTS])
    edges = np.concatenate([levels.scores[test][tuple(places[test].T)] for test in TESTS])
    values, at = np.unique(p, return_inverse=True)
    reached = np.bincount(at, weights=edges, minlength=len(values)).cumsum()  # edges of this p or a smaller one
    q = np.minimum.accumulate((values * edges.sum() / reached)[::-1])[::-1].clip(max=1.0)[at]
    named = [(test, int(stratum), int(place)) for test in TESTS for stratum, place in places[test]]
    return [(*cell, float(value)) for cell, value in zip(named, q, strict=True)]


def window(counts: Counts, stratum: int, least: float) -> Counts:
    """Counts of a stratum with as many neighbours on both sides as it takes to have `least` edges, else of all."""
    for reach in range(STRATA):
        held: Counts = counts[max(0, stratum - reach) : stratum + reach + 1].sum(axis=0)
        if held.sum() >= least:
            return held
    return counts.sum(axis=0)  # type: ignore[no-any-return]


def median_delta(counts: Counts) -> float | None:
    """The median of |delta| over all strata, to 4 %."""
    place = _quantile(counts.sum(axis=0), 0.5)
    if place is None or place <= 1:  # the first bin holds 0
        return place and 0.0
    return float(2.0 ** ((place - 0.5) / DELTA_STEPS + LEAST_DELTA))


def median_score(counts: Counts) -> float | None:
    """The median of |score| over all strata, to 0.02."""
    place = _quantile(counts.sum(axis=0), 0.5)
    return None if place is None else (place - 1) / BINS_PER_UNIT


def _quantile(counts: Counts, quantile: float) -> int | None:
    """The lowest bin at or beyond which at most 1 - quantile of the edges lie."""
    total = int(counts.sum())
    if not total:
        return None
    beyond = counts[::-1].cumsum()[::-1]
    few = np.flatnonzero(beyond <= (1 - quantile) * total * (1 + 1e-12))
    return int(few[0]) if len(few) else len(counts)


def _tails(noise: Counts | None, quantile: float) -> Floats:
    """P(|score| at or beyond a bin) by stratum [STRATA, SCORE_BINS]."""
    if noise is None:
        normal = [math.erfc(place / BINS_PER_UNIT / math.sqrt(2)) for place in range(SCORE_BINS)]
        return np.tile(np.array(normal), (STRATA, 1))
    held = [window(noise, stratum, 2 / (1 - quantile)) for stratum in range(STRATA)]
    return np.stack([(1 + one[::-1].cumsum()[::-1]) / (1 + one.sum()) for one in held])


def _past(levels: Levels) -> int:
    """A bin beyond every score there is."""
    return 1 + max(int(np.flatnonzero(one.any(axis=0)).max(initial=0)) for one in levels.scores.values())
