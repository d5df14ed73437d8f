"""What a folder's safetensors files hold: against safetensors' own readers, and every kind of bad folder."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch

from atlas.errors import InputError, ModelError
from atlas.models.stored import stored_tensors

INDEX = "model.safetensors.index.json"


def drawn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def sharded(folder: Path) -> Path:
    folder.mkdir()
    save_file({"h.0.w": drawn(3, 4), "h.1.w": drawn(5)}, folder / "model-1.safetensors")
    save_file({"h.2.w": drawn(2, 2, seed=1)}, folder / "model-2.safetensors")
    save_file({"h.0.w": drawn(3, 4), "other": drawn(7)}, folder / "consolidated.safetensors")
    places = {"h.0.w": "model-1.safetensors", "h.1.w": "model-1.safetensors", "h.2.w": "model-2.safetensors"}
    (folder / INDEX).write_text(json.dumps({"weight_map": places}))
    return folder


def raw_file(path: Path, header: object, data: bytes) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def test_places_are_where_the_bytes_are(tmp_path: Path) -> None:
    given = {"b.3.weight": drawn(4, 5), "a": drawn(7).astype(np.float64), "c": drawn(2, 2).astype(np.float16)}
    save_file(
        given | {"empty": np.zeros((0, 3), np.float32)}, tmp_path / "model.safetensors", metadata={"format": "pt"}
    )
    found = stored_tensors(tmp_path)
    assert [tensor.name for tensor in found.tensors] == ["a", "b.3.weight", "c"]
    assert found.notes == ()
    with safe_open(tmp_path / "model.safetensors", framework="numpy") as opened:
        for tensor in found.tensors:
            raw = tensor.path.read_bytes()[tensor.start : tensor.start + tensor.nbytes]
            assert raw == opened.get_tensor(tensor.name).tobytes()
            assert tensor.shape == opened.get_tensor(tensor.name).shape
    assert [tensor.layer for tensor in found.tensors] == [-1, 3, -1]


def test_the_index_decides_which_files_count(tmp_path: Path) -> None:
    folder = sharded(tmp_path / "m")
    found = stored_tensors(folder)
    assert {tensor.name: tensor.path.name for tensor in found.tensors} == {
        "h.0.w": "model-1.safetensors", "h.1.w": "model-1.safetensors", "h.2.w": "model-2.safetensors",
    }  # fmt: skip


def test_one_model_file_stands_before_other_copies(tmp_path: Path) -> None:
    save_file({"a": drawn(3)}, tmp_path / "model.safetensors")
    save_file({"b": drawn(3)}, tmp_path / "adapter.safetensors")
    assert [tensor.name for tensor in stored_tensors(tmp_path).tensors] == ["a"]


def test_a_missing_shard_and_a_missing_tensor_are_named(tmp_path: Path) -> None:
    folder = sharded(tmp_path / "m")
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"]["h.9.w"] = "model-2.safetensors"
    (folder / INDEX).write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"names 1 tensors .*first: h.9.w, expected in model-2.safetensors"):
        stored_tensors(folder)
    (folder / "model-2.safetensors").unlink()
    with pytest.raises(ModelError, match=r"names model-2.safetensors, not in .*download the missing files"):
        stored_tensors(folder)
    for text in ("{", "[]", '{"weight_map": 3}'):
        (folder / INDEX).write_text(text)
        with pytest.raises(ModelError, match="not a valid weight index"):
            stored_tensors(folder)


def test_files_without_an_index_are_not_guessed_at(tmp_path: Path) -> None:
    for name in ("x", "y"):
        save_file({"a": drawn(3)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(
        InputError, match=r"2 safetensors files .*x.safetensors, y.safetensors.*no model.safetensors.index"
    ):
        stored_tensors(tmp_path)


def test_a_folder_of_pickles_says_how_to_convert_them(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"anything")
    with pytest.raises(InputError, match=r"only pytorch_model.bin \(a pickle.*save_pretrained"):
        stored_tensors(tmp_path)


@pytest.mark.parametrize("kept", [0, 5, 12, -1])
def test_a_cut_file_is_refused(tmp_path: Path, kept: int) -> None:
    save_file({"a": drawn(30)}, tmp_path / "model.safetensors")
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[:kept])
    with pytest.raises(ModelError, match=r"model.safetensors is truncated or damaged .*download it again"):
        stored_tensors(tmp_path)


@pytest.mark.parametrize(
    "header",
    [
        {"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}},
        {name: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} for name in "ab"},
        {"a": {"dtype": "F33", "shape": [2], "data_offsets": [0, 8]}},
        b"<html>not found</html>",
    ],
)  # fmt: skip
def test_a_damaged_header_is_refused(tmp_path: Path, header: object) -> None:
    raw_file(tmp_path / "model.safetensors", header, bytes(8))
    with pytest.raises(ModelError, match="truncated or damaged"):
        stored_tensors(tmp_path)


def test_integers_are_left_out_and_said(tmp_path: Path) -> None:
    save_file(
        {"q": np.zeros((3, 3), np.int32), "z": np.zeros(3, np.uint8), "w": drawn(4)}, tmp_path / "model.safetensors"
    )
    found = stored_tensors(tmp_path)
    assert [tensor.name for tensor in found.tensors] == ["w"]
    assert found.notes == ("tensors of other dtypes left out: 1 of I32, 1 of U8",)
    save_file({"q": np.zeros((3, 3), np.int32)}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"no tensor of F64, .*1 of I32.*before quantisation"):
        stored_tensors(tmp_path)


def test_masks_of_old_checkpoints_are_no_parameters(tmp_path: Path) -> None:
    given = {
        "h.0.attn.bias": np.ones((1, 1, 8, 8), np.float32),
        "h.0.attn.masked_bias": np.float32([-1e4]),
        "l.0.rotary_emb.inv_freq": drawn(4),
        "h.0.attn.c_attn.bias": drawn(8),
        "block.0.attention.bias": drawn(8),
    }
    save_file(given, tmp_path / "model.safetensors")
    found = stored_tensors(tmp_path)
    assert [tensor.name for tensor in found.tensors] == ["block.0.attention.bias", "h.0.attn.c_attn.bias"]
    assert found.notes[0].startswith("3 buffers left out")


@pytest.mark.parametrize(
    ("config", "names"),
    [
        (None, ["l.0.w", "model.embed_tokens.weight"]),
        ({"tie_word_embeddings": True}, ["l.0.w", "model.embed_tokens.weight"]),
        ({"tie_word_embeddings": False}, ["l.0.w", "lm_head.weight", "model.embed_tokens.weight"]),
        ({"text_config": {"tie_word_embeddings": False}}, ["l.0.w", "lm_head.weight", "model.embed_tokens.weight"]),
    ],
)
def test_a_head_with_the_embeddings_numbers_counts_once(tmp_path: Path, config: object, names: list[str]) -> None:
    table = drawn(6, 4)
    save_file(
        {"lm_head.weight": table, "model.embed_tokens.weight": table, "l.0.w": table}, tmp_path / "model.safetensors"
    )
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
    found = stored_tensors(tmp_path)
    assert [tensor.name for tensor in found.tensors] == names
    assert len(found.notes) == (len(names) == 2)


def test_a_head_of_its_own_counts(tmp_path: Path) -> None:
    table = drawn(600, 500)  # more than is compared at once
    other = table.copy()
    other[-1, -1] += 1
    save_file({"lm_head.weight": other, "wte.weight": table}, tmp_path / "model.safetensors")
    assert len(stored_tensors(tmp_path).tensors) == 2
    save_file({"lm_head.weight": table, "wte.weight": table}, tmp_path / "model.safetensors")
    assert [tensor.name for tensor in stored_tensors(tmp_path).tensors] == ["wte.weight"]


def test_fp8_with_scales_is_said(tmp_path: Path) -> None:
    weight = torch.ones(4, 4).to(torch.float8_e4m3fn)
    save_torch({"a.weight": weight}, tmp_path / "model.safetensors")
    assert not stored_tensors(tmp_path).scaled
    save_torch({"a.weight": weight, "a.weight_scale_inv": torch.ones(1, 1)}, tmp_path / "model.safetensors")
    found = stored_tensors(tmp_path)
    assert found.scaled
    assert "scales are not multiplied in" in found.notes[0]
