"""The activation pass against brute force: plain transformers, one context at a time, numpy sorts."""

from __future__ import annotations

import dataclasses
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import brute_force
import numpy as np
import pytest
import torch
from brute_force import Everything
from tiny_models import FAMILIES, shared_model

from atlas.errors import InputError, ModelError
from atlas.measure.activations import ActivationOptions, _rounded, measure
from atlas.measure.corpus import Corpus, read_corpus
from atlas.measure.exemplars import WEAK_SHARE
from atlas.models.adapter import Adapter, load_model
from atlas.progress import Quiet
from atlas.shards import Shard
from atlas.tables import HIST_BINS

# every token calibrates, so quantiles can be recomputed; several blocks and batches, fewer kept than there are
OPTIONS = ActivationOptions(
    context_length=brute_force.LENGTH, batch_tokens=64, top=7, strata=4, per_stratum=3, window=2, fire_quantile=0.8,
    calibration_tokens=10**6, block_documents=8,
)  # fmt: skip


SAME = 1e-12  # relative; float64 in another order


def measured(adapter: Adapter, corpus: Corpus, root: Path, **changes: Any) -> dict[str, Any]:
    workers, of = changes.pop("workers", 1), changes.pop("of", 1)
    options = dataclasses.replace(OPTIONS, **changes)
    for index in range(of):
        measure(adapter, corpus, root, shard=Shard("f", index, of), options=options, progress=Quiet(), workers=workers)
    return brute_force.read(root)


@pytest.fixture(scope="module", params=list(FAMILIES))
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Everything, dict[str, Any]]:
    adapter, corpus = brute_force.model(request.param), brute_force.corpus()
    return brute_force.look(adapter, corpus), measured(adapter, corpus, tmp_path_factory.mktemp("shards"))


def by_neuron(table: Any) -> dict[tuple[int, int], list[dict[str, Any]]]:
    found: dict[tuple[int, int], list[dict[str, Any]]] = {}
    for row in table.to_pylist():
        found.setdefault((row["layer"], row["neuron"]), []).append(row)
    return found


def test_strongest_exemplars_equal_a_sort(case: tuple[Everything, dict[str, Any]]) -> None:
    every, tables = case
    single = every.a.astype(np.float32)
    ties = 0
    for (layer, neuron), rows in by_neuron(tables["exemplars"]).items():
        a = single[:, layer, neuron]
        for sign in (1, -1):
            order = sorted(
                (-sign * float(v), int(c), int(p))
                for v, c, p in zip(a, every.context_id, every.position, strict=True)
                if sign * v > 0
            )
            found = [row for row in rows if row["polarity"] == sign and row["stratum"] == 0]
            assert [row["rank"] for row in found] == list(range(min(7, len(order))))
            assert [(-sign * r["activation"], r["context_id"], r["position"]) for r in found] == order[:7]
            ties += sum(x[0] == y[0] for x, y in pairwise(order[:8]))
    assert ties > 0, "the corpus repeats a document so that ties are tested"


def test_samples_lie_in_their_strata_and_are_the_smallest_priorities(case: tuple[Everything, dict[str, Any]]) -> None:
    every, tables = case
    stats = by_neuron(tables["neuron_stats"])
    seen = set()
    for (layer, neuron), rows in by_neuron(tables["exemplars"]).items():
        a, fire = every.a[:, layer, neuron].astype(np.float32), stats[layer, neuron][0]
        for sign, bar in ((1, fire["fire_pos"]), (-1, -fire["fire_neg"])):
            strength = sign * a
            cuts = np.sort(strength)[np.floor((0.8 + 0.2 * np.arange(3) / 3) * (len(a) - 1)).astype(int)]
            assert bar == (cuts[0] if cuts[0] > 0 else np.inf)
            bounds = [0, bar, *(cuts[1:] if np.isfinite(bar) else [np.inf] * 2), np.inf]
            for stratum in range(1, 5):
                found = [r for r in rows if r["polarity"] == sign and r["stratum"] == stratum]
                pool = [
                    (hashed(layer * 14 + neuron, int(c), int(p)), int(c), int(p))
                    for v, c, p in zip(strength, every.context_id, every.position, strict=True)
                    if bounds[stratum - 1] < v <= bounds[stratum] and (stratum > 1 or weak(int(c), int(p)))
                ]
                assert [(r["priority"], r["context_id"], r["position"]) for r in found] == sorted(pool)[:3]
                seen |= {stratum} if found else set()
    assert seen == {1, 2, 3, 4}


def mix(x: int) -> int:
    word = (1 << 64) - 1
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & word
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & word
    return x ^ (x >> 31)


def hashed(neuron: int, context_id: int, position: int) -> int:
    word = (1 << 64) - 1
    return mix((mix(mix(context_id) + position & word) + neuron * 0x9E3779B97F4A7C15) & word) >> 32


def weak(context_id: int, position: int) -> bool:
    return mix(mix(context_id) + position & (1 << 64) - 1) % WEAK_SHARE == 0


def test_windows_and_contexts_are_those_of_the_lone_document(case: tuple[Everything, dict[str, Any]]) -> None:
    every, tables = case
    contexts = {row["context_id"]: row for row in tables["contexts"].to_pylist()}
    assert set(contexts) == set(tables["exemplars"]["context_id"].to_pylist())
    for key, row in contexts.items():
        assert row["token_ids"] == every.tokens[key]
        assert (row["document"], row["offset"]) == (key >> 20, (key & 0xFFFFF) * (brute_force.LENGTH - 1))
    for row in tables["exemplars"].to_pylist():
        whole = every.whole[row["context_id"]][:, row["layer"], row["neuron"]]
        start = max(row["position"] - 2, 0)
        assert row["window_start"] == start
        np.testing.assert_allclose(row["window"], whole[start : row["position"] + 3], rtol=1e-6, atol=1e-12)
        assert row["window"][row["position"] - start] == row["activation"]


def test_statistics_equal_brute_force(case: tuple[Everything, dict[str, Any]]) -> None:
    every, tables = case
    for (layer, neuron), (row,) in by_neuron(tables["neuron_stats"]).items():
        wide = every.a[:, layer, neuron]
        a = wide.astype(np.float32)
        assert row["n_tokens"] == len(a)
        for power in range(1, 5):
            bound = 1e-12 * np.sum(np.abs(wide) ** power)
            assert abs(row[f"s{power}"] - np.sum(wide**power)) <= bound
        assert row["abs_sum"] == pytest.approx(np.sum(np.abs(wide)), rel=1e-12)
        assert (row["min"], row["max"]) == (a.min(), a.max())
        # a saturated GELU is 0 or 1e-17, as the length of the row vectorises
        assert (a > 1e-12).sum() <= row["n_active"] <= (a > -1e-12).sum()
        assert row["n_fired_pos"] == (a > row["fire_pos"]).sum()
        assert row["n_fired_neg"] == (a < row["fire_neg"]).sum()
        low, high = np.float32(row["hist_lo"]), np.float32(row["hist_hi"])
        assert low == a.min() - (a.max() - a.min()) / 4
        assert high == a.max() + (a.max() - a.min()) / 4
        bins = np.floor((a - low) * (np.float32(HIST_BINS) / (high - low))).astype(int)
        assert row["hist"] == np.bincount(bins + 1, minlength=HIST_BINS + 2).tolist()
        for name, expected in (("calib_gate", every.gate), ("calib_up", every.up), ("calib_out", every.out)):
            single = expected[:, layer, neuron]
            if np.isnan(single).any():
                assert row[name] is None
            else:
                assert abs(row[name] - single.sum()) <= SAME * np.abs(single).sum()


def test_token_statistics_equal_brute_force(case: tuple[Everything, dict[str, Any]]) -> None:
    every, tables = case
    stats, expected = by_neuron(tables["neuron_stats"]), []
    for (layer, neuron), (row,) in stats.items():
        a = every.a[:, layer, neuron].astype(np.float32)
        for sign, fired in ((1, a > row["fire_pos"]), (-1, a < row["fire_neg"])):
            for token in sorted(set(every.token[fired].tolist())):
                hit = a[fired & (every.token == token)].astype(np.float64)
                expected.append((layer, neuron, -sign, token, len(hit), hit.sum(), hit.max(), hit.min()))
    found = [
        (r["layer"], r["neuron"], -r["polarity"], r["token_id"], r["n"], r["sum"], r["max"], r["min"])
        for r in tables["token_stats"].to_pylist()
    ]
    assert [f[:5] for f in found] == [e[:5] for e in sorted(expected)]
    np.testing.assert_allclose([f[5:] for f in found], [e[5:] for e in sorted(expected)], rtol=1e-12)
    counts = {r["token_id"]: r["n"] for r in tables["token_counts"].to_pylist()}
    assert counts == {int(t): int((every.token == t).sum()) for t in np.unique(every.token)}


def test_marker_counts_everything(tmp_path: Path) -> None:
    adapter, corpus = brute_force.model("llama"), brute_force.corpus()
    every = brute_force.look(adapter, corpus)
    measured(adapter, corpus, tmp_path)
    facts = json.loads(next(tmp_path.glob("shard-*/_DONE.json")).read_text())["facts"]
    assert facts == {
        "documents": 40,
        "documents_empty": sum(not text for text in corpus.documents),
        "contexts": len(every.tokens),
        "tokens": sum(map(len, every.tokens.values())),
        "excluded_positions": every.excluded,
        "token_firings_dropped": 0,
    }
    assert facts["documents_empty"] > 0


def test_bos_positions_count_when_asked(tmp_path: Path) -> None:
    adapter, corpus = brute_force.model("llama"), brute_force.corpus()
    tables = measured(adapter, corpus, tmp_path, skip_bos=False)
    every = brute_force.look(adapter, corpus)
    assert set(tables["neuron_stats"]["n_tokens"].to_pylist()) == {sum(map(len, every.tokens.values()))}
    assert 1 in tables["token_counts"]["token_id"].to_pylist()


def test_first_positions_are_left_out_without_bos_too(tmp_path: Path) -> None:
    plain = brute_force.Words()
    plain.bos_token_id = None  # type: ignore[assignment]
    adapter = dataclasses.replace(brute_force.model("gpt2", torch.float32), tokenizer=plain, bos_token_id=None)
    corpus = brute_force.corpus()
    tables = measured(adapter, corpus, tmp_path)
    counts = [len(text.split()) for text in corpus.documents]
    expected = sum(count - -(-count // brute_force.LENGTH) for count in counts)
    assert set(tables["neuron_stats"]["n_tokens"].to_pylist()) == {expected}
    assert 0 not in tables["exemplars"]["position"].to_pylist()


def test_values_beyond_the_calibrated_range_are_counted_in_the_outer_bins(tmp_path: Path) -> None:
    adapter, corpus = brute_force.model("llama", torch.float32), brute_force.corpus()
    every = brute_force.look(adapter, corpus)
    outside = [0, 0]
    for (layer, neuron), (row,) in by_neuron(
        measured(adapter, corpus, tmp_path, calibration_tokens=20)["neuron_stats"]
    ).items():
        a = every.a[:, layer, neuron]
        low, high = row["hist"][0], row["hist"][-1]
        assert (low, high) == ((a < row["hist_lo"]).sum(), (a >= row["hist_hi"]).sum())
        assert sum(row["hist"]) == len(a)
        outside = [outside[0] + low, outside[1] + high]
    assert min(outside) > 0


@pytest.mark.parametrize("of", [2, 3, 5, 9])
def test_shards_merge_to_one_run(tmp_path: Path, of: int) -> None:
    adapter, corpus = brute_force.model("llama", torch.float32), brute_force.corpus()
    options = {"calibration_tokens": 100}
    one = measured(adapter, corpus, tmp_path / "one", **options)
    many = measured(adapter, corpus, tmp_path / "many", of=of, **options)
    compare_statistics(one["neuron_stats"], many["neuron_stats"])
    assert merged_exemplars(many["exemplars"]) == merged_exemplars(one["exemplars"])
    assert len(merged_exemplars(one["exemplars"])) == one["exemplars"].num_rows
    keys = ["layer", "polarity", "neuron", "token_id"]
    sums = many["token_stats"].group_by(keys).aggregate([("n", "sum"), ("sum", "sum"), ("max", "max"), ("min", "min")])
    left, right = (t.sort_by([(k, "ascending") for k in keys]) for t in (sums, one["token_stats"]))
    for name, merged in (("n", "n_sum"), ("max", "max_max"), ("min", "min_min")):
        assert left[merged].to_pylist() == right[name].to_pylist()
    np.testing.assert_allclose(left["sum_sum"].to_numpy(), right["sum"].to_numpy(), rtol=1e-12)


def compare_statistics(one: Any, many: Any) -> None:
    rows = by_neuron(many)
    for key, (expected,) in by_neuron(one).items():
        parts = rows[key]
        for name in ("n_tokens", "n_active", "n_fired_pos", "n_fired_neg"):
            assert sum(p[name] for p in parts) == expected[name]
        assert np.sum([p["hist"] for p in parts], axis=0).tolist() == expected["hist"]
        assert min(p["min"] for p in parts if p["min"] is not None) == expected["min"]
        assert max(p["max"] for p in parts if p["max"] is not None) == expected["max"]
        for name in ("fire_pos", "fire_neg", "hist_lo", "hist_hi"):
            assert {p[name] for p in parts} == {expected[name]}
        for name in ("s1", "s2", "s3", "s4", "abs_sum", "calib_gate", "calib_up"):
            scale = max(abs(expected[name]), expected["abs_sum"])
            assert abs(sum(p[name] for p in parts) - expected[name]) <= 1e-12 * scale


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_sums_of_shards_are_equal_bit_for_bit(tmp_path: Path, kind: str) -> None:
    adapter, corpus = brute_force.model(kind, torch.float32), brute_force.corpus(120)
    options = {"batch_tokens": 4096, "block_documents": 20}  # batches of several pieces: their sums are no float32
    one, many = (measured(adapter, corpus, tmp_path / str(of), of=of, **options)["neuron_stats"] for of in (1, 3))
    rows = by_neuron(many)
    for key_, (expected,) in by_neuron(one).items():
        assert len(rows[key_]) == 3
        for name in ("s1", "s2", "s3", "s4", "abs_sum", "calib_gate", "calib_up", "calib_out"):
            if expected[name] is not None:
                assert sum(part[name] for part in rows[key_]) == expected[name], name


def test_what_a_batch_adds_is_rounded_to_float32_so_that_order_does_not_matter() -> None:
    sums = torch.from_numpy(np.random.default_rng(0).normal(1, 0.3, size=(1000, 50)))
    exact, rounded = sums.numpy(), _rounded(sums, torch.bfloat16).numpy()
    assert np.array_equal(rounded, exact.astype(np.float32))
    forth, back = (sum(part.sum(axis=0) for part in np.array_split(rounded[::step], 7)) for step in (1, -1))
    assert np.array_equal(forth, back)
    assert not np.array_equal(exact.sum(axis=0), exact[::-1].sum(axis=0))
    assert torch.equal(_rounded(sums, torch.float64), sums)


def merged_exemplars(table: Any) -> list[tuple[Any, ...]]:
    lists: dict[tuple[int, ...], list[tuple[Any, ...]]] = {}
    for r in table.to_pylist():
        key = r["layer"], r["neuron"], r["polarity"], r["stratum"]
        first = -r["polarity"] * r["activation"] if r["stratum"] == 0 else r["priority"]
        lists.setdefault(key, []).append((first, r["context_id"], r["position"], r["activation"], tuple(r["window"])))
    return [(key, row) for key in sorted(lists) for row in sorted(lists[key])[: 7 if key[3] == 0 else 3]]


def test_workers_change_no_byte(tmp_path: Path) -> None:
    adapter, corpus = brute_force.model("gpt2", torch.float32), brute_force.corpus(120)
    threads = torch.get_num_threads()
    files = []
    for workers in (1, 2, 3):
        measured(adapter, corpus, tmp_path / str(workers), workers=workers)
        files.append({p.name: p.read_bytes() for p in (tmp_path / str(workers)).glob("*/*")})
    assert files[0] == files[1] == files[2]
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("changes", [{"batch_tokens": 12}, {"batch_tokens": 4096}, {"block_documents": 3}])
def test_batch_size_changes_no_answer(tmp_path: Path, changes: dict[str, int]) -> None:
    adapter, corpus = brute_force.model("llama"), brute_force.corpus()
    one, other = measured(adapter, corpus, tmp_path / "a"), measured(adapter, corpus, tmp_path / "b", **changes)
    assert one["token_counts"].equals(other["token_counts"])
    for name in ("exemplars", "contexts", "token_stats", "neuron_stats"):
        assert one[name].num_rows == other[name].num_rows
        for column in one[name].schema.names:
            left, right = one[name][column].to_pylist(), other[name][column].to_pylist()
            if column in ("s1", "s2", "s3", "s4", "abs_sum", "calib_gate", "calib_up", "calib_out", "sum"):
                left, right = (np.array(side, dtype=float) for side in (left, right))  # NULL becomes NaN
                np.testing.assert_allclose(left, right, rtol=1e-10, atol=1e-10)
            elif column == "window":  # float32 of values that are rounded at 1e-16
                np.testing.assert_allclose(np.concatenate(left), np.concatenate(right), rtol=1e-6, atol=1e-12)
            else:
                assert left == right, f"{name}.{column}"


def test_token_runs_join_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter, corpus = brute_force.model("llama"), brute_force.corpus()
    one = measured(adapter, corpus, tmp_path / "a")["token_stats"]
    monkeypatch.setattr("atlas.measure.token_sums._FLUSH", 10)
    monkeypatch.setattr("atlas.measure.candidates._MANY", 10)
    other = measured(adapter, corpus, tmp_path / "b")["token_stats"]
    monkeypatch.setattr("atlas.measure.token_sums._NARROW", 0)  # as with keys of more than 32 bits
    wide = measured(adapter, corpus, tmp_path / "c")["token_stats"]
    assert wide.equals(other)
    assert one.drop(["sum"]).equals(other.drop(["sum"]))
    np.testing.assert_allclose(one["sum"].to_numpy(), other["sum"].to_numpy(), rtol=1e-12)


def test_token_statistics_are_bounded_and_count_what_they_drop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atlas.measure.token_sums._FLUSH", 100)
    adapter, corpus = brute_force.model("llama"), brute_force.corpus(200)
    full = measured(adapter, corpus, tmp_path / "full")
    rows = 3 * 28 * 8  # of 20 tokens, 4 to 8 a side
    few = [measured(adapter, corpus, tmp_path / str(w), token_rows=rows, workers=w) for w in (1, 3)]
    assert few[0]["token_stats"].equals(few[1]["token_stats"])
    assert few[0]["neuron_stats"].equals(full["neuron_stats"]), "firings are counted whether kept or not"
    exact = {key(r): r for r in full["token_stats"].to_pylist()}
    kept = few[0]["token_stats"].to_pylist()
    assert len(exact) > rows >= len(kept) > 0
    assert all(r["n"] <= exact[key(r)]["n"] and r["max"] <= exact[key(r)]["max"] for r in kept)
    dropped = json.loads(next((tmp_path / "1").glob("shard-*/_DONE.json")).read_text())["facts"][
        "token_firings_dropped"
    ]
    assert sum(r["n"] for r in kept) + dropped == sum(r["n"] for r in exact.values())
    strongest = {}
    for r in sorted(exact.values(), key=lambda r: abs(r["sum"])):
        strongest[key(r)[:3]] = key(r)
    found = {key(r) for r in kept}
    assert np.mean([best in found for best in strongest.values()]) > 0.9, "what is dropped is rare"


def key(row: dict[str, Any]) -> tuple[int, int, int, int]:
    return row["layer"], row["neuron"], row["polarity"], row["token_id"]


@pytest.mark.parametrize(("bad", "workers"), [(float("nan"), 1), (float("inf"), 2)])
def test_values_that_are_not_finite_name_the_layer(tmp_path: Path, bad: float, workers: int) -> None:
    adapter = brute_force.model("llama", torch.float32)
    adapter.blocks[1].up.weight[3, 2] = bad  # type: ignore[index,operator]
    with pytest.raises(ModelError, match="layer 1 are not finite"):
        measured(adapter, brute_force.corpus(), tmp_path, workers=workers)
    assert not list(tmp_path.glob("shard-*"))
    assert not adapter.blocks[0].down._forward_pre_hooks


def test_wrong_options_and_useless_corpora_are_refused(tmp_path: Path) -> None:
    adapter = brute_force.model("llama", torch.float32)
    for changes in ({"fire_quantile": 1.0}, {"top": 0}, {"batch_tokens": 0}, {"workers": 0}, {"context_length": 99}):
        with pytest.raises(InputError):
            measured(adapter, brute_force.corpus(), tmp_path, **changes)
    with pytest.raises(InputError, match="no position to count"):
        measured(adapter, Corpus("c", ["1 1", ""], "0"), tmp_path)
    with pytest.raises(InputError, match="no tokenizer"):
        measured(dataclasses.replace(adapter, tokenizer=None), brute_force.corpus(), tmp_path)


def test_real_models(tmp_path: Path) -> None:
    folder = shared_model("stories260K-hf")
    adapter = load_model(folder, device="cpu")
    corpus = read_corpus(folder.parents[1] / "corpora" / "tinystories_1000.json", limit=6)
    options = ActivationOptions(top=3, calibration_tokens=500)
    measure(adapter, corpus, tmp_path, shard=Shard("f"), options=options, progress=Quiet(), workers=2)
    tables = brute_force.read(tmp_path)
    ids = adapter.tokenizer(corpus.documents[0], add_special_tokens=False)["input_ids"]
    a = brute_force.run(adapter, [1, *ids][:512])["a"]
    best = a[1:, 4].argmax(axis=0)
    top = [r for r in tables["exemplars"].to_pylist() if r["layer"] == 4 and r["polarity"] == 1 and r["stratum"] == 0]
    assert len(top) == 3 * 172
    for row in top:
        if row["rank"] == 0:
            assert row["activation"] >= a[1:, 4][best[row["neuron"]], row["neuron"]] - 1e-4


@pytest.mark.parametrize("kind", list(FAMILIES))
def test_half_precision_is_read_in_float32(tmp_path: Path, kind: str) -> None:
    adapter, corpus = brute_force.model(kind, torch.bfloat16), brute_force.corpus(16)
    every = brute_force.look(brute_force.model(kind), corpus)
    stats = measured(adapter, corpus, tmp_path)["neuron_stats"]
    for name, values in (("abs_sum", np.abs(every.a)), ("calib_up", every.up), ("calib_out", every.out)):
        expected = values.sum(axis=0).ravel()
        if np.isfinite(expected).all():
            scale = np.abs(values).sum(axis=0).ravel()
            assert np.median(np.abs(stats[name].to_numpy() - expected) / scale) < 0.05, name
