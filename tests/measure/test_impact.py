"""Bootstrap limits and verdicts against hand-computed ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from atlas.errors import InputError
from atlas.measure.ablation import Damages
from atlas.measure.impact import Evaluation, corpus_hash, eval_id, impact_rows, impacts, judged, set_id
from atlas.tables import TABLES

EVALUATION = Evaluation("m", "0" * 16, "float32", "c", 12000, 128, "zero")


def damages(kl: list[list[float]], tokens: list[int]) -> Damages:
    """`kl` are means by set and document."""
    sums = np.array(kl) * np.array(tokens)
    count = len(kl)
    return Damages(sums, 2 * sums, 0 * sums + 1, 0 * sums + 3, np.array(tokens), np.full(count, 0.5), np.ones(count))


def test_two_documents_by_hand() -> None:
    """Drawn twice: the first (1/4), both (1/2), the second (1/4); the 5th and 95th percentile are the documents."""
    (found,) = impacts(damages([[0.001, 0.004]], [9000, 3000]), [[7, 3, 7]])
    assert found.neurons == (3, 7) and (found.tokens, found.documents) == (12000, 2)
    assert found.kl == pytest.approx((9000 * 0.001 + 3000 * 0.004) / 12000)
    assert (found.kl_low, found.kl_high) == pytest.approx((0.001, 0.004))
    assert (found.delta_nll_low, found.delta_nll_high) == pytest.approx((0.002, 0.008))
    assert found.impact_score == pytest.approx(0.1 * 0.004 / 0.01) and found.safe_to_prune is True
    assert found.top1_flip_rate == pytest.approx(2 / 12000) and found.mean_change == pytest.approx(6 / 12000)
    assert found.reason is None and found.max_change == 0.5


def test_limits_are_percentiles_of_drawn_documents() -> None:
    dice = np.random.default_rng(1)
    tokens, kl = dice.integers(50, 500, 30), dice.gamma(0.5, 0.01, 30)
    (found,) = impacts(damages([kl.tolist()], tokens.tolist()), [[0]])
    means = []
    for _ in range(4000):
        drawn = dice.choice(30, 30)
        means.append((kl[drawn] * tokens[drawn]).sum() / tokens[drawn].sum())
    assert found.kl_low == pytest.approx(np.quantile(means, 0.05), rel=0.05)
    assert found.kl_high == pytest.approx(np.quantile(means, 0.95), rel=0.05)
    assert impacts(damages([kl.tolist()], tokens.tolist()), [[0]]) == [found]
    assert impacts(damages([kl.tolist()], tokens.tolist()), [[0]], seed=1) != [found]


def test_many_sets_share_the_draws() -> None:
    dice = np.random.default_rng(2)
    kl = dice.gamma(1.0, 0.01, (2500, 4)).tolist()  # more than are resampled at once
    every = impacts(damages(kl, [100] * 4), [[i] for i in range(2500)])
    assert every[-1] == impacts(damages(kl[-1:], [100] * 4), [[2499]])[0]


def test_a_verdict_needs_documents_and_tokens() -> None:
    (one,) = impacts(damages([[0.001]], [20000]), [[0]])
    assert (one.impact_score, one.kl_high, one.safe_to_prune) == (None, None, None) and one.kl == pytest.approx(0.001)
    assert one.reason == "one document: an interval over documents is impossible; give at least two"
    (few,) = impacts(damages([[0.001, 0.001]], [5000, 4999]), [[0]])
    assert few.safe_to_prune is None and few.reason == "9,999 held-out tokens, a verdict needs 10,000"
    (harmful,) = impacts(damages([[0.02, 0.03]], [5000, 5000]), [[0]])
    assert harmful.safe_to_prune is False and harmful.impact_score == pytest.approx(0.3)


def test_a_neuron_in_a_batch_is_judged_by_its_part() -> None:
    given = damages([[0.001, 0.002]] * 3, [6000, 6000]), [[0], [1], [2]]
    assert [found.safe_to_prune for found in impacts(*given)] == [True] * 3
    found = impacts(*given, members=[1, 10, 4])
    assert [one.budget for one in found] == [0.01, 0.001, 0.0025]
    assert [one.safe_to_prune for one in found] == [True, False, True]
    assert impacts(*given, members=10)[0] == judged(impacts(*given)[0], 0.001)
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="budget is"):
            impacts(*given, budget=wrong)


def test_an_evaluation_is_all_that_its_numbers_depend_on() -> None:
    ids = {eval_id(EVALUATION)}
    for name, value in {"model": "n", "revision": "1" * 16, "dtype": "float64", "corpus": "d", "tokens": 1,
                        "context_length": 2, "ablation": "mean:0"}.items():  # fmt: skip
        ids.add(eval_id(replace(EVALUATION, **{name: value})))
    assert len(ids) == 8
    assert corpus_hash(["a", "b"]) == corpus_hash(["b", "a"]) != corpus_hash(["a"])
    assert set_id("e", [2, 1]) == set_id("e", [1, 2]) != set_id("f", [1, 2])


def test_rows_are_of_the_table() -> None:
    found = impacts(damages([[0.001, 0.002]] * 2, [6000, 6000]), [[13], [5, 13]])
    alone, both = impact_rows(found, EVALUATION, d_mlp=10, created="2026-01-01")
    assert set(alone) <= set(TABLES["impacts"].names)
    assert (alone["layer"], alone["neuron"], alone["neurons"]) == (1, 3, [13])
    assert (both["layer"], both["neuron"], both["n_neurons"]) == (None, None, 2)
    assert alone["eval_id"] == eval_id(EVALUATION) and alone["evidence"] == "measured"
