"""The ratios of activations.py, relp.py and wiring.py on CUDA: each engine against its baseline on the same GPU.

The baselines are those of the three benches, on the device: a bare forward pass over the same batches, forward and
backward, one backward per target, is_grads_batched, and a bare torch.mm of the shape of a wiring tile. Wall time; the
clock is read when the GPU has finished. Models and weights are random: Llama- and GPT-2-shaped, 12 layers, d 768, and
the MLPs of a wider Llama for the wiring.

    python scripts/bench/gpu.py --quick
    python scripts/bench/gpu.py --repeats 5
    python scripts/bench/gpu.py --device cpu --quick      # tries the script where there is no GPU; sizes are small
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from atlas.errors import InputError
from atlas.models.device import find_device

GPU_SIZES = {"tokens": (500_000, 60_000), "batch_tokens": 16384, "shape": ((12, 4096, 11008), (6, 2048, 8192))}
CPU_SIZES = {"tokens": (4_000, 2_000), "batch_tokens": 1024, "shape": ((4, 256, 1024), (4, 256, 1024))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smaller sizes, under 50 s")
    parser.add_argument("--repeats", type=int, default=3, help="rounds that count, after one that does not")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, or cpu to try the script")
    args = parser.parse_args()
    try:
        device = find_device(args.device)
    except InputError as error:
        sys.exit(f"gpu.py: nothing was measured: {error}")
    sizes = GPU_SIZES if device.type == "cuda" else CPU_SIZES
    found = {name: measure(args, device, sizes) for name, measure in PARTS.items()}
    named = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    keys = {
        "relp": ("speedup_vs_single_backward", "speedup_vs_batched_grads", "fraction_of_floor", "max_abs_difference"),
        "activations": ("ratio_to_bare_forward", "ratio_gradients"),
        "wiring": ("fraction_of_matmul_rate",),
    }
    first = {key: found[part][key] for part, names in keys.items() for key in names}
    print(json.dumps({**first, "by_part": found, "device": named, "torch": torch.__version__, "quick": args.quick}))


def measure_relp(args: argparse.Namespace, device: torch.device, sizes: dict[str, Any]) -> dict[str, Any]:
    """The engine of attribution graphs on both random models: relp.run."""
    import relp

    given = argparse.Namespace(quick=args.quick, graphs=8, workers=1, repeats=args.repeats, device=args.device)
    if device.type == "cpu":
        given.quick, given.repeats = True, 1
    found = {case.name: relp.run(case, given) for case in relp.cases(given)}
    return found["gpt2_12x768"] | {"by_model": found}


def measure_activations(args: argparse.Namespace, device: torch.device, sizes: dict[str, Any]) -> dict[str, Any]:
    """The activation pass against a bare forward pass, the gradient pass against forward and backward."""
    import activations as bench

    from atlas.measure import activations, gradients
    from atlas.models.adapter import adapt
    from atlas.shards import Shard

    options = activations.ActivationOptions(batch_tokens=sizes["batch_tokens"], calibration_tokens=4096)
    corpus = bench.random_corpus(sizes["tokens"][args.quick], 5000)
    here = bench.random_llama(12, 768, 2048, 5000)
    adapter = adapt(here.model.to(device), here.tokenizer, name="random", revision="0")
    case = bench.Case("llama_12x768", adapter, corpus, bench.part(corpus, len(corpus.documents) // 4), options)
    learning = gradients.GradientOptions()
    batches, learned = bench.batches_for(case, corpus, options), bench.batches_for(case, case.calibration, learning)
    common: dict[str, Any] = {"shard": Shard("bench"), "progress": bench.QUIET, "workers": 1}

    def forward() -> None:
        with torch.inference_mode():
            for batch in batches:
                adapter.model(input_ids=torch.from_numpy(batch.input_ids).to(device), use_cache=False)

    with tempfile.TemporaryDirectory() as folder:
        rounds = interleaved(
            {
                "bare forward": forward,
                "activation pass": lambda name: activations.measure(
                    adapter, corpus, Path(folder, "a", name), options=options, **common
                ),
                "forward + backward": lambda: bench.backward(adapter, learned, 1),
                "gradient pass": lambda name: gradients.measure(
                    adapter, case.calibration, Path(folder, "g", name), options=learning, **common
                ),
            },
            args.repeats,
            device,
        )
    found = {
        "ratio_to_bare_forward": over(rounds, "activation pass", "bare forward"),
        "ratio_gradients": over(rounds, "gradient pass", "forward + backward"),
        "tokens": sum(batch.real_tokens for batch in batches),
        "seconds": {name: bench.spread(times) for name, times in rounds.items()},
    }
    print(f"activations: {found}")
    return found


def measure_wiring(args: argparse.Namespace, device: torch.device, sizes: dict[str, Any]) -> dict[str, Any]:
    """The wiring engine, from files to Parquet, against bare products of the shape of its tiles."""
    import numpy as np
    import wiring as bench

    from atlas.measure.wiring import Calibration, measure
    from atlas.models.tensors import in_files
    from atlas.shards import Shard

    layers, d_model, d_mlp = shape = sizes["shape"][args.quick]
    rng, products = np.random.default_rng(0), layers * (layers - 1) // 2
    means = Calibration(rng.normal(size=(layers, d_mlp)), rng.normal(size=(layers, d_mlp)))
    pair = torch.randn(d_mlp, d_model, device=device), torch.randn(d_model, d_mlp, device=device)
    with tempfile.TemporaryDirectory() as folder:
        bench.write_model(Path(folder) / "model", shape, torch.float32)

        def engine(name: str) -> None:
            measure(in_files(Path(folder) / "model", device=args.device), means, Path(folder, name), shard=Shard("b"))

        def bare() -> None:
            for _ in range(products):
                torch.mm(*pair)

        rounds = interleaved({"bare products": bare, "wiring": engine}, args.repeats, device)
    found = {
        "fraction_of_matmul_rate": over(rounds, "bare products", "wiring"),
        "shape": dict(zip(("layers", "d_model", "d_mlp"), shape, strict=True)),
        "seconds": {name: bench.spread(times) for name, times in rounds.items()},
    }
    print(f"wiring: {found}")
    return found


def interleaved(passes: dict[str, Callable[..., object]], repeats: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of every pass in `repeats` rounds, after an uncounted one; a pass that writes gets the round's name."""
    from relp import seconds

    times: dict[str, list[float]] = {name: [] for name in passes}
    for turn in range(repeats + 1):
        for name, work in passes.items():
            given = (str(turn),) if work.__code__.co_argcount else ()
            spent = seconds(lambda work=work, given=given: work(*given), device)
            if turn:
                times[name].append(spent)
    return times


def over(rounds: dict[str, list[float]], name: str, base: str) -> float:
    """Median over rounds of the ratio within a round."""
    return statistics.median(a / b for a, b in zip(rounds[name], rounds[base], strict=True))


PARTS = {"relp": measure_relp, "activations": measure_activations, "wiring": measure_wiring}

if __name__ == "__main__":
    main()
