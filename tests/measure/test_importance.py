"""Calibration of estimates on planted laws, and critical neurons, against plain numpy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from atlas.errors import InputError
from atlas.measure.importance import FEWEST, calibrate, choose, critical, widened

rng = np.random.default_rng


def planted(n: int, *, noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Raw estimates over six decades, and exact KLs = 3 * estimate^0.8 times noise."""
    draws = rng(seed)
    estimate = np.exp(draws.normal(-10, 2.5, n))
    return estimate, 3 * estimate**0.8 * np.exp(draws.normal(0, noise, n))


def test_the_law_is_found_and_the_order_kept() -> None:
    estimate, exact = planted(400, noise=0.2)
    sample = choose(estimate, ends=12, middle=40)
    fitted = calibrate(estimate[sample.neurons], exact[sample.neurons], sample.random)
    assert fitted.slope == pytest.approx(0.8, abs=0.04)
    assert np.exp(fitted.intercept) == pytest.approx(3, rel=0.4)
    found = fitted.apply(estimate)
    assert np.array_equal(np.argsort(found), np.argsort(estimate))
    rest = np.setdiff1d(np.arange(400), sample.neurons)
    assert np.median(np.abs(np.log(found[rest] / exact[rest]))) < 0.2


def test_estimates_follow_what_was_measured() -> None:
    """Fails when calibration ignores the measured values: the same estimates, ten times the damage."""
    estimate, exact = planted(300, noise=0.1)
    sample = choose(estimate, ends=9, middle=30)
    once, tenfold = (
        calibrate(estimate[sample.neurons], scale * exact[sample.neurons], sample.random) for scale in (1.0, 10.0)
    )
    assert tenfold.apply(estimate) == pytest.approx(10 * once.apply(estimate))
    assert tenfold.error_median == pytest.approx(once.error_median)
    assert not np.allclose(once.apply(estimate), estimate, rtol=0.5)


def test_the_told_error_is_that_of_the_neurons_that_keep_an_estimate() -> None:
    """Over 40 layers, 95% of the unmeasured neurons lie within error_p95, and half within error_median."""
    within = {"error_median": [], "error_p95": []}
    for seed in range(40):
        estimate, exact = planted(400, noise=0.5, seed=seed)
        sample = choose(estimate, ends=12, middle=40, seed=seed)
        fitted = calibrate(estimate[sample.neurons], exact[sample.neurons], sample.random)
        rest = np.setdiff1d(np.arange(400), sample.neurons)
        errors = np.abs(np.log(exact[rest] / fitted.apply(estimate[rest])))
        for name, shares in within.items():
            shares.append(np.mean(errors <= getattr(fitted, name)))
    assert np.mean(within["error_median"]) == pytest.approx(0.5, abs=0.05)
    assert np.mean(within["error_p95"]) == pytest.approx(0.955, abs=0.03)


def test_correlations_are_those_of_the_random_neurons() -> None:
    estimate, exact = planted(200, noise=1.0)
    sample = choose(estimate, ends=6, middle=25)
    e, x = estimate[sample.neurons][sample.random], exact[sample.neurons][sample.random]
    fitted = calibrate(estimate[sample.neurons], exact[sample.neurons], sample.random)
    assert fitted.spearman == pytest.approx(spearmanr(e, x)[0])
    assert fitted.pearson_log == pytest.approx(np.corrcoef(np.log(e), np.log(x))[0, 1])
    assert (fitted.measured, fitted.random) == (37, 25)


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(1, 20), st.integers(1, 40))
def test_a_sample_holds_both_ends_and_random_neurons_between(n: int, ends: int, middle: int) -> None:
    estimate = rng(n).random(n)
    sample = choose(estimate, ends=ends, middle=middle)
    assert len(set(sample.neurons.tolist())) == len(sample.neurons) == min(n, len(sample.neurons))
    if n > 2 * ends:
        order = np.argsort(estimate).tolist()
        assert set(order[:ends]) | set(order[-ends:]) == set(sample.neurons[~sample.random].tolist())
        assert sample.random.sum() == min(middle, n - 2 * ends)
    else:
        assert len(sample.neurons) == n or sample.random.sum() == middle


def test_equal_estimates_are_told_apart_by_their_number() -> None:
    sample = choose(np.zeros(10), ends=2, middle=1)
    assert {0, 1, 8, 9} < set(sample.neurons.tolist())


def test_dead_neurons_stay_at_nothing() -> None:
    estimate, exact = planted(60, noise=0.1)
    estimate[:10] = exact[:10] = 0.0
    fitted = calibrate(estimate, exact, np.ones(60, bool))
    assert fitted.slope == pytest.approx(0.8, abs=0.05)
    assert np.array_equal(fitted.apply(np.zeros(3)), np.zeros(3))
    assert np.isfinite(fitted.error_p95)


def test_few_or_constant_neurons_give_no_error_rather_than_a_wrong_one() -> None:
    nothing = calibrate(np.zeros(4), np.zeros(4), np.ones(4, bool))
    assert (nothing.slope, nothing.error_p95, nothing.spearman) == (1.0, None, None)
    assert nothing.apply(np.array([1e-3])) == pytest.approx([1e-3])
    two = calibrate(np.array([1e-3, 1e-2]), np.array([2e-3, 2e-2]), np.ones(2, bool))
    assert two.apply(np.array([5e-3])) == pytest.approx([1e-2])
    assert two.error_p95 is None
    few = calibrate(*planted(FEWEST, noise=0.3), np.arange(FEWEST) < 2)
    assert few.error_p95 is not None


def test_limits_hold_the_error_of_documents_and_of_the_estimate() -> None:
    kl = np.array([1e-3, 1e-3, 0.0])
    high = widened(kl, np.array([1e-3, 2e-3, 0.0]), np.log(3))
    assert high == pytest.approx([3e-3, 1e-3 * np.exp(np.hypot(np.log(2), np.log(3))), 0.0])
    low = widened(kl, np.array([1e-3, 5e-4, 0.0]), -np.log(3))
    assert low == pytest.approx([1e-3 / 3, 1e-3 * np.exp(-np.hypot(np.log(2), np.log(3))), 0.0])


def test_critical_neurons_stand_out_of_their_layer() -> None:
    kl = np.arange(1.0, 101.0)
    low = kl / 2
    assert not critical(kl, low).any()  # every lower limit is at most the median, 50.5
    low = kl - 10
    assert np.flatnonzero(critical(kl, low)).tolist() == list(range(75, 100))
    low[90:] = 50.5
    assert np.flatnonzero(critical(kl, low)).tolist() == list(range(75, 90))


def test_an_empty_sample_is_refused() -> None:
    with pytest.raises(InputError, match="measure at least one of each"):
        choose(np.ones(5), ends=0, middle=3)
