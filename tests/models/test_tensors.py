"""MLP tensors from files: every role of every family equals the loaded model's; faults are named."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

# the tiny models are beside the tests of measuring
sys.path.append(str(Path(__file__).parents[1] / "measure"))

from tiny_models import FAMILIES, tiny_gpt2, tiny_llama

from atlas.errors import InputError, ModelError
from atlas.models.tensors import in_files, in_memory

WEIGHTS = "model.safetensors"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("parts", ["one file", "many files"])
def test_files_give_the_loaded_tensors(family: str, parts: str, tmp_path: Path) -> None:
    adapter = FAMILIES[family](torch.float32)
    adapter.model.save_pretrained(tmp_path / "m", max_shard_size="50GB" if parts == "one file" else "3KB")
    assert (len(list((tmp_path / "m").glob("*.safetensors"))) > 1) == (parts == "many files")
    loaded, read = in_memory(adapter), in_files(tmp_path / "m", device="cpu")
    assert (read.layers, read.shape, read.gated) == (loaded.layers, loaded.shape, loaded.gated)
    for layer in range(loaded.layers):
        for role in ("gate", "up", "down") if loaded.gated else ("up", "down"):
            assert torch.equal(read.weight(layer, role), loaded.weight(layer, role))
        for role in ("mlp_norm", "mlp_out_norm"):
            one, other = read.norm(layer, role), loaded.norm(layer, role)
            assert (one is None) == (other is None)
            if one is not None and other is not None:
                assert torch.equal(one.weight, other.weight)
                assert (one.centred, one.eps) == (other.centred, other.eps)


def test_a_checkpoint_of_the_bare_body_is_read(tmp_path: Path) -> None:
    adapter = tiny_gpt2(torch.float32)
    adapter.model.save_pretrained(tmp_path)
    found = load_file(tmp_path / WEIGHTS)
    assert any(key.startswith("transformer.") for key in found)
    save_file({key.removeprefix("transformer."): value for key, value in found.items()}, tmp_path / WEIGHTS)
    assert torch.equal(in_files(tmp_path, device="cpu").weight(1, "up"), in_memory(adapter).weight(1, "up"))


def test_faults_are_named(tmp_path: Path) -> None:
    tiny_llama(torch.float32).model.save_pretrained(tmp_path)
    whole, key = load_file(tmp_path / WEIGHTS), "model.layers.1.mlp.up_proj.weight"
    save_file({k: v for k, v in whole.items() if k != key}, tmp_path / WEIGHTS)
    with pytest.raises(ModelError, match=f"no tensor {key}"):
        in_files(tmp_path, device="cpu").weight(1, "up")
    save_file(whole | {key: whole[key][:-1].clone()}, tmp_path / WEIGHTS)
    with pytest.raises(ModelError, match=r"shape \[13, 16\], config.json asks for \[14, 16\]"):
        in_files(tmp_path, device="cpu").weight(1, "up")
    (tmp_path / WEIGHTS).write_bytes((tmp_path / WEIGHTS).read_bytes()[:-100])
    with pytest.raises(ModelError, match="truncated or damaged"):
        in_files(tmp_path, device="cpu")


def test_a_missing_file_of_an_index_is_named(tmp_path: Path) -> None:
    tiny_llama(torch.float32).model.save_pretrained(tmp_path, max_shard_size="3KB")
    first = sorted(tmp_path.glob("*.safetensors"))[0]
    first.unlink()
    with pytest.raises((InputError, ModelError), match=first.name):
        in_files(tmp_path, device="cpu")
    index = json.loads((tmp_path / f"{WEIGHTS}.index.json").read_text())
    assert first.name in index["weight_map"].values()


def test_nothing_is_loaded_before_it_is_asked_for(tmp_path: Path) -> None:
    tiny_llama(torch.float32).model.save_pretrained(tmp_path)
    assert all(
        block.up.weight.is_meta and block.down.weight.is_meta for block in in_files(tmp_path, device="cpu").blocks
    )
