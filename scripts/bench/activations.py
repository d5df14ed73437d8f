"""Time of the activation pass against a bare forward pass, and of the gradient pass against forward + backward.

Same process, tokens, batches, threads and workers; baseline and engine alternate, so that both see the same machine.
The bare forward is the full model with logits; the engine runs the body only (activations need no logits), so the
ratio to the body alone is printed too. The whole engine is timed: tokenising, calibration prefix, pass, writing.
On a machine that others use too, the ratios of processor time (cpu_ratio_...) are the steadier ones.

    python scripts/bench/activations.py --quick
    python scripts/bench/activations.py --repeats 7 --workers 4
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
from pathlib import Path
from typing import Any

import torch

from atlas.measure import activations, gradients
from atlas.measure.batches import Batch, Counts, Reading, one_thread, read_batches, work_in_order
from atlas.measure.calibration import Levels, calibrate
from atlas.measure.corpus import Corpus, read_corpus
from atlas.measure.tap import Tap, tapped
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
    parser.add_argument("--repeats", type=int, help="repeats per measurement (default 5, quick 2)")
    parser.add_argument("--workers", type=int, default=min(os.cpu_count() or 1, 8), help="threads that run batches")
    args = parser.parse_args()
    repeats = args.repeats or (2 if args.quick else 5)
    found = {}
    for make in [demo] if args.quick else [demo, large]:
        case = make(args.quick)
        found[case.name] = run(case, repeats, args.workers)
    print(json.dumps(summary(found, args.workers)))


def summary(found: dict[str, dict[str, float]], workers: int) -> dict[str, Any]:
    """Take the largest ratios over the models, and everything by model."""
    return {
        "ratio_to_bare_forward": max(result["ratio_to_bare_forward"] for result in found.values()),
        "ratio_gradients": max(result["ratio_gradients"] for result in found.values()),
        "by_model": found,
        "tokens": int(sum(result["tokens"] for result in found.values())),
        "workers": workers,
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def demo(quick: bool) -> Case:
    """Make the demo model and corpus, or a random model of its shape where the demo is absent."""
    options = activations.ActivationOptions()
    folder = ROOT / "data" / "demo"
    if (folder / "model").is_dir():
        corpus = read_corpus(folder / "corpus.json", limit=2000 if quick else None)
        adapter = load_model(folder / "model", device="cpu")
    else:
        corpus, adapter = random_corpus(2000, 40, 500), random_llama(4, 96, 384, 500)
    return Case("demo", adapter, corpus, part(corpus, 400), options)


def large(_: bool) -> Case:
    """Make a random Llama of 12 layers, d 768, 2048 neurons a layer."""
    options = activations.ActivationOptions(calibration_tokens=1024, batch_tokens=2048)
    corpus = random_corpus(32, 120, 5000)
    return Case("llama_12x768", random_llama(12, 768, 2048, 5000), corpus, part(corpus, 8), options)


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


def run(case: Case, repeats: int, workers: int) -> dict[str, float]:
    """Time one model; prints one line per measurement."""
    grad_options = gradients.GradientOptions()
    batches = batches_for(case, case.corpus, case.options)
    grad_batches = batches_for(case, case.calibration, grad_options)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        passes = {
            "bare forward": lambda: every(batches, lambda b: forward(case.adapter.model, b), workers),
            "body without logits": lambda: every(batches, lambda b: forward(body(case.adapter), b), workers),
            "activation pass": lambda: activations.measure(
                case.adapter, case.corpus, root, shard=Shard("bench"), options=case.options, progress=QUIET,
                workers=workers,
            ),
            "its calibration": lambda: prefix(case, workers),
            "forward + backward": lambda: backward(case.adapter, grad_batches, workers),
            "gradient pass": lambda: gradients.measure(
                case.adapter, case.calibration, root / "g", shard=Shard("bench"), options=grad_options, progress=QUIET,
                workers=workers,
            ),
        }  # fmt: skip
        times = interleaved(passes, repeats)
    tokens = sum(batch.real_tokens for batch in batches)
    print(f"{case.name}: {case.adapter.spec.neurons:,} neurons, {tokens:,} tokens, {workers} workers")
    for name, seconds in times.items():
        print(
            f"  {name:<22} min {min(seconds):8.3f}  median {statistics.median(seconds):8.3f}  max {max(seconds):8.3f} s"
        )
    result = ratios(times) | {"tokens": float(tokens), "neurons": float(case.adapter.spec.neurons)}
    print("  " + ", ".join(f"{key} {value:.3f}" for key, value in result.items() if "ratio" in key))
    return result


def ratios(times: dict[str, list[float]]) -> dict[str, float]:
    """Medians over repeats of the ratio within a repeat."""

    def over(name: str, base: str, less: str | None = None) -> float:
        extra = times[less] if less else [0.0] * len(times[name])
        return statistics.median((a - x) / b for a, x, b in zip(times[name], extra, times[base], strict=True))

    return {
        "ratio_to_bare_forward": over("activation pass", "bare forward"),
        "ratio_without_calibration": over("activation pass", "bare forward", "its calibration"),
        "ratio_to_body": over("activation pass", "body without logits"),
        "ratio_gradients": over("gradient pass", "forward + backward"),
        "cpu_ratio_to_bare_forward": over("cpu activation pass", "cpu bare forward"),
        "cpu_ratio_without_calibration": over("cpu activation pass", "cpu bare forward", "cpu its calibration"),
        "cpu_ratio_gradients": over("cpu gradient pass", "cpu forward + backward"),
        "bare_forward_s": statistics.median(times["bare forward"]),
        "activation_pass_s": statistics.median(times["activation pass"]),
    }


def interleaved(passes: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Measure wall and processor seconds of every pass, `repeats` rounds after one that is not counted."""
    times: dict[str, list[float]] = {name: [] for name in (*passes, *(f"cpu {name}" for name in passes))}
    for turn in range(repeats + 1):
        for name, work in passes.items():
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


def body(adapter: Adapter) -> Any:
    return getattr(adapter.model, str(adapter.model.base_model_prefix))


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


def prefix(case: Case, workers: int) -> None:
    levels = Levels(case.options.calibration_tokens, case.options.fire_quantile, case.options.strata)
    tap: Tap
    with one_thread(), tapped(case.adapter) as tap:
        reading = reading_of(case, case.options)
        calibrate(case.adapter, case.corpus, tap, reading=reading, levels=levels, workers=workers)


if __name__ == "__main__":
    main()
