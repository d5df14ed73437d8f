"""Compiled loops against plain numpy and against torch's operations, on seeded arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from atlas.errors import ModelError
from atlas.measure import kernels
from atlas.measure.accumulators import Tally
from atlas.measure.calibration import Calibration
from atlas.measure.exemplars import Candidates, Exemplars, neuron_seed
from atlas.measure.kernels import BINS, Chosen, Fired, Found, Places, Sides, Summed

ROWS, WIDTH = 131, kernels.BLOCK + 37  # an odd number of rows, more than a block of neurons


def activations(dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    values = np.random.default_rng(seed).standard_t(3, size=(ROWS, WIDTH))
    values[5, 3] = -0.0
    values[7] = calibration().hist_lo  # lower ends belong to the first bin
    return torch.from_numpy(values).to(dtype)


def calibration() -> Calibration:
    low = np.linspace(-4, -1, WIDTH, dtype=np.float32)[None]
    none = np.zeros_like(low)
    return Calibration(low, -low, none, none, none[..., None])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_compiled_and_torch_tallies_agree(dtype: torch.dtype) -> None:
    tallies = [Tally(calibration(), torch.device("cpu"), compiled=compiled) for compiled in (True, False)]
    low, high = np.full(WIDTH, -2.0, np.float32), np.linspace(1, 3, WIDTH, dtype=np.float32)
    for seed in (0, 1):
        values = activations(dtype, seed)
        (mine, plain) = (tally.add(0, values, low, high) for tally in tallies)
        scale = torch.stack([values.double().abs().pow(p).sum(0) for p in (1, 2, 3, 4, 1)])
        bound = 1e-14 if dtype == torch.float64 else 1e-6
        assert bool(((mine.sums - plain.sums).abs() <= bound * scale).all())
        assert sorted(zip(*(c.tolist() for c in mine.found), strict=True)) == list(
            zip(*(c.tolist() for c in plain.found), strict=True)
        )
    for name in ("n_active", "low", "high", "hist"):
        assert torch.equal(*(getattr(tally, name) for tally in tallies)), name


def test_histogram_and_search_equal_numpy() -> None:
    values, ranges = activations().numpy(), calibration()
    tally = Tally(ranges, torch.device("cpu"))
    dense = tally.add(0, torch.from_numpy(values), np.full(WIDTH, -2, np.float32), np.full(WIDTH, 2, np.float32))
    low, high = ranges.hist_lo[0], ranges.hist_hi[0]
    for j in range(WIDTH):
        bins = np.floor((values[:, j] - low[j]) * (np.float32(BINS - 2) / (high[j] - low[j])))
        expected = np.bincount(np.clip(bins, -1, BINS - 2).astype(int) + 1, minlength=BINS)
        assert tally.hist[0].view(WIDTH, BINS)[j].tolist() == expected.tolist()
    row, neuron = np.nonzero(np.abs(values) >= 2)
    found = sorted(zip(dense.found.row.tolist(), dense.found.neuron.tolist(), strict=True))
    assert found == list(zip(row.tolist(), neuron.tolist(), strict=True))
    assert np.array_equal(dense.found.value, values[dense.found.row, dense.found.neuron])


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(bad: float, compiled: bool) -> None:
    values = activations()
    values[ROWS - 1, WIDTH - 1] = bad
    bars = np.full(WIDTH, -2, np.float32), np.full(WIDTH, 2, np.float32)
    with pytest.raises(ModelError, match="layer 0"):
        Tally(calibration(), torch.device("cpu"), compiled=compiled).add(0, values, *bars)


def test_choices_equal_a_loop_in_python() -> None:
    rng, n, sides_n, vocab = np.random.default_rng(2), 3000, 40, 11
    found = Found(
        rng.integers(0, 50, n).astype(np.int32), rng.integers(0, sides_n // 2, n).astype(np.int32),
        rng.normal(size=n).astype(np.float32),
    )  # fmt: skip
    fires, kept = (rng.uniform(0.3, 1.5, sides_n).astype(np.float32) for _ in range(2))
    edges = np.sort(rng.uniform(1, 3, (sides_n, 2)).astype(np.float32), axis=1)
    limits = rng.integers(0, 2**32, (sides_n, 5)).astype(np.uint64)
    seeds, hashes = neuron_seed(np.arange(sides_n) >> 1), rng.integers(0, 2**63, 50).astype(np.uint64)
    token = rng.integers(0, vocab, 50)
    fired = Fired(np.empty(n, np.uint32), np.empty(n, np.float32))
    chosen = room(2 * n)
    counts = kernels.choose_strong(
        found, Places(hashes, token, vocab), Sides(fires, kept, seeds, limits, edges), fired, chosen
    )
    firings: list[Any] = []
    expected: list[Any] = []
    for row, neuron, value in zip(*(c.tolist() for c in found), strict=True):
        side, strength = 2 * neuron + (value < 0), np.float32(abs(value))
        if strength >= kept[side]:
            expected.append((row, side, 0, 2**32 - int(strength.view(np.uint32)), value))
        if strength >= fires[side]:
            firings.append((side * vocab + token[row], value))
            stratum = 2 + int((strength > edges[side]).sum())
            order = mix(int(hashes[row]) + int(seeds[side])) >> 32
            if order <= limits[side, stratum]:
                expected.append((row, side, stratum, order, value))
    assert counts == (len(firings), len(expected))
    assert list(zip(*(c[: counts[0]].tolist() for c in fired), strict=True)) == firings
    assert list(zip(*(c[: counts[1]].tolist() for c in chosen), strict=True)) == expected


def room(n: int) -> Chosen:
    row, side, stratum = (np.empty(n, np.int32) for _ in range(3))
    return Chosen(row, side, stratum, np.empty(n, np.uint64), np.empty(n, np.float32))


def mix(x: int) -> int:
    word = (1 << 64) - 1
    x &= word
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & word
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & word
    return x ^ (x >> 31)


def test_lists_keep_the_best_in_any_order_of_arrival() -> None:
    rng, n, neurons = np.random.default_rng(4), 4000, 6
    group, order = rng.integers(0, neurons * 2 * 3, n), rng.integers(0, 40, n).astype(np.uint64)  # many ties
    context, position = np.divmod(rng.permutation(n), 50)
    value = rng.normal(size=n).astype(np.float32)
    shown = value[:, None] + np.arange(-1, 2, dtype=np.float32)
    expected = []
    for to in range(neurons * 6):
        rows = sorted((int(order[i]), int(context[i]), int(position[i]), i) for i in np.flatnonzero(group == to))
        expected += [(to, *row) for row in rows[: 7 if to % 3 == 0 else 2]]
    for turn in range(3):
        lists = Exemplars(neurons, top=7, strata=2, per_stratum=2, window=1)
        for part in np.array_split(rng.permutation(n), 1 + 5 * turn):
            best = part
            if turn:
                found = [group[part], order[part], context[part], position[part]]
                best = part[lists.best(0, neurons * 6, *found)]
            lists.add([Candidates(*(x[best] for x in (group, order, context, position, position, value, shown)))])
        kept = lists.part(0, neurons * 6)
        assert list(zip(kept.group, kept.order, kept.context_id, kept.position, strict=True)) == [
            row[:4] for row in expected
        ]
        assert np.array_equal(kept.value, value[[row[4] for row in expected]])
        assert np.array_equal(kept.window, shown[[row[4] for row in expected]])
        assert np.array_equal(lists.contexts(), np.unique(kept.context_id))


@pytest.mark.parametrize("bits", [3, 20, 33])
def test_sort_sum_and_join_equal_numpy(bits: int) -> None:
    rng = np.random.default_rng(bits)
    parts, every = [], []
    for n in (0, 1, 5000):
        key, value = rng.integers(0, 1 << bits, n, dtype=np.uint64), rng.normal(size=n).astype(np.float32)
        every.append((key, value))
        by = np.argsort(key, kind="stable")
        ordered = kernels.sort_pairs(key.copy(), value.copy(), bits)
        assert np.array_equal(ordered[0], key[by]) and np.array_equal(ordered[1], value[by])
        into = sums(n)
        parts.append(kernels.first_of(into, kernels.sum_sorted(*ordered, into)))
    total = parts[0]
    for part in parts[1:]:
        into = sums(len(total.key) + len(part.key))
        total = kernels.first_of(into, kernels.join(total, part, into))
    key, value = (np.concatenate(columns) for columns in zip(*every, strict=True))
    assert total.key.tolist() == np.unique(key).tolist()
    for row, k in enumerate(total.key[:200].tolist()):
        hit = value[key == k]
        assert (total.n[row], total.high[row], total.low[row]) == (len(hit), hit.max(), hit.min())
        assert total.sum[row] == pytest.approx(hit.astype(np.float64).sum(), rel=1e-12, abs=1e-12)


def test_packed_firings_come_back() -> None:
    rng = np.random.default_rng(6)
    key, value = rng.integers(0, 1 << 32, 999, dtype=np.uint32), rng.normal(size=999).astype(np.float32)
    packed = kernels.pack(key, value)
    again = np.empty_like(key), np.empty_like(value)
    kernels.unpack(packed, *again)
    assert np.array_equal(again[0], key) and np.array_equal(again[1], value)


def test_thinning_keeps_the_largest_sums_of_every_side() -> None:
    vocab, room_, dropped = 10, 3, np.zeros(4, np.int64)
    key = np.array([0, 1, 2, 3, 4, 12, 13, 30, 31, 32, 33])
    total = np.array([1.0, -9, 2, 2, 2, 5, 6, 1, 1, 1, 1])
    run = Summed(key, np.arange(1, 12), total, total.astype(np.float32), total.astype(np.float32))
    kept = kernels.first_of(run, kernels.thin(run, vocab, room_, dropped))
    assert kept.key.tolist() == [1, 2, 3, 12, 13, 30, 31, 32]  # ties by key
    assert kept.n.tolist() == [2, 3, 4, 6, 7, 8, 9, 10]
    assert dropped.tolist() == [1 + 5, 0, 0, 11]


def sums(n: int) -> Summed:
    single = (np.empty(n, np.float32) for _ in range(2))
    return Summed(np.empty(n, np.int64), np.empty(n, np.int64), np.empty(n), *single)
