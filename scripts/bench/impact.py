"""Time of one impact and of exact ablation of a layer, on a model of GPT-2 small's shape with seeded random weights.

12 layers, d_model 768, 3,072 neurons a layer, vocabulary 50,257; 256 tokens (two documents of 128). An impact is
what `atlas impact` does with the model loaded: the unchanged model on the text, one neuron ablated, the bootstrap.
Exact mode is timed on a sample of the sets of a layer, one neuron each, the unchanged model kept; its floor is sets x
tokens x floating-point operations of the layers above and the unembedding, at the rate of large products of matrices
in the same round. Ratios are of processor time, which other work on the machine moves less than wall time (waiting
threads spin: on a busy machine use --threads 1); baseline and engine alternate, and each ratio is of one round. Peak
memory is that of the process, the model included.

    python scripts/bench/impact.py --quick
    python scripts/bench/impact.py --rounds 5 --sets 64
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from atlas.measure.ablation import Ablation, Ablator, HeldOut
from atlas.measure.corpus import Context
from atlas.measure.impact import impacts
from atlas.models.adapter import Adapter, adapt

TOKENS, DOCUMENTS = 256, 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round of few sets, under 50 s on 2 cores")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sets", type=int, default=32, help="neurons of a layer that exact mode is timed on")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--layers", type=int, nargs="+", default=[0, 6, 11], help="layers of exact mode")
    given = parser.parse_args()
    if given.quick:
        given.rounds, given.sets, given.layers = 1, 8, [6, 11]
    torch.set_num_threads(given.threads)
    adapter, held = gpt2_small(), held_out()
    one_impact(adapter, held, 0)  # compiles the loop over logits, once on a machine
    every = [one_round(adapter, held, given.layers, given.sets) for _ in range(given.rounds)]
    found = {name: spread([each[name] for each in every]) for name in every[0]}
    for name, values in found.items():
        print(f"{name:<28} median {values['median']:.4g}  ({values['min']:.4g} to {values['max']:.4g})")
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    sizes = {"rounds": given.rounds, "sets_sampled": given.sets, "sets_of_a_layer": adapter.spec.d_mlp,
             "tokens": TOKENS, "threads": torch.get_num_threads(), "peak_gib": round(memory, 2)}  # fmt: skip
    print(json.dumps({**found, **sizes, "baseline": "one forward pass; matrix products"}))


def one_round(adapter: Adapter, held: HeldOut, layers: list[int], sets: int) -> dict[str, float]:
    """Seconds and ratios of one round."""
    ids = torch.tensor([context.token_ids for context in held.contexts])
    first = sets % adapter.spec.d_mlp
    rate = operations() / timed(products)[1]
    with torch.inference_mode():
        forward_s, forward = timed(lambda: adapter.model(ids, use_cache=False).logits)
    told = {"gflops_per_cpu_s": rate / 1e9, "forward_s": forward_s}
    for layer in (0, adapter.spec.layers // 2):
        seconds, spent = timed(lambda layer=layer: one_impact(adapter, held, layer * adapter.spec.d_mlp + first))
        told |= {f"impact_s_layer_{layer}": seconds, f"impact_over_forward_layer_{layer}": spent / forward}
    with Ablator(adapter, held, Ablation("zero")) as ablator:
        ablator.measure([[]])  # the unchanged model is kept from here on
        for layer in layers:
            chosen = [[layer * adapter.spec.d_mlp + neuron] for neuron in range(sets)]
            seconds, spent = timed(lambda chosen=chosen: ablator.measure(chosen))
            floor = sets * TOKENS * above(adapter, layer) / rate
            told |= {f"exact_s_a_set_layer_{layer}": seconds / sets, f"exact_over_floor_layer_{layer}": spent / floor}
    return told


def one_impact(adapter: Adapter, held: HeldOut, neuron: int) -> Any:
    with Ablator(adapter, held, Ablation("zero")) as ablator:
        return impacts(ablator.measure([[neuron]]), [[neuron]])


def above(adapter: Adapter, layer: int) -> float:
    """Operations for one token in the blocks above a layer (projections and attention) and in the unembedding."""
    spec, length = adapter.spec, TOKENS // DOCUMENTS
    block = 2 * (4 * spec.d_model**2 + 2 * spec.d_model * spec.d_mlp) + 4 * length * spec.d_model
    return (spec.layers - 1 - layer) * block + 2 * spec.d_model * spec.vocab


def products() -> None:
    """Large products of the kind that the model consists of."""
    a, b = torch.ones(2048, 768), torch.ones(768, 3072)
    for _ in range(8):
        a @ b


def operations() -> float:
    return 8 * 2.0 * 2048 * 768 * 3072


def timed(work: Callable[[], Any]) -> tuple[float, float]:
    """Wall and processor seconds."""
    wall, spent = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - spent


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def gpt2_small() -> Adapter:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    return adapt(GPT2LMHeadModel(GPT2Config()), None, name="gpt2-small-shaped", revision="0" * 16)


def held_out() -> HeldOut:
    length = TOKENS // DOCUMENTS
    drawn = torch.randint(50_257, (DOCUMENTS, length + 1), generator=torch.Generator().manual_seed(1)).tolist()
    contexts = tuple(Context(i << 20, i, 0, tuple(ids)) for i, ids in enumerate(drawn))
    return HeldOut(contexts, tuple(f"{i:064}" for i in range(DOCUMENTS)), length + 1)


if __name__ == "__main__":
    main()
