"""Time of the weight analysis against reading the file plus one pass of torch.abs().sum(), and its peak memory.

A checkpoint of GPT-2 small's shapes (124,439,808 random parameters) is written as safetensors. Each round times, one
after the other: reading the file into one buffer, piece by piece; one pass of abs().sum() over the tensors in memory,
once as a person writes it (tensor.abs().sum(), torch's own threads, a copy of every tensor) and once over slices that
stay in a core's cache, with as many threads; the analysis. ratio_to_read_and_abs = analysis / (reading + the pass as
written), ratio_to_lean_baseline the same with the sliced pass; in wall time, and in processor time, which other work on
the machine moves less. The whole command `atlas weights` is timed in a process of its own, start of Python included.

    python scripts/bench/weights.py --quick
    python scripts/bench/weights.py --repeats 9 --layers 48
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from atlas.measure.weight_files import weight_statistics
from atlas.models.stored import stored_tensors

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float8_e4m3fn": torch.float8_e4m3fn}
PIECE = 16 << 20
SLICE = 1 << 18  # numbers: 1 MB
Timed = tuple[float, float]  # seconds of wall and of processor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="under 50 s on 2 cores")
    parser.add_argument("--layers", type=int, default=12, help="blocks of 768 x 3072; 12 are GPT-2 small")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=9, help="rounds of each dtype")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    found = {}
    for name in ["float32"] if args.quick else list(DTYPES):
        with tempfile.TemporaryDirectory() as folder:
            size = write_model(Path(folder), args.layers, DTYPES[name])
            found[name] = rounds(Path(folder), args.threads, 3 if args.quick else args.repeats)
            found[name] |= {"file_bytes": size, "command": command(Path(folder))}
        print(f"{name:<14} {found[name]}", file=sys.stderr)
    first = found["float32"]
    print(
        json.dumps(
            {
                "weights_s": first["analysis_s"]["median"],
                "ratio_to_read_and_abs": first["ratio"]["median"],
                "ratio_to_lean_baseline": first["lean_ratio"]["median"],
                "processor_ratios": [first[name]["median"] for name in ("processor_ratio", "lean_processor_ratio")],
                "noise": first["ratio"],
                "peak_rss_bytes": first["command"]["peak_rss_bytes"],
                "by_dtype": found,
                "baseline": "reading the file into a 16 MB buffer + torch.abs().sum() of tensors in memory",
                "threads": args.threads,
                "layers": args.layers,
            }
        )
    )


def rounds(folder: Path, threads: int, repeats: int) -> dict[str, dict[str, float]]:
    """Time reading, abs().sum() and the analysis in turn."""
    file = folder / "model.safetensors"
    tensors = list(load_file(file).values()) if stored_tensors(folder).tensors[0].dtype == "F32" else []
    if not tensors:  # torch has no abs() of fp8: the pass that a float32 copy would take
        tensors = [tensor.float() for tensor in load_file(file).values()]
    slices = [part for tensor in tensors for part in tensor.reshape(-1).split(SLICE)]
    found: dict[str, list[Timed]] = {"read": [], "abs_sum": [], "lean_abs_sum": [], "analysis": []}
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for _ in range(repeats):
            found["read"].append(timed(lambda: read(file)))
            found["abs_sum"].append(timed(lambda: [tensor.abs().sum() for tensor in tensors]))
            found["lean_abs_sum"].append(timed(lambda: list(pool.map(lean, slices, chunksize=8))))
            found["analysis"].append(timed(lambda: weight_statistics(stored_tensors(folder).tensors, threads=threads)))
    told = {f"{name}_s": spread([wall for wall, _ in times]) for name, times in found.items()}
    told["analysis_processor_s"] = spread([processor for _, processor in found["analysis"]])
    for prefix, passing in (("", "abs_sum"), ("lean_", "lean_abs_sum")):
        for name, clock in (("ratio", 0), ("processor_ratio", 1)):
            rows = zip(found["analysis"], found["read"], found[passing], strict=True)
            told[prefix + name] = spread([ours[clock] / (one[clock] + two[clock]) for ours, one, two in rows])
    return told


def lean(part: torch.Tensor) -> torch.Tensor:
    return part.abs().sum()


def command(folder: Path) -> dict[str, float]:
    """`atlas weights` as a person runs it: seconds of wall and processor, peak resident bytes."""
    script = (
        "import sys, time; from pathlib import Path; from atlas.cli.main import main\n"
        "try: main(['weights', sys.argv[1], '--format', 'json', '-q', '-o', '/dev/null'])\n"
        "except SystemExit as stop: assert not stop.code\n"
        "peak = Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0]\n"
        "print(time.process_time(), int(peak) * 1024)"
    )
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", script, str(folder)], check=True, capture_output=True, text=True)
    processor, peak = done.stdout.split()
    wall = round(time.perf_counter() - start, 4)
    return {"wall_s": wall, "processor_s": round(float(processor), 4), "peak_rss_bytes": int(peak)}


def timed(work: Callable[[], object]) -> Timed:
    start, spent = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - start, time.process_time() - spent


def read(file: Path) -> None:
    buffer = memoryview(bytearray(PIECE))
    with file.open("rb", buffering=0) as handle:
        while handle.readinto(buffer):
            pass


def spread(values: list[float]) -> dict[str, float]:
    named = {"min": min(values), "median": statistics.median(values), "max": max(values)}
    return {name: round(value, 4) for name, value in named.items()}


def write_model(folder: Path, layers: int, dtype: torch.dtype) -> int:
    """Random numbers of GPT-2's shapes and scale; returns the file's bytes."""
    dice = torch.Generator().manual_seed(0)
    tensors = {name: (torch.randn(shape, generator=dice) * 0.02).to(dtype) for name, shape in shapes(layers)}
    save_file(tensors, folder / "model.safetensors")
    return (folder / "model.safetensors").stat().st_size


def shapes(layers: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    width, inner = 768, 3072
    yield from (("transformer.wte.weight", (50257, width)), ("transformer.wpe.weight", (1024, width)))
    for layer in range(layers):
        parts = {"attn.c_attn": (width, 3 * width), "attn.c_proj": (width, width), "mlp.c_fc": (width, inner),
                 "mlp.c_proj": (inner, width), "ln_1": (width,), "ln_2": (width,)}  # fmt: skip
        for name, shape in parts.items():
            yield f"transformer.h.{layer}.{name}.weight", shape
            yield f"transformer.h.{layer}.{name}.bias", shape[-1:]
    yield from (("transformer.ln_f.weight", (width,)), ("transformer.ln_f.bias", (width,)))


if __name__ == "__main__":
    main()
