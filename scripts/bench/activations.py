"""Time of the activation pass against a bare forward pass, of the gradient pass against forward + backward, and memory.

Same process, tokens, batches, threads and workers; baseline and engine alternate, so that both see the same machine.
The bare forward is the full model with logits; the engine stops at the last activations, which need none, so the ratio
to the bare body (no logits, but the whole last MLP) stands beside it. The whole engine is timed: tokenising,
calibration, pass, writing. Ratios are of processor time, which other work on the machine moves less than wall time.
Part of the engine's cost does not grow with the corpus (calibration, filling the exemplar lists, writing them), so it
is also timed on half of the corpus: ratio_marginal is the cost of the second half. An uncounted round compiles the
loops of the engine, 15 s once on a machine, cached on disk afterwards. Random corpora are Zipf-distributed tokens; the
12-layer models see 131,072 of them, about 8 minutes a model and round on 2 idle cores. Peak memory is that of a process
of its own for each of corpora of 1, 4 and 16 times the size.

    python scripts/bench/activations.py --quick
    python scripts/bench/activations.py --repeats 3 --workers 4
    python scripts/bench/activations.py --model FOLDER --corpus stories.json
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from atlas.measure import activations, gradients
from atlas.measure.batches import Batch, Counts, Reading, read_batches, work_in_order
from atlas.measure.corpus import Corpus, read_corpus
from atlas.models.adapter import Adapter, adapt, load_model
from atlas.models.threads import one_core
from atlas.progress import Quiet
from atlas.shards import Shard

ROOT = Path(__file__).parents[2]
QUIET = Quiet()


class Numbers:
    """A tokenizer of texts that are token ids in decimal."""

    bos_token_id = 1

    def __call__(self, texts: list[str], **_: Any) -> dict[str, list[list[int]]]:
        """Tokenise."""
        return {"input_ids": [[int(word) for word in text.split()] for text in texts]}


@dataclass(frozen=True)
class Case:
    """A model with a corpus for the activation pass and one for the gradient pass."""

    name: str
    adapter: Adapter
    corpus: Corpus
    calibration: Corpus
    options: activations.ActivationOptions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="2 layers and few tokens, under 50 s on 2 cores")
    parser.add_argument("--repeats", type=int, default=1, help="rounds that count, after one of the small passes")
    parser.add_argument("--workers", type=int, default=min(os.cpu_count() or 1, 8), help="threads that run batches")
    parser.add_argument("--only", choices=sorted(CASES), help="one of the models, without the memory runs")
    parser.add_argument("--model", type=Path, help="a model folder of your own instead")
    parser.add_argument("--corpus", type=Path, help="its corpus")
    parser.add_argument("--fire-quantile", type=float, default=0.98, help="of --model (0.98 as in recipes)")
    parser.add_argument("--memory-of", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if (args.model is None) != (args.corpus is None):
        parser.error("--model and --corpus belong together")
    if args.memory_of:
        return print(memory_of(args.memory_of, args.workers))
    chosen = [args.only] if args.only else ["llama_2x768"] if args.quick else ["llama_12x768", "gpt2_12x768", "demo"]
    cases = [lambda: own(args)] if args.model else [CASES[name] for name in chosen]
    found = {case.name: run(case, args.repeats, args.workers) for case in (make() for make in cases)}
    memory = {} if args.model or args.only else peaks(60_000 if not args.quick else 6_000, args.workers)
    print(json.dumps(summary(found, memory, args.workers)))


def summary(found: dict[str, dict[str, Any]], memory: dict[str, int], workers: int) -> dict[str, Any]:
    """Take the worst ratios over the models, and everything by model."""
    names = ("ratio_to_bare_forward", "ratio_to_bare_body", "ratio_marginal", "ratio_gradients", "ratio_wall")
    return {
        **{name: max(result[name] for result in found.values()) for name in names},
        "by_model": found,
        "workers": workers,
        "peak_rss_bytes": memory,
        "rss_16x_over_1x": memory["16x"] / memory["1x"] if memory else None,
    }


def peaks(tokens: int, workers: int) -> dict[str, int]:
    """Peak resident bytes of the pass over JSON lines of `tokens` times 1, 4 and 16, a process each."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for times in (1, 4, 16):
            path = Path(folder) / f"{times}x.jsonl"
            texts = random_corpus(times * tokens, 500).documents
            path.write_text("".join(json.dumps(text) + "\n" for text in texts))
            command = [sys.executable, __file__, "--memory-of", str(path), "--workers", str(workers)]
            found[f"{times}x"] = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            print(f"memory: {times * tokens:>9,} tokens, peak {found[f'{times}x'] / 1e6:8.1f} MB")
    return found


def memory_of(path: Path, workers: int) -> int:
    """Measure a corpus with a small model; peak resident bytes of this process."""
    adapter, options = random_llama(4, 96, 384, 500), activations.ActivationOptions()
    with tempfile.TemporaryDirectory() as folder:
        common: dict[str, Any] = {"shard": Shard("bench"), "progress": QUIET, "workers": workers}
        activations.measure(adapter, read_corpus(path), Path(folder), options=options, **common)
    status = Path("/proc/self/status")
    if not status.is_file():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # ru_maxrss of Linux starts at that of the process which started this one
    high = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(high.split()[1]) * 1024


def demo() -> Case:
    """Make the demo model and its whole corpus, or a random model of its shape where the demo is absent."""
    options = activations.ActivationOptions(fire_quantile=0.95)  # that of data/recipes/demo.toml
    folder = ROOT / "data" / "demo"
    if (folder / "model").is_dir():
        corpus = read_corpus(folder / "corpus.json")
        adapter = load_model(folder / "model", device="cpu")
    else:
        corpus, adapter = random_corpus(80_000, 500), random_llama(4, 96, 384, 500)
    return Case("demo", adapter, corpus, part(corpus, 200), options)


def own(args: argparse.Namespace) -> Case:
    """Take a model and a corpus from files; 1/15 of the documents calibrate."""
    options = activations.ActivationOptions(fire_quantile=args.fire_quantile)
    corpus = read_corpus(args.corpus)
    adapter = load_model(args.model, device="cpu")
    return Case(args.model.name, adapter, corpus, part(corpus, max(len(corpus.documents) // 15, 1)), options)


def llama(layers: int, tokens: int, calibration: int) -> Case:
    """Make a random Llama of d 768, 2048 neurons a layer; a fifteenth of the corpus calibrates pruning.

    The vocabulary grows with the layers, so that logits are the share of a bare forward that they are at 12 layers.
    """
    adapter = random_llama(layers, 768, 2048, vocab := 5000 * layers // 12)
    return random_case(f"llama_{layers}x768", adapter, random_corpus(tokens, vocab), calibration)


def gpt2(layers: int, tokens: int, calibration: int) -> Case:
    """Make a random GPT-2 of d 768, 3072 neurons a layer."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    size = {"n_embd": 768, "n_layer": layers, "n_head": 12, "n_positions": 512, "vocab_size": 5000 * layers // 12}
    model = GPT2LMHeadModel(GPT2Config(**size, bos_token_id=1, eos_token_id=1))
    adapter = adapt(model, Numbers(), name="random", revision="0")
    return random_case(f"gpt2_{layers}x768", adapter, random_corpus(tokens, adapter.spec.vocab), calibration)


def random_case(name: str, adapter: Adapter, corpus: Corpus, calibration: int) -> Case:
    options = activations.ActivationOptions(calibration_tokens=calibration)
    return Case(name, adapter, corpus, part(corpus, max(len(corpus.documents) // 15, 4)), options)


def random_llama(layers: int, width: int, neurons: int, vocab: int) -> Adapter:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=width,
        intermediate_size=neurons,
        num_hidden_layers=layers,
        num_attention_heads=width // 24 if width < 256 else width // 64,
        max_position_embeddings=512,
    )
    return adapt(LlamaForCausalLM(config), Numbers(), name="random", revision="0")


def random_corpus(tokens: int, vocab: int) -> Corpus:
    """Make documents of 60 to 400 tokens, about `tokens` in all, drawn with probability 1 / rank."""
    draw = np.random.default_rng(0)
    share = 1 / np.arange(1, vocab - 2)
    words = draw.choice(vocab - 3, size=tokens, p=share / share.sum()) + 3
    cuts = np.cumsum(draw.integers(60, 400, size=tokens // 60))
    pieces = np.split(words, cuts[cuts < tokens])
    return Corpus("random", [" ".join(map(str, piece.tolist())) for piece in pieces], "0")


def part(corpus: Corpus, documents: int) -> Corpus:
    return Corpus(corpus.name, corpus.documents[:documents], corpus.sha256)


def run(case: Case, repeats: int, workers: int) -> dict[str, Any]:
    """Time one model; prints one line per measurement."""
    model, grad_options = case.adapter.model, gradients.GradientOptions()
    half = part(case.corpus, len(case.corpus.documents) // 2)
    batches, half_batches = (batches_for(case, corpus, case.options) for corpus in (case.corpus, half))
    grad_batches = batches_for(case, case.calibration, grad_options)
    with tempfile.TemporaryDirectory() as folder:
        root, shard = Path(folder), Shard("bench")
        common: dict[str, Any] = {"shard": shard, "progress": QUIET, "workers": workers}
        engine = partial(activations.measure, case.adapter, options=case.options, **common)
        grad = partial(gradients.measure, case.adapter, options=grad_options, **common)
        passes: dict[str, Callable[[], object]] = {
            "bare forward": lambda: every(batches, partial(forward, model), workers),
            "activation pass": lambda: engine(case.corpus, root / "whole"),
            "bare body": lambda: every(batches, partial(forward, body_of(model)), workers),
            "bare forward, half": lambda: every(half_batches, partial(forward, model), workers),
            "activation pass, half": lambda: engine(half, root / "half"),
            "forward + backward": lambda: backward(case.adapter, grad_batches, workers),
            "gradient pass": lambda: grad(case.calibration, root / "gradients"),
        }
        times = interleaved(passes, repeats)
    tokens = sum(batch.real_tokens for batch in batches)
    result = {**ratios(times), "tokens": tokens, "neurons": case.adapter.spec.neurons}
    print(f"{case.name}: {case.adapter.spec.neurons:,} neurons, {tokens:,} tokens, {workers} workers")
    for name, seconds in times.items():
        print(f"  {name:<26}" + ", ".join(f"{key} {value:8.3f}" for key, value in spread(seconds).items()) + " s")
    print("  " + ", ".join(f"{key} {value:.3f}" for key, value in result.items() if key.startswith("ratio")))
    return result


def ratios(times: dict[str, list[float]]) -> dict[str, Any]:
    """Medians over rounds of the ratio within a round; the marginal ratio is made of medians."""

    def over(name: str, base: str) -> float:
        return statistics.median(a / b for a, b in zip(times[name], times[base], strict=True))

    def second_half(name: str) -> float:
        return statistics.median(times[name]) - statistics.median(times[f"{name}, half"])

    return {
        "ratio_to_bare_forward": over("cpu activation pass", "cpu bare forward"),
        "ratio_to_bare_body": over("cpu activation pass", "cpu bare body"),
        "ratio_marginal": second_half("cpu activation pass") / second_half("cpu bare forward"),
        "ratio_gradients": over("cpu gradient pass", "cpu forward + backward"),
        "ratio_wall": over("activation pass", "bare forward"),
        "ratio_marginal_wall": second_half("activation pass") / second_half("bare forward"),
        "noise": spread(times["cpu bare forward"]),
        "bare_forward_cpu_s": statistics.median(times["cpu bare forward"]),
        "activation_pass_cpu_s": statistics.median(times["cpu activation pass"]),
    }


def spread(seconds: list[float]) -> dict[str, float]:
    return {"min": min(seconds), "median": statistics.median(seconds), "max": max(seconds)}


def interleaved(passes: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Measure wall and processor seconds of every pass, `repeats` rounds after an uncounted pass of each engine."""
    times: dict[str, list[float]] = {name: [] for name in (*passes, *(f"cpu {name}" for name in passes))}
    for turn in range(repeats + 1):
        for name, work in passes.items():
            if not turn and name not in ("activation pass, half", "gradient pass"):  # wakes threads, compiles kernels
                continue
            start, cpu = time.perf_counter(), time.process_time()
            work()
            if turn:
                times[name].append(time.perf_counter() - start)
                times[f"cpu {name}"].append(time.process_time() - cpu)
    return times


def batches_for(case: Case, corpus: Corpus, options: Any) -> list[Batch]:
    reading = reading_of(case, options)
    documents = range(len(corpus.documents))
    return list(read_batches(corpus, documents, tokenizer=case.adapter.tokenizer, reading=reading, counts=Counts()))


def reading_of(case: Case, options: Any) -> Reading:
    length = min(case.adapter.spec.context, 512)
    return Reading(length, options.batch_tokens, options.block_documents, options.skip_bos)


def every(batches: list[Batch], work: Callable[[Batch], None], workers: int) -> None:
    with one_core():
        for _ in work_in_order(iter(batches), work, workers=workers):
            pass


def body_of(model: Any) -> Any:
    """The model without its logits."""
    return getattr(model, model.base_model_prefix)


def forward(module: Any, batch: Batch) -> None:
    with torch.inference_mode():
        module(input_ids=torch.from_numpy(batch.input_ids), use_cache=False)


def backward(adapter: Adapter, batches: list[Batch], workers: int) -> None:
    with gradients.recorded(adapter) as record:
        every(batches, lambda batch: list(gradients.gradients_of(adapter, record, batch)) and None, workers)


CASES: dict[str, Callable[[], Case]] = {
    "demo": demo,
    "llama_2x768": partial(llama, 2, 8_000, 512),
    "llama_12x768": partial(llama, 12, 131_072, 4096),
    "gpt2_12x768": partial(gpt2, 12, 131_072, 4096),
}

if __name__ == "__main__":
    main()
