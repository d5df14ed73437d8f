"""Shards of the weight analysis against numpy on the whole tensors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import shared_model, tiny_gpt2, tiny_llama

from atlas.errors import InputError, ModelError
from atlas.measure.weights import measure
from atlas.models.adapter import Adapter
from atlas.models.tensors import in_files, in_memory
from atlas.shards import Shard, shard_files


def read(root: Path, table: str) -> list[dict]:
    return pa.concat_tables(pq.read_table(p) for p in shard_files(root, table)).to_pylist()


def measured(adapter: Adapter, folder: Path, out: Path, shard: Shard = Shard("f")) -> None:  # noqa: B008
    if not folder.exists():
        adapter.model.save_pretrained(folder)
    measure(in_files(folder), folder, out, shard=shard)


@pytest.mark.parametrize("make", [tiny_llama, tiny_gpt2])
def test_every_tensor_of_a_folder(make, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    adapter = make(torch.float32)
    adapter.blocks[1].down.weight[:2] = 0
    adapter.model.save_pretrained(tmp_path / "model", max_shard_size="5KB")
    assert len(list((tmp_path / "model").glob("*.safetensors"))) > 1
    measured(adapter, tmp_path / "model", tmp_path / "out")
    tensors = {k: v for p in (tmp_path / "model").glob("*.safetensors") for k, v in load_file(p).items()}
    found = {row["name"]: row for row in read(tmp_path / "out", "weight_stats")}
    assert set(found) == {name.removesuffix(".weight") for name in tensors}
    for name, tensor in tensors.items():
        size, row = np.abs(tensor.double().numpy()), found[name.removesuffix(".weight")]
        parts = [int(part) for part in name.split(".") if part.isdigit()]
        assert row["layer"] == (parts[0] if parts else -1)
        assert row["total_parameters"] == size.size
        assert row["non_zero_parameters"] == np.count_nonzero(size)
        assert row["sparsity"] == pytest.approx(1 - np.count_nonzero(size) / size.size)
        for key, value in (
            ("mean_magnitude", size.mean()), ("std_magnitude", size.std()), ("min_magnitude", size.min()),
            ("max_magnitude", size.max()), ("l1_norm", size.sum()), ("l2_norm", np.linalg.norm(size)),
        ):  # fmt: skip
            assert row[key] == pytest.approx(value, rel=1e-9, abs=1e-12), (name, key)
    assert any(0 < row["sparsity"] < 1 for row in found.values())


@pytest.mark.parametrize("make", [tiny_llama, tiny_gpt2])
def test_norms_of_every_neuron(make, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    adapter = make()
    measured(adapter, tmp_path / "model", tmp_path / "out")
    found = {(r["layer"], r["neuron"]): r for r in read(tmp_path / "out", "neuron_weights")}
    assert len(found) == adapter.spec.neurons
    layer, neuron = 2, 7
    named = dict(adapter.model.named_parameters())
    if adapter.spec.gated:
        prefix = f"model.layers.{layer}.mlp."
        gate, up = (named[f"{prefix}{part}_proj.weight"][neuron].numpy() for part in ("gate", "up"))
        out, own = named[f"{prefix}down_proj.weight"][:, neuron].numpy(), [gate, up]
    else:
        prefix = f"transformer.h.{layer}.mlp."
        gate, up = None, named[f"{prefix}c_fc.weight"][:, neuron].numpy()
        out, own = (
            named[f"{prefix}c_proj.weight"][neuron].numpy(),
            [up, named[f"{prefix}c_fc.bias"][neuron : neuron + 1]],
        )
    row = found[layer, neuron]
    assert row["weight_magnitude"] == pytest.approx(np.abs(np.concatenate([*own, out])).mean(), rel=1e-12)
    assert row["gate_norm"] == (None if gate is None else pytest.approx(np.linalg.norm(gate), rel=1e-12))
    assert row["up_norm"] == pytest.approx(np.linalg.norm(up), rel=1e-12)
    assert row["output_norm"] == pytest.approx(np.linalg.norm(out), rel=1e-12)


def test_shards_add_up_to_the_whole(tmp_path: Path) -> None:
    adapter = tiny_llama(torch.float32)
    measured(adapter, tmp_path / "model", tmp_path / "one")
    for index in range(5):
        measured(adapter, tmp_path / "model", tmp_path / "many", Shard("f", index, 5))
    for table in ("weight_stats", "neuron_weights"):
        assert read(tmp_path / "many", table) == read(tmp_path / "one", table)


def test_folder_without_weights(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="safetensors"):
        measure(in_memory(tiny_llama()), tmp_path, tmp_path / "out", shard=Shard("f"))


def test_trained_model_counts_tied_weights_once(tmp_path: Path) -> None:
    folder = shared_model("stories260K-hf")
    measure(in_files(folder), folder, tmp_path, shard=Shard("f"))
    assert sum(r["total_parameters"] for r in read(tmp_path, "weight_stats")) == 260_032


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_name_the_layer(tmp_path: Path, bad: float) -> None:
    adapter = tiny_llama(torch.float32)
    adapter.blocks[2].down.weight[0, 5] = bad
    with pytest.raises(ModelError, match=r"mlp.down_proj.weight of layer 2 are not finite; download"):
        measured(adapter, tmp_path / "model", tmp_path / "out")
    assert not list((tmp_path / "out").glob("shard-*"))


@pytest.mark.parametrize("make", [tiny_llama, tiny_gpt2])
def test_norms_do_not_depend_on_how_much_is_widened_at_once(
    make,  # type: ignore[no-untyped-def]
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    adapter = make()
    measured(adapter, tmp_path / "model", tmp_path / "whole")
    monkeypatch.setattr("atlas.measure.neuron_weights._PIECE", 40)
    measured(adapter, tmp_path / "model", tmp_path / "pieces")
    one, two = (read(tmp_path / name, "neuron_weights") for name in ("whole", "pieces"))
    for row, other in zip(one, two, strict=True):
        assert {name: value for name, value in row.items() if value is not None} == pytest.approx(
            {name: value for name, value in other.items() if value is not None}, rel=1e-13
        )


def test_neurons_of_bfloat16_are_those_of_the_stored_numbers(tmp_path: Path) -> None:
    adapter = tiny_llama(torch.bfloat16)
    measured(adapter, tmp_path / "model", tmp_path / "out")
    row = read(tmp_path / "out", "neuron_weights")[20]
    out = adapter.blocks[1].down.weight[:, 6].double().numpy()
    assert (row["layer"], row["neuron"]) == (1, 6)
    assert row["output_norm"] == pytest.approx(np.linalg.norm(out), rel=1e-12)


def test_neurons_of_scaled_fp8_are_refused(tmp_path: Path) -> None:
    tensors = {"a.weight": torch.ones(4, 4).to(torch.float8_e4m3fn), "a.weight_scale_inv": torch.ones(1, 1)}
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"fp8 with scales, .*bfloat16 first"):
        measure(in_memory(tiny_llama()), tmp_path, tmp_path / "out", shard=Shard("f"))
