"""Statistics of stored tensors against numpy in float64 over whole arrays, whatever the dtype, threads and pieces."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch

from atlas.errors import ModelError
from atlas.measure.weight_files import Row, weight_statistics
from atlas.measure.weight_sums import BLOCK, block_sums, new_scratch
from atlas.models.stored import stored_tensors

NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2",
}  # fmt: skip


def statistics(folder: Path, **options: Any) -> list[Row]:
    return weight_statistics(stored_tensors(folder).tensors, **options)


def expected(values: np.ndarray) -> dict[str, float]:
    size = np.abs(values.astype(np.float64))
    return {
        "total_parameters": size.size, "non_zero_parameters": int(np.count_nonzero(size)),
        "sparsity": 1 - np.count_nonzero(size) / size.size, "mean_magnitude": size.mean(), "std_magnitude": size.std(),
        "min_magnitude": size.min(), "max_magnitude": size.max(), "l1_norm": size.sum(),
        "l2_norm": np.sqrt(np.square(size).sum()),
    }  # fmt: skip


def compare(row: Row, values: np.ndarray) -> None:
    for name, value in expected(values).items():
        assert row[name] == pytest.approx(value, rel=1e-12, abs=1e-300), name
    assert row["min_magnitude"] == np.abs(values).min()
    assert row["max_magnitude"] == np.abs(values).max()


def test_every_dtype_that_numpy_has(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {}
    for dtype in (np.float64, np.float32, np.float16):
        values = rng.normal(size=(3, BLOCK - 7)).astype(dtype)  # blocks that end within rows
        values[rng.random(values.shape) < 0.1] = 0
        values[0, :5] = -0.0
        arrays[f"h.{np.dtype(dtype).itemsize}.mlp.weight"] = values
    save_file(arrays, tmp_path / "model.safetensors")
    found = statistics(tmp_path)
    assert [row["name"] for row in found] == ["h.2.mlp", "h.4.mlp", "h.8.mlp"]
    assert [row["layer"] for row in found] == [2, 4, 8]
    for row in found:
        compare(row, arrays[f"{row['name']}.weight"])


@pytest.mark.parametrize("dtype", NAMES)
def test_every_dtype_that_torch_reads(tmp_path: Path, dtype: torch.dtype) -> None:
    values = (torch.randn(300, 301, generator=torch.Generator().manual_seed(0)) * 3).to(dtype)
    save_torch({"w": values}, tmp_path / "model.safetensors")
    (row,) = statistics(tmp_path)
    compare(row, values.double().numpy())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2])
def test_every_code_of_a_narrow_dtype(tmp_path: Path, dtype: torch.dtype) -> None:
    small = dtype.itemsize == 1
    codes = torch.arange(256 if small else 1 << 16).to(torch.uint8 if small else torch.uint16).view(dtype)
    scratch, name = new_scratch(), NAMES[dtype]
    for code in codes[:: 1 if small else 37]:
        scratch.raw[: dtype.itemsize] = code[None].view(torch.uint8).numpy()
        found, value = block_sums(scratch, 1, name), abs(float(code))
        assert (found.low, found.high, found.total) == pytest.approx((value,) * 3, rel=0, nan_ok=True)
        assert found.non_zero == (value != 0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_names_the_tensor_and_layer(tmp_path: Path, bad: float) -> None:
    values = np.ones(3 * BLOCK, np.float32)
    values[-2] = bad
    save_file({"h.7.w": values, "h.8.w": np.ones(3, np.float32)}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"weights h.7.w of layer 7 are not finite; download"):
        statistics(tmp_path)


def test_neither_threads_nor_pieces_change_a_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    arrays = {f"w{i}": rng.normal(size=n).astype(np.float32) for i, n in enumerate((10 * BLOCK + 3, 17, 3 * BLOCK))}
    save_file(arrays, tmp_path / "model.safetensors")
    whole = statistics(tmp_path, threads=1)
    for threads in (1, 2, 5):
        for piece in (BLOCK, 3 * BLOCK):
            monkeypatch.setattr("atlas.measure.weight_files._PIECE", piece)
            assert statistics(tmp_path, threads=threads) == whole


@pytest.mark.parametrize("spread", [0.0, 1e-6, 1e-3])
def test_the_deviation_of_nearly_equal_numbers_keeps_its_digits(tmp_path: Path, spread: float) -> None:
    drawn = 0.1 + spread * np.random.default_rng(2).normal(size=2 * BLOCK + 5)
    save_file({"norm": drawn}, tmp_path / "model.safetensors")
    (row,) = statistics(tmp_path)
    assert row["std_magnitude"] == pytest.approx(drawn.std(), rel=1e-9, abs=1e-15)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=50))
def test_any_numbers(tmp_path_factory: pytest.TempPathFactory, drawn: list[float]) -> None:
    folder, values = tmp_path_factory.mktemp("m"), np.array(drawn, np.float32)
    save_file({"w": values}, folder / "model.safetensors")
    (row,) = statistics(folder, threads=1)
    size = np.abs(values.astype(np.float64))
    assert row["non_zero_parameters"] == np.count_nonzero(values)
    assert (row["min_magnitude"], row["max_magnitude"]) == (size.min(), size.max())
    assert row["l1_norm"] == pytest.approx(size.sum(), rel=1e-12)
    assert row["l2_norm"] == pytest.approx(np.sqrt(np.square(size).sum()), rel=1e-12)
    assert row["std_magnitude"] == pytest.approx(size.std(), rel=1e-6, abs=1e-7 * size.max())


def test_a_file_that_is_cut_while_it_is_read_is_refused(tmp_path: Path) -> None:
    save_file({"w": np.ones(2 * BLOCK, np.float32)}, tmp_path / "model.safetensors")
    tensors = stored_tensors(tmp_path).tensors
    with (tmp_path / "model.safetensors").open("r+b") as file:
        file.truncate(tensors[0].start + 5 * BLOCK)
    with pytest.raises(ModelError, match=r"ends within w.*cut while it was read"):
        weight_statistics(tensors)


def test_neither_torch_nor_duckdb_is_imported(tmp_path: Path) -> None:
    save_torch({"w": torch.ones(3, dtype=torch.bfloat16)}, tmp_path / "model.safetensors")
    script = (
        "import sys; from pathlib import Path; from atlas.models.stored import stored_tensors;"
        "from atlas.measure.weight_files import weight_statistics;"
        "print(weight_statistics(stored_tensors(Path(sys.argv[1])).tensors)[0]['l1_norm'],"
        "[m for m in ('torch', 'transformers', 'duckdb', 'pyarrow', 'numba') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout == "3.0 []\n"
