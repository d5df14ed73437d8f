"""Estimates of all neurons of a layer and exact values of some -> calibrated estimates, their error, critical neurons.

log kl = intercept + slope * log estimate, fitted to the measured neurons: the strongest and weakest by the estimate and
a random sample of the rest. The random ones are drawn from just those neurons that keep an estimate, so each of them,
left out of the fit in turn, shows the error of an estimate; interval limits are widened by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from atlas.errors import InputError
from atlas.measure.impact import SAFE, Impact, impacts

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

FLOOR = 1e-13  # nats: a KL below is rounding in float32, and has no logarithm to fit
FEWEST = 8  # measured random neurons: with fewer, the error is that of all measured ones
_SLOPES = (0.25, 2.0)  # of fits on trained models: 0.66 to 1.1


@dataclass(frozen=True)
class Sample:
    """Neurons of a layer to measure, ascending; `random` tells which of them were drawn from the middle."""

    neurons: IntArray
    random: npt.NDArray[np.bool_]


def choose(estimate: FloatArray, *, ends: int, middle: int, seed: int = 0) -> Sample:
    """Take the `ends` weakest and strongest neurons by the estimate [n], and `middle` random ones of the rest.

    Where that is more than there are, every neuron is taken. Raises InputError for numbers below 1.
    """
    if min(ends, middle) < 1:
        raise InputError(f"{ends} neurons at each end and {middle} random ones; measure at least one of each")
    order = np.lexsort((np.arange(len(estimate)), estimate))
    ends = min(ends, max((len(order) - 1) // 2, 0))
    rest = order[ends : len(order) - ends]
    drawn = np.random.default_rng(seed).permutation(rest)[:middle]
    taken = np.sort(np.concatenate([order[:ends], drawn, order[len(order) - ends :]]))
    return Sample(taken, np.isin(taken, drawn))


@dataclass(frozen=True)
class Calibration:
    """How estimates become KLs, and how well: errors are |log(kl / calibrated estimate)| of neurons left out.

    spearman and pearson_log compare the raw estimate with the measured KL of the random neurons; None with fewer than
    3 or where all are equal. low and high: 5th and 95th percentile of log(kl / calibrated), at most and at least 0.
    """

    intercept: float
    slope: float
    measured: int
    random: int
    spearman: float | None
    pearson_log: float | None
    error_median: float | None
    error_p95: float | None
    low: float
    high: float

    def apply(self, estimate: FloatArray) -> FloatArray:
        """KL in nats per token of raw estimates of any shape; 0 stays 0 and the order stays."""
        wide = np.maximum(estimate, 0.0)
        calibrated = np.exp(self.intercept + self.slope * np.log(np.maximum(wide, FLOOR)))
        return np.where(wide > FLOOR, calibrated, calibrated * (wide / FLOOR))


def calibrate(estimate: FloatArray, exact: FloatArray, random: npt.NDArray[np.bool_]) -> Calibration:
    """Fit measured neurons [m]: raw estimates, exact KLs, and which of them are the random ones.

    Without a neuron above FLOOR in both, estimates stay as they are and the errors are None.
    """
    usable = (estimate > FLOOR) & (exact > FLOOR)
    x, y = np.log(estimate[usable]), np.log(exact[usable])
    intercept, slope = _fit(x, y)
    errors = _left_out(x, y)
    told = random[usable] if random[usable].sum() >= FEWEST else np.ones(len(x), np.bool_)
    errors = errors[told] if len(x) > 2 else errors[:0]
    low, high = _tails(errors)
    return Calibration(
        intercept, slope, len(estimate), int(random.sum()),
        correlation(ranks(estimate[random]), ranks(exact[random])),
        correlation(x[random[usable]], y[random[usable]]),
        float(np.median(np.abs(errors))) if len(errors) else None,
        float(np.quantile(np.abs(errors), 0.95, method="higher")) if len(errors) else None,
        low, high,
    )  # fmt: skip


def widened(kl: FloatArray, limit: FloatArray, error: float) -> FloatArray:
    """Limits [n] of calibrated estimates `kl`, moved away from them by the calibration's error too.

    Distances in the logarithm are independent and so add as squares; `error` is Calibration.low or .high.
    """
    there = (kl > 0) & (limit > 0)
    away = np.log(np.where(there, limit, 1.0)) - np.log(np.where(there, kl, 1.0))
    sign = -1.0 if error < 0 else 1.0
    return np.where(there, kl * np.exp(sign * np.hypot(away, error)), limit)


def critical(kl: FloatArray, kl_low: FloatArray) -> npt.NDArray[np.bool_]:
    """Neurons above the 75th percentile of `kl` [n] whose lower limit is above the median."""
    return (kl > np.quantile(kl, 0.75)) & (kl_low > np.median(kl))


def correlation(x: FloatArray, y: FloatArray) -> float | None:
    """Pearson's correlation; None with fewer than 3 points, or where one side is constant."""
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return float(np.corrcoef(x, y)[0, 1])


def ranks(values: FloatArray) -> FloatArray:
    """Ranks from 0 in ascending order; equal values share their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    mean: FloatArray = ends - (counts + 1) / 2
    return mean[inverse]


def _fit(x: FloatArray, y: FloatArray) -> tuple[float, float]:
    """Least squares with a slope within _SLOPES; a shift alone with fewer than 3 points."""
    if not len(x):
        return 0.0, 1.0
    spread = float(((x - x.mean()) ** 2).sum())
    slope = 1.0
    if len(x) > 2 and spread > 0:
        slope = float(np.clip(((x - x.mean()) * (y - y.mean())).sum() / spread, *_SLOPES))
    return float(y.mean() - slope * x.mean()), slope


def _left_out(x: FloatArray, y: FloatArray) -> FloatArray:
    """log(kl / calibrated) of every point, from a fit without it."""
    errors = np.zeros(len(x))
    for i in range(len(x)):
        others = np.arange(len(x)) != i
        intercept, slope = _fit(x[others], y[others])
        errors[i] = y[i] - (intercept + slope * x[i])
    return errors


def _tails(errors: FloatArray) -> tuple[float, float]:
    if not len(errors):
        return 0.0, 0.0
    low = float(np.quantile(errors, 0.05, method="lower"))
    high = float(np.quantile(errors, 0.95, method="higher"))
    return min(low, 0.0), max(high, 0.0)


@dataclass(frozen=True)
class _Sums:
    """Estimates as the damages of single neurons, of which only the KL is known: [neurons, documents]."""

    kl: FloatArray
    tokens: IntArray

    @property
    def nll(self) -> FloatArray:
        return np.zeros_like(self.kl)

    flips = change = nll

    @property
    def max_change(self) -> FloatArray:
        return np.zeros(len(self.kl))

    kl_p99 = max_change


class EstimateSums(Protocol):
    """What is read of atlas.measure.sensitivity.Sensitivity."""

    @property
    def kl(self) -> FloatArray: ...  # noqa: D102
    @property
    def tokens(self) -> IntArray: ...  # noqa: D102


def estimated_impacts(
    sums: EstimateSums, fitted: Calibration, *, first: int, budget: float, seed: int = 0
) -> list[Impact]:
    """Impacts of all neurons of a layer from their estimates; `first` is the packed id of its neuron 0.

    Limits hold the spread over documents and the error of the calibration; None with one document or without a known
    error. There is no verdict on an estimate. What only a measurement tells (NLL, flips, change) is 0 here.
    """
    ids = [[first + i] for i in range(sums.kl.shape[1])]
    raw = impacts(_Sums(sums.kl.T, sums.tokens), ids, budget=budget, seed=seed)
    kl = fitted.apply(np.array([one.kl for one in raw]))
    low, high = _limits(raw, fitted, kl)
    return [
        replace(
            one, kl=float(kl[i]), kl_low=low[i], kl_high=high[i],
            impact_score=None if high[i] is None else SAFE * high[i] / budget, safe_to_prune=None,
            reason=f"an estimate; measure the neuron for a verdict{'' if one.reason is None else '; ' + one.reason}",
        )
        for i, one in enumerate(raw)
    ]  # fmt: skip


def _limits(raw: Sequence[Impact], fitted: Calibration, kl: FloatArray) -> tuple[list[Any], list[Any]]:
    if fitted.error_p95 is None or any(one.kl_high is None for one in raw):
        return [None] * len(raw), [None] * len(raw)
    low = fitted.apply(np.array([one.kl_low for one in raw], np.float64))
    high = fitted.apply(np.array([one.kl_high for one in raw], np.float64))
    return widened(kl, low, fitted.low).tolist(), widened(kl, high, fitted.high).tolist()
