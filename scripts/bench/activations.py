"""Time of the activation pass against a bare forward pass, and of the gradient pass against forward + backward.

Same process, tokens, batches, threads and workers; baseline and engine alternate, so that both see the same machine.
The bare forward is the full model with logits; the engine stops at the last activations, which need none. The whole
engine is timed: tokenising, calibration, pass, writing. Ratios are of processor time, which other work on the machine
moves less than wall time. Part of the engine's cost does not grow with the corpus (calibration, filling the exemplar
lists, writing them), so it is also timed on half of the corpus: ratio_marginal is the cost of the second half.

    python scripts/bench/activations.py --quick
    python scripts/bench/activations.py --repeats 7 --workers 4
    python scripts/bench/activations.py --model FOLDER --corpus stories.json
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from atlas.measure import activations, gradients
from atlas.measure.batches import Batch, Counts, Reading, one_thread, read_batches, work_in_order
from atlas.measure.corpus import Corpus, read_corpus
from atlas.models.adapter import Adapter, adapt, load_model
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
    parser.add_argument("--quick", action="store_true", help="the demo-sized model only, under 50 s on 2 cores")
    parser.add_argument("--repeats", type=int, default=2, help="rounds that count, after one that does not")
    parser.add_argument("--workers", type=int, default=min(os.cpu_count() or 1, 8), help="threads that run batches")
    parser.add_argument("--model", type=Path, help="a model folder of your own instead")
    parser.add_argument("--corpus", type=Path, help="its corpus")
    parser.add_argument("--fire-quantile", type=float, default=0.98, help="of --model (0.98 as in recipes)")
    args = parser.parse_args()
    if (args.model is None) != (args.corpus is None):
        parser.error("--model and --corpus belong together")
    found = {}
    cases = [lambda: own(args)] if args.model else [demo] if args.quick else [demo, large]
    for make in cases:
        case = make()
        found[case.name] = run(case, args.repeats, args.workers)
    print(json.dumps(summary(found, args.workers)))


def summary(found: dict[str, dict[str, Any]], workers: int) -> dict[str, Any]:
    """Take the ratios of the first model, and everything by model."""
    first = next(iter(found.values()))
    return {
        **{key: first[key] for key in ("ratio_to_bare_forward", "ratio_marginal", "ratio_gradients", "noise")},
        "by_model": found,
        "tokens": sum(result["tokens"] for result in found.values()),
        "workers": workers,
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def demo() -> Case:
    """Make the demo model and its whole corpus, or a random model of its shape where the demo is absent."""
    options = activations.ActivationOptions(fire_quantile=0.95)  # that of data/recipes/demo.toml
    folder = ROOT / "data" / "demo"
    if (folder / "model").is_dir():
        corpus = read_corpus(folder / "corpus.json")
        adapter = load_model(folder / "model", device="cpu")
    else:
        corpus, adapter = random_corpus(2000, 40, 500), random_llama(4, 96, 384, 500)
    return Case("demo", adapter, corpus, part(corpus, 200), options)


def own(args: argparse.Namespace) -> Case:
    """Take a model and a corpus from files; 1/15 of the documents calibrate."""
    options = activations.ActivationOptions(fire_quantile=args.fire_quantile)
    corpus = read_corpus(args.corpus)
    adapter = load_model(args.model, device="cpu")
    return Case(args.model.name, adapter, corpus, part(corpus, max(len(corpus.documents) // 15, 1)), options)


def large() -> Case:
    """Make a random Llama of 12 layers, d 768, 2048 neurons a layer; 1/15 of the corpus calibrates."""
    options = activations.ActivationOptions(calibration_tokens=512, batch_tokens=2048)
    corpus = random_corpus(64, 120, 5000)
    return Case("llama_12x768", random_llama(12, 768, 2048, 5000), corpus, part(corpus, 4), options)


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


def random_corpus(documents: int, length: int, vocab: int) -> Corpus:
    draw = random.Random(0)
    texts = [" ".join(str(draw.randrange(3, vocab)) for _ in range(length)) for _ in range(documents)]
    return Corpus("random", texts, "0")


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
        "ratio_marginal": second_half("cpu activation pass") / second_half("cpu bare forward"),
        "ratio_gradients": over("cpu gradient pass", "cpu forward + backward"),
        "ratio_wall": over("activation pass", "bare forward"),
        "noise": spread(times["cpu bare forward"]),
        "bare_forward_cpu_s": statistics.median(times["cpu bare forward"]),
        "activation_pass_cpu_s": statistics.median(times["cpu activation pass"]),
    }


def spread(seconds: list[float]) -> dict[str, float]:
    return {"min": min(seconds), "median": statistics.median(seconds), "max": max(seconds)}


def interleaved(passes: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Measure wall and processor seconds of every pass, `repeats` rounds after an uncounted one of halves."""
    times: dict[str, list[float]] = {name: [] for name in (*passes, *(f"cpu {name}" for name in passes))}
    for turn in range(repeats + 1):
        for name, work in passes.items():
            if not turn and f"{name}, half" in passes:
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
    with one_thread():
        for _ in work_in_order(iter(batches), work, workers=workers):
            pass


def forward(module: Any, batch: Batch) -> None:
    with torch.inference_mode():
        module(input_ids=torch.from_numpy(batch.input_ids), use_cache=False)


def backward(adapter: Adapter, batches: list[Batch], workers: int) -> None:
    with gradients.recorded(adapter) as record:
        every(batches, lambda batch: list(gradients.gradients_of(adapter, record, batch)) and None, workers)


if __name__ == "__main__":
    main()
