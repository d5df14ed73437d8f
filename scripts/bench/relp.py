"""Time of RelP attribution graphs: the matrix engine against autograd, and against the least work there is.

Baselines, in the same process on the same prompts and nodes: (a) one backward pass per target with every MLP
activation a leaf, which defines a direct effect (on a sample of the targets, spread over all layers, and scaled up);
(b) the same with `is_grads_batched`, all targets of a layer in batches of 32. Both use all cores inside each operation,
the engine uses one core in each of its workers. Everything is counted: forward pass, total gradients, edges.
The floor is the multiply-adds of the frozen V and O projections over the positions that each target reaches, divided
by the machine's matrix product rate, measured in the same run on all cores. It is the least work of carrying targets
backward; where the engine carries sources forward instead (nodes near the end of a prompt), it comes out above 1.

    python scripts/bench/relp.py --quick
    python scripts/bench/relp.py --workers 4 --graphs 16
    python scripts/bench/relp.py --device cuda
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from atlas.errors import InputError
from atlas.measure.batches import work_in_order
from atlas.models.adapter import Adapter, adapt, load_model
from atlas.models.attribution import Engine, RelpOptions
from atlas.models.device import find_device
from atlas.models.graph import Graph
from atlas.models.replacement import Replacement, Rules, Trace, replacement
from atlas.models.threads import one_core

ROOT = Path(__file__).parents[2]
SHARED = Path(os.environ.get("ATLAS_SHARED", ROOT.parent / "shared"))
CPU = torch.device("cpu")
OPTIONS = RelpOptions(max_nodes=400, max_tokens=256, skip_bos=False)


@dataclass(frozen=True)
class Case:
    """A model, the options of its graphs, and how many prompts are timed."""

    name: str
    adapter: Adapter
    options: RelpOptions
    tokens: int
    graphs: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="fewer prompts and targets, no growth, under 50 s on 2 cores"
    )
    parser.add_argument("--graphs", type=int, default=8, help="prompts timed on the large models")
    parser.add_argument("--workers", type=int, help="threads of the engine (all cores; 1 on a GPU)")
    parser.add_argument("--repeats", type=int, default=3, help="rounds of the engine")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda")
    args = parser.parse_args()
    try:
        device = find_device(args.device)
    except InputError as error:
        parser.error(str(error))
    args.workers = args.workers or ((os.cpu_count() or 1) if device.type == "cpu" else 1)
    rates = [matmul_rate(device) for _ in range(5)]
    print(f"matrix products on {device}: {', '.join(f'{r / 1e9:.0f}' for r in sorted(rates))} G multiply-adds/s")
    found = {case.name: run(case, args) for case in cases(args)}
    if not args.quick:
        found["growth"] = growth(args)
    largest = found["gpt2_12x768"]
    keys = ("speedup_vs_single_backward", "speedup_vs_batched_grads", "fraction_of_floor", "max_abs_difference")
    noise = {"min": min(rates), "median": statistics.median(rates), "max": max(rates)}
    print(json.dumps({**{key: largest[key] for key in keys}, "by_model": found, "matmul_macs_per_s": noise}))


def cases(args: argparse.Namespace) -> list[Case]:
    """Make the demo model, stories260K and the random models of 12 layers and d 768."""
    demo = ROOT / "data" / "demo" / "model"
    stories = SHARED / "data" / "models" / "stories260K-hf"
    few = 2 if args.quick else args.graphs
    count = 120 if args.quick else 408
    large = replace(
        OPTIONS, tau=0.0, max_nodes=count, max_nodes_per_layer=count // 12
    )  # random weights fade with depth
    device = find_device(args.device)
    found = [Case("gpt2_12x768", random_gpt2(device=device), large, 64, few)]
    if not args.quick:
        found += [Case("llama_12x768", random_llama(device=device), large, 64, few)]
        if stories.is_dir():
            found += [Case("stories260K", load_model(stories, device=args.device), OPTIONS, 64, 64)]
    if demo.is_dir():
        found += [Case("demo", load_model(demo, device=args.device), OPTIONS, 32, 64)]
    return found


def random_gpt2(layers: int = 12, *, device: torch.device = CPU) -> Adapter:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(n_layer=layers, n_embd=768, n_head=12, vocab_size=5000, bos_token_id=0, eos_token_id=0)
    return spread_weights(GPT2LMHeadModel(config), device)


def random_llama(layers: int = 12, *, device: torch.device = CPU) -> Adapter:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        num_hidden_layers=layers,
        hidden_size=768,
        intermediate_size=2048,
        num_attention_heads=12,
        num_key_value_heads=12,
        vocab_size=5000,
    )
    return spread_weights(LlamaForCausalLM(config), device)


def spread_weights(model: torch.nn.Module, device: torch.device) -> Adapter:
    """Draw weights that keep the variance, so that patterns are not uniform and nodes stand at many positions."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2:
            fan_in = 1 if "wte" in name or "wpe" in name or "embed" in name else min(parameter.shape)
            gain = 2 if "attn" in name else 1  # sharp patterns: what a target rests on stands at many positions
            parameter.data = torch.randn(parameter.shape, generator=generator) * gain / math.sqrt(fan_in)
    return adapt(model.to(device), None, name="random", revision="0" * 16)


def matmul_rate(device: torch.device = CPU) -> float:
    """Multiply-adds a second of large float32 matrix products on all cores, or on the GPU."""
    rows, times = (4096, 10) if device.type == "cpu" else (65536, 20)
    x, w = torch.randn(rows, 768, device=device), torch.randn(768, 768, device=device)
    return times * rows * 768 * 768 / seconds(lambda: [x @ w for _ in range(times)], device)


def seconds(work: Callable[[], object], device: torch.device) -> float:
    start = now(device)
    work()
    return now(device) - start


def now(device: torch.device) -> float:
    """The clock, when the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def run(case: Case, args: argparse.Namespace) -> dict[str, Any]:
    """Time one model; prints a line for each way."""
    prompts = draw_prompts(case)
    with replacement(case.adapter) as model:
        engine = Engine(case.adapter, model, case.options)
        graphs, engine_s = time_engine(engine, prompts, args, case.adapter.device)
        single_s, difference = time_single(case, model, prompts[0], graphs[0])
        batched_s = time_batched(case, model, prompts[0], graphs[0])
    rate = statistics.median(matmul_rate(case.adapter.device) for _ in range(3))
    floor = statistics.fmean(floor_macs(case.adapter, graph) for graph in graphs) / rate
    middle = statistics.median(engine_s)
    result = {
        "graphs_per_s": 1 / middle,
        "speedup_vs_single_backward": single_s / middle,
        "speedup_vs_batched_grads": batched_s / middle,
        "fraction_of_floor": floor / middle,
        "max_abs_difference": difference,
        "targets": statistics.fmean(len(graph.nodes.layer) for graph in graphs),
        "mean_position": float(np.mean(np.concatenate([graph.nodes.position for graph in graphs]))),
        "mean_layer": float(np.mean(np.concatenate([graph.nodes.layer for graph in graphs]))),
        "tokens": case.tokens,
        "seconds_per_graph": {"min": min(engine_s), "median": middle, "max": max(engine_s)},
        "largest_residual": max(graph.completeness_residual for graph in graphs),
    }
    print(f"{case.name}: {result['targets']:.0f} targets, {case.tokens} tokens, mean layer {result['mean_layer']:.1f}")
    print(f"  engine {middle:.4f} s/graph (min {min(engine_s):.4f}, max {max(engine_s):.4f}), floor {floor:.4f}")
    print(f"  one backward per target {single_s:.3f}, is_grads_batched {batched_s:.3f}; difference {difference:.2e}")
    return result


def draw_prompts(case: Case) -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    vocab = case.adapter.spec.vocab
    return [torch.randint(3, vocab, (case.tokens,), generator=generator).tolist() for _ in range(case.graphs)]


def time_engine(
    engine: Engine, prompts: list[list[int]], args: argparse.Namespace, device: torch.device
) -> tuple[list[Graph], list[float]]:
    """Graphs, and seconds a graph of every round; batches of 512 tokens as a build makes them."""
    size = max(1, min(512 // len(prompts[0]), len(prompts) // args.workers))
    batches = [prompts[i : i + size] for i in range(0, len(prompts), size)]
    times = []
    with one_core():
        for _ in range(args.repeats + 1):
            start = now(device)
            found = [g for _, gs in work_in_order(iter(batches), engine.graphs, workers=args.workers) for g in gs]
            times.append((now(device) - start) / len(prompts))
    return [graph for graph in found if isinstance(graph, Graph)], times[1:]


def time_single(case: Case, model: Replacement, ids: list[int], graph: Graph) -> tuple[float, float]:
    """Seconds of one graph by one backward per target, and the largest difference of a flow."""
    device = case.adapter.device
    start = now(device)
    cut, leaves, gradient = prepared(model, ids, graph)
    logits = [torch.autograd.grad(cut.logits[0, -1, t], leaves, retain_graph=True) for t in graph.targets]
    fixed = now(device) - start
    nodes, every = graph.nodes, np.arange(len(graph.nodes.layer))
    sample = every[:: max(1, len(every) // 40)]
    dense = np.zeros((len(every), len(every)))
    dense[graph.edges.source, graph.edges.target] = graph.edges.weight
    worst, start = 0.0, now(device)
    for k in sample:
        target = cut.blocks[nodes.layer[k]].uncut[0, nodes.position[k], nodes.neuron[k]]
        found = torch.autograd.grad(
            target, [cut.embedding, *leaves], retain_graph=True, allow_unused=True, materialize_grads=True
        )
        flow = torch.stack([g[0] * leaf[0] for g, leaf in zip(found[1:], leaves, strict=True)]) * gradient[k]
        chosen = flow[nodes.layer, nodes.position, nodes.neuron].detach().double().cpu().numpy()
        worst = max(worst, float(np.abs(chosen - dense[:, k]).max()))
    assert logits
    return fixed + (now(device) - start) * len(every) / len(sample), worst


def time_batched(case: Case, model: Replacement, ids: list[int], graph: Graph) -> float:
    """Seconds of one graph with the targets of a layer in batches of 32."""
    start = now(case.adapter.device)
    cut, leaves, _ = prepared(model, ids, graph)
    nodes = graph.nodes
    outputs = [cut.logits[0, -1, graph.targets]]
    for layer in np.unique(nodes.layer):
        mine = np.flatnonzero(nodes.layer == layer)
        outputs += list(torch.split(cut.blocks[layer].uncut[0][nodes.position[mine], nodes.neuron[mine]], 32))
    for values in outputs:
        found = torch.autograd.grad(
            values,
            [cut.embedding, *leaves],
            torch.eye(len(values), dtype=values.dtype, device=values.device),
            retain_graph=True,
            is_grads_batched=True,
            allow_unused=True,
        )
        for layer, effect in enumerate(found[1:]):
            mine = nodes.layer == layer
            if effect is not None:
                effect[:, 0][:, nodes.position[mine], nodes.neuron[mine]]
    return now(case.adapter.device) - start


def prepared(model: Replacement, ids: list[int], graph: Graph) -> tuple[Trace, list[Tensor], Tensor]:
    """Total gradients of the nodes, and the run whose activations are leaves."""
    live = model.run([ids])
    hidden = [record.hidden for record in live.blocks]
    total = torch.autograd.grad(live.logits[0, -1, graph.targets].sum(), hidden)
    nodes = graph.nodes
    gradient = torch.stack([g[0] for g in total])[nodes.layer, nodes.position, nodes.neuron]
    cut = model.run([ids], Rules(leaves=True))
    return cut, [record.hidden for record in cut.blocks], gradient


def floor_macs(adapter: Adapter, graph: Graph) -> float:
    """Multiply-adds of V and O over the positions and layers that every target reaches."""
    from atlas.models.linear import value_and_output

    value, output = value_and_output(adapter.blocks[0].attention)
    per_row = value.weight.numel() + output.weight.numel()
    nodes = graph.nodes
    below = nodes.layer + (0 if adapter.blocks[0].parallel else 1)
    rows = ((nodes.position + 1) * below).sum() + len(graph.targets) * (graph.target_position + 1) * adapter.spec.layers
    return float(rows) * per_row


def growth(args: argparse.Namespace) -> dict[str, dict[int, float]]:
    """Seconds a graph as one size grows, on the Llama-shaped model: a table and bars."""
    base = replace(OPTIONS, tau=0.0, max_nodes=None, max_nodes_per_layer=8)
    device = find_device(args.device)
    model = random_llama(device=device)
    small = [Case("", model, base, tokens, 4) for tokens in (16, 32, 64, 128)]
    sizes: dict[str, dict[int, Case]] = {
        "targets": {n: Case("", model, replace(base, max_nodes_per_layer=n // 12), 32, 4) for n in (48, 96, 192, 384)},
        "tokens": {case.tokens: case for case in small},
        "layers": {n: Case("", random_llama(n, device=device), base, 32, 4) for n in (3, 6, 12)},
    }
    found: dict[str, dict[int, float]] = {}
    for name, by_size in sizes.items():
        found[name] = {size: time_case(case, args) for size, case in by_size.items()}
        longest = max(found[name].values())
        print(f"seconds a graph by {name}")
        for size, value in found[name].items():
            print(f"  {size:>5} {value:8.4f} {'#' * round(60 * value / longest)}")
    return found


def time_case(case: Case, args: argparse.Namespace) -> float:
    twice = argparse.Namespace(workers=args.workers, repeats=2)
    with replacement(case.adapter) as model:
        engine = Engine(case.adapter, model, case.options)
        return statistics.median(time_engine(engine, draw_prompts(case), twice, case.adapter.device)[1])


if __name__ == "__main__":
    main()
