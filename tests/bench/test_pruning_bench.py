"""The bench of pruning: its truth against plain transformers with edited weights, its parts and its intervals."""

from __future__ import annotations

import copy
import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("scipy")

from atlas.measure.ablation import Ablation, Ablator
from atlas.measure.corpus import read_corpus
from atlas.models.adapter import load_model

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def bench() -> Any:
    spec = importlib.util.spec_from_file_location("bench_pruning", ROOT / "scripts" / "bench" / "pruning.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_documents_are_parted_without_overlap(bench: Any) -> None:
    corpus = read_corpus(bench.MODELS["demo"].corpus)
    parts = bench.parted(corpus, 400)
    sets = [set(texts) for texts in parts.values()]
    assert not (sets[0] & sets[1] or sets[0] & sets[2] or sets[1] & sets[2])
    assert len(parts["calibration"]) == 400 and sum(map(len, parts.values())) == len(corpus.documents)


def test_true_kl_is_that_of_edited_weights(bench: Any, tmp_path: Path) -> None:
    source = bench.MODELS["demo"]
    adapter = load_model(source.folder, device="cpu")
    held = bench.first_contexts(adapter, read_corpus(source.corpus).documents[:6], 24, 100)
    means = np.random.default_rng(0).normal(0, 0.2, (adapter.spec.layers, adapter.spec.d_mlp))
    ids = [5, 384 + 7, 3 * 384 + 100]
    with Ablator(adapter, held, Ablation("mean", means)) as ablator:
        found = bench.mean_kl(bench.kept(ablator, [[one] for one in ids], tmp_path, 2))
        again = bench.mean_kl(bench.kept(None, [[one] for one in ids], tmp_path, 2))  # from the files alone
    assert (found == again).all()
    plain = torch.nn.Module.eval(copy.deepcopy(adapter.model))
    expected = [_edited(plain, held, *divmod(one, 384), means) for one in ids]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-8)


def _edited(model: Any, held: Any, layer: int, neuron: int, means: Any) -> float:
    """KL by plain transformers: the out column is zeroed, and the mean's output becomes a bias."""
    changed = copy.deepcopy(model).double()
    down = changed.model.layers[layer].mlp.down_proj
    with torch.no_grad():
        down.bias = torch.nn.Parameter(down.weight[:, neuron] * float(np.float32(means[layer, neuron])))
        down.weight[:, neuron] = 0
        total = count = 0.0
        for context in held.contexts:
            ids = torch.tensor([context.token_ids])
            with_it, without = (m(ids).logits[0, :-1].log_softmax(-1) for m in (copy.deepcopy(model).double(), changed))
            total += float((with_it.exp() * (with_it - without)).sum())
            count += len(context.token_ids) - 1
    return total / count


def test_damage_and_ranks_of_a_model_whose_truth_is_known(bench: Any) -> None:
    """Scores equal to the truth have Spearman 1; halves that agree have reliability 1."""
    kl = np.arange(1.0, 13.0)[:, None] * np.ones((12, 4))
    zeros = np.zeros(12)
    truth = bench.Damages(kl, kl, kl, kl, np.full(4, 10), zeros, zeros)
    adapter = load_model(bench.MODELS["demo"].folder, device="cpu")
    adapter = replace(adapter, spec=replace(adapter.spec, d_mlp=6))
    scores = {"same": np.arange(12.0) ** 3, "opposite": -np.arange(12.0)}
    judged = bench.Judged(adapter, scores, None, None, list(range(12)), truth, bench.Size(40, 1, 3), None)
    found = bench.agreement(judged)
    assert found["same"] == {"all": pytest.approx(1), "layers": pytest.approx([1, 1])}
    assert found["opposite"]["all"] == pytest.approx(-1) and bench.reliability(judged) == pytest.approx(1)


def test_wilson_interval(bench: Any) -> None:
    assert bench.wilson(0, 0) == (0.0, 1.0)
    assert bench.wilson(95, 100) == pytest.approx((0.8882, 0.9785), abs=2e-4)  # Wilson 1927, textbook value
    assert bench.counted([10, 4, 4])["share"] == 1 and bench.counted([10, 0, 0])["share"] is None
