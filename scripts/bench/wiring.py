"""Time of the wiring engine against a bare torch.matmul of the same shapes, and its peak memory by number of layers.

Random weights are written as safetensors and the whole engine is timed: reading, folding gains, tiles, lists, columns
of the listed pairs, Parquet. The baseline multiplies two matrices of a tile's shape, as often as the engine has tiles
(twice without calibration), with the same threads in the same process; a share of the baseline runs before and after
each round of the engine, so that both see the same machine. fraction_of_matmul_rate = baseline / engine in wall time;
fraction_of_processor_time compares processor time with that of one core alone, which other work on the machine moves
less. The columns of the listed pairs cost a fixed 40 d_mlp products of rows a layer: the fraction rises with the number
of layers and with d_mlp.

    python scripts/bench/wiring.py --quick
    python scripts/bench/wiring.py --shape 12 2048 8192 --repeats 5
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig

from atlas.measure.wiring import Calibration, measure
from atlas.models.tensors import in_files
from atlas.shards import Shard

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
SAMPLE = 3  # products of the baseline before, and after, each round


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="under 50 s on 2 cores")
    parser.add_argument(
        "--shape", type=int, nargs=3, metavar=("LAYERS", "D_MODEL", "D_MLP"), help="of --repeats rounds"
    )
    parser.add_argument("--repeats", type=int, default=3, help="rounds of each case")
    parser.add_argument("--memory-of", type=int, metavar="LAYERS", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory_of:
        print(memory(args.memory_of))
        return
    shape = tuple(args.shape) if args.shape else (8, 1024, 8192) if args.quick else (12, 2048, 8192)
    cases = [("float32", True), ("bfloat16", True), ("float32", False)][: 1 if args.quick else 3]
    found = {}
    for dtype, calibrated in cases:
        name = f"{dtype}_{'calibrated' if calibrated else 'weights_only'}"
        found[name] = rate(
            shape,
            dtype,
            calibrated=calibrated,
            repeats=2 if args.quick else args.repeats,
        )
        print(f"{name:<24} {found[name]}", file=sys.stderr)
    layers = (4, 8, 16) if args.quick else (4, 8, 16, 32)
    peaks = {str(count): apart(count) for count in layers}
    first = found["float32_calibrated"]
    print(
        json.dumps(
            {
                "fraction_of_matmul_rate": first["fraction"]["median"],
                "fraction_of_processor_time": first["processor_fraction"]["median"],
                "noise": first["fraction"],
                "by_case": found,
                "baseline": "torch.matmul [d_mlp, d_model] x [d_model, d_mlp] for every tile, same threads",
                "shape": dict(zip(("layers", "d_model", "d_mlp"), shape, strict=True)),
                "threads": torch.get_num_threads(),
                "peak_rss_bytes": peaks,
                "peak_rss_growth": peaks[str(layers[-1])] / peaks[str(layers[0])],
            }
        )
    )


def rate(shape: tuple[int, ...], dtype: str, *, calibrated: bool, repeats: int) -> dict[str, Any]:
    """Time rounds of the engine between samples of the baseline."""
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder) / "model", shape, DTYPES[dtype])
        layers, d_model, d_mlp = shape
        products = layers * (layers - 1) // 2 * (1 if calibrated else 2)
        pair = torch.randn(d_mlp, d_model), torch.randn(d_model, d_mlp)
        torch.mm(*pair)
        fractions, shares, seconds = [], [], []
        for index in range(repeats):
            before, alone = bare(pair), one_core(pair)
            start, spent = time.perf_counter(), time.process_time()
            engine(Path(folder), shape, f"{index}", calibrated=calibrated)
            seconds.append(time.perf_counter() - start)
            shares.append(products * alone / (time.process_time() - spent))
            fractions.append(products * (before + bare(pair)) / 2 / seconds[-1])
        gflops = 2e-9 * products * d_mlp * d_mlp * d_model / min(seconds)
        times = {"fraction": spread(fractions), "processor_fraction": spread(shares), "seconds": spread(seconds)}
        return times | {"gflops": round(gflops, 1)}


def bare(pair: tuple[torch.Tensor, torch.Tensor]) -> float:
    """Seconds of one bare product."""
    start = time.perf_counter()
    for _ in range(SAMPLE):
        torch.mm(*pair)
    return (time.perf_counter() - start) / SAMPLE


def one_core(pair: tuple[torch.Tensor, torch.Tensor]) -> float:
    """Processor seconds of one bare product on one core, where no thread waits for another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    start = time.process_time()
    torch.mm(*pair)
    spent = time.process_time() - start
    torch.set_num_threads(threads)
    return spent


def engine(folder: Path, shape: tuple[int, ...], name: str, *, calibrated: bool) -> None:
    layers, _, d_mlp = shape
    rng = np.random.default_rng(0)
    means = Calibration(rng.normal(size=(layers, d_mlp)), rng.normal(size=(layers, d_mlp))) if calibrated else None
    measure(in_files(folder / "model", device="cpu"), means, folder / name, shard=Shard("bench"))


def spread(values: list[float]) -> dict[str, float]:
    named = {"min": min(values), "median": statistics.median(values), "max": max(values)}
    return {name: round(value, 4) for name, value in named.items()}


def apart(layers: int) -> int:
    """Peak memory in a process of its own."""
    command = [sys.executable, __file__, "--memory-of", str(layers)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def memory(layers: int) -> int:
    """Write a model layer by layer, run the engine, tell the peak resident bytes (mapped file pages count)."""
    shape = (layers, 512, 2048)
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder) / "model", shape, torch.float32)
        engine(Path(folder), shape, "out", calibrated=True)
    status = Path("/proc/self/status").read_text()  # ru_maxrss of a child begins at its parent's
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def write_model(folder: Path, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """A Llama of random MLP weights, one safetensors file a layer; nothing but the MLPs is there."""
    layers, d_model, d_mlp = shape
    folder.mkdir()
    heads = {"num_attention_heads": 8, "num_key_value_heads": 8, "vocab_size": 32}
    config = LlamaConfig(hidden_size=d_model, intermediate_size=d_mlp, num_hidden_layers=layers, **heads)
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(folder)
    generator, index = torch.Generator().manual_seed(0), {}
    for layer in range(layers):
        path, name = f"model.layers.{layer}", f"layer-{layer}.safetensors"
        sizes = {"gate_proj": (d_mlp, d_model), "up_proj": (d_mlp, d_model), "down_proj": (d_model, d_mlp)}
        tensors = {
            f"{path}.mlp.{role}.weight": (torch.randn(size, generator=generator) / d_model**0.5).to(dtype)
            for role, size in sizes.items()
        }
        tensors[f"{path}.post_attention_layernorm.weight"] = torch.ones(d_model, dtype=dtype)
        save_file(tensors, folder / name)
        index |= dict.fromkeys(tensors, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
