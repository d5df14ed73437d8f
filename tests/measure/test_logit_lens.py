"""Logit lens: values against a real intervention on the residual stream, lists against brute force."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tiny_models import FAMILIES, shared_model, tiny_llama

from atlas.errors import ModelError
from atlas.measure.logit_lens import measure
from atlas.models.adapter import Adapter, load_model, weight
from atlas.models.norm import norm_of
from atlas.shards import Shard, shard_files
from atlas.tables import SHARDS


def read(root: Path, table: str) -> pa.Table:
    return pa.concat_tables(pq.read_table(p) for p in shard_files(root, table))


def moved(adapter: Adapter, layer: int, neuron: int) -> np.ndarray:
    """Change of every logit when one unit of the neuron is added before the frozen norms, divided by their scales."""
    norm = norm_of(adapter.final_norm)
    column = weight(adapter.blocks[layer].down)[:, neuron]
    if (behind := adapter.blocks[layer].mlp_out_norm) is not None:
        column = column * (behind.weight + ("Gemma" in type(behind).__name__))
    x = torch.randn(1, adapter.spec.d_model, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    factor = norm.factor(x)
    after = norm.apply(x + column, factor)
    change = adapter.unembedding(after) - adapter.unembedding(norm.apply(x, factor))
    return (change / factor)[0].numpy()


@pytest.mark.parametrize("make", FAMILIES.values(), ids=FAMILIES)
def test_lists_are_the_largest_changes(make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    adapter = make()
    monkeypatch.setattr("atlas.measure.logit_lens._CELLS", 23 * 4)  # several batches of neurons
    measure(adapter, tmp_path, shard=Shard("f"), top=4)
    found = read(tmp_path, "logit_lens").to_pylist()
    for layer, neuron in itertools.product(range(3), range(14)):
        change = moved(adapter, layer, neuron)
        order = np.argsort(-change, kind="stable")
        mine = [r for r in found if (r["layer"], r["neuron"]) == (layer, neuron)]
        for sign, best in ((1, order[:4]), (-1, order[::-1][:4])):
            listed = [r["token_id"] for r in mine if r["polarity"] == sign]
            assert listed == [token for token in best if sign * change[token] > 0]
        assert {r["rank"] for r in mine} == {0, 1, 2, 3}
        assert np.allclose([r["value"] for r in mine], change[[r["token_id"] for r in mine]], rtol=1e-5)


def test_shards_share_the_layers_and_one_vocab(tmp_path: Path) -> None:
    adapter = tiny_llama(torch.float32)
    measure(adapter, tmp_path / "one", shard=Shard("f"))
    for index in range(2):
        measure(adapter, tmp_path / "many", shard=Shard("f", index, 2))
    for table in ("logit_lens", "vocab"):
        assert read(tmp_path / "one", table).equals(read(tmp_path / "many", table))
        assert read(tmp_path / "one", table).schema.equals(SHARDS[table])
    assert read(tmp_path / "one", "vocab")["token_id"].to_pylist() == list(range(23))


def test_neuron_that_writes_nothing_has_no_list(tmp_path: Path) -> None:
    adapter = tiny_llama()
    adapter.blocks[1].down.weight[:, 3] = 0
    measure(adapter, tmp_path, shard=Shard("f"), top=4)
    found = {(r["layer"], r["neuron"]) for r in read(tmp_path, "logit_lens").to_pylist()}
    assert (1, 3) not in found and len(found) == 3 * 14 - 1


def test_bad_weights_are_named(tmp_path: Path) -> None:
    adapter = tiny_llama()
    adapter.blocks[1].down.weight[0, 3] = float("nan")
    with pytest.raises(ModelError, match="layer 1"):
        measure(adapter, tmp_path, shard=Shard("f"))


def test_vocab_of_a_trained_model(tmp_path: Path) -> None:
    measure(load_model(shared_model("stories260K-hf")), tmp_path, shard=Shard("f"))
    words = read(tmp_path, "vocab")["token"].to_pylist()
    assert len(words) == 512 and " the" in words and "<s>" in words
