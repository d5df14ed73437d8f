"""Time of the importance of a layer on a model of GPT-2 small's shape, and quality of estimates on trained models.

Time: 3,072 neurons of a layer on 256 tokens, the model loaded: estimate, ablation of the default sample, calibration
and intervals; against one forward pass in the same round, in processor time (impact.py). Quality: on the demo model,
stories260K and slm4096, the default answer against `--exact` on the same text, over the neurons that keep an estimate:
Spearman, the factor by which estimates are off, and the share within their limits (two one-sided 95% limits).

    python scripts/bench/importance.py --quick
    python scripts/bench/importance.py --rounds 3 --threads 1
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from impact import gpt2_small, held_out, timed

from atlas.build.importance import Importance, importance_of
from atlas.build.measured_sets import Judging, MeasuredSets
from atlas.measure import ablation
from atlas.measure.ablation import Ablation, Ablator, HeldOut
from atlas.measure.corpus import read_corpus
from atlas.measure.importance import correlation, ranks
from atlas.models.adapter import Adapter, load_model
from atlas.progress import Quiet

ROOT = Path(__file__).parents[2]
SHARED = Path(os.environ.get("ATLAS_SHARED", ROOT.parent / "shared")) / "data"
MODELS = {  # folder, corpus, first held-out document, context length
    "demo": (ROOT / "data/demo/model", ROOT / "data/demo/corpus.json", 2600, None),
    "stories260K": (SHARED / "models/stories260K-hf", SHARED / "corpora/tinystories_1000.json", 600, 256),
    "slm4096": (SHARED / "models/slm4096-hf", SHARED / "corpora/slm4096_corpus.txt", 0, 64),
}
TOKENS = 256
CHARACTERS = 96  # of a document, so that there are several to draw
CALIBRATION = 40  # documents that the means are of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round, one layer a model, under 50 s on 2 cores")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--layers", type=int, nargs="+", default=[0, 6, 11], help="layers of the model of random weights"
    )
    parser.add_argument("--only", choices=["time", *MODELS], help="the time, or one model's quality")
    given = parser.parse_args()
    if given.quick:
        given.rounds, given.layers = 1, [11]
    torch.set_num_threads(given.threads)
    told: dict[str, Any] = {"tokens": TOKENS, "threads": torch.get_num_threads(), "baseline": "one forward pass"}
    if given.only in (None, "time"):
        told |= times(given.rounds, given.layers)
    told["quality"] = {name: quality(name, quick=given.quick) for name in MODELS if given.only in (None, name)}
    told["spearman"] = {name: found and found["spearman"] for name, found in told["quality"].items()}
    print(json.dumps(told))


def times(rounds: int, layers: list[int]) -> dict[str, Any]:
    """Medians over rounds by layer."""
    adapter, held = gpt2_small(), held_out()
    ids = torch.tensor([context.token_ids for context in held.contexts])
    found: dict[str, dict[int, list[float]]] = {"layer_importance_s": {}, "ratio_to_forward": {}, "measured": {}}
    for layer in layers * rounds:
        with torch.inference_mode():
            _, forward = timed(lambda: adapter.model(ids, use_cache=False).logits)
        answers: list[Importance] = []
        with opened(adapter, held, Ablation("zero")) as sets:
            seconds, spent = timed(lambda layer=layer, sets=sets: answers.append(importance_of(sets, layer)))  # noqa: B023
        measured = sum(row["evidence"] == "measured" for row in answers[0].scores)
        for name, value in zip(found, (seconds, spent / forward, measured), strict=True):
            found[name].setdefault(layer, []).append(value)
        print(
            f"layer {layer}: {seconds:.1f} s, {spent / forward:.1f} forward passes of {forward:.2f} s, {measured} sets"
        )
    return {name: {k: statistics.median(v) for k, v in values.items()} for name, values in found.items()}


def quality(name: str, *, quick: bool) -> dict[str, Any] | None:
    """Means over layers; None where the model is not at hand."""
    folder, corpus, first, length = MODELS[name]
    if not folder.is_dir():
        return None
    adapter = load_model(folder, device="cpu")
    documents = read_corpus(corpus).documents
    texts = documents[first : first + 100]
    if len(documents) == 1:  # slm4096 knows one text
        texts = [documents[0][start:] for start in range(0, len(documents[0]), CHARACTERS)]
    beginnings = [text[:CHARACTERS] for text in texts]
    held = ablation.held_out(adapter, beginnings, context_length=length, max_tokens=TOKENS)
    ablated = Ablation("mean", means_of(adapter, documents[:CALIBRATION], length))
    layers = [adapter.spec.layers // 2] if quick else list(range(adapter.spec.layers))
    each = [agreement(adapter, held, ablated, layer) for layer in layers]
    there = {key: [one[key] for one in each if one[key] is not None] for key in each[0]}
    found = {key: float(np.mean(values)) if values else None for key, values in there.items()}
    print(name, {key: value if value is None else round(value, 3) for key, value in found.items()})
    return found | {"layers": len(layers), "documents": len(held.sha256)}


def means_of(adapter: Adapter, documents: Any, length: int | None) -> npt.NDArray[np.float64]:
    """Mean activations [layers, d_mlp] over predicted positions of the first documents."""
    sums: dict[int, Any] = {}

    def seen(layer: int) -> Any:
        return lambda _, inputs: sums.__setitem__(layer, sums.get(layer, 0.0) + inputs[0][0, :-1].double().sum(0))

    held = ablation.held_out(adapter, list(documents), context_length=length)
    hooks = [block.down.register_forward_pre_hook(seen(block.index)) for block in adapter.blocks]
    with torch.inference_mode():
        for context in held.contexts:
            adapter.model(torch.tensor([context.token_ids]), use_cache=False)
    for hook in hooks:
        hook.remove()
    return np.stack([sums[layer].numpy() for layer in range(adapter.spec.layers)]) / held.tokens


def agreement(adapter: Adapter, held: HeldOut, ablated: Ablation, layer: int) -> dict[str, float | None]:
    """The default answer against exact values of the neurons that it estimates; `told_` is what it says itself."""
    with opened(adapter, held, ablated) as sets:
        usual = importance_of(sets, layer)
        exact = importance_of(sets, layer, exact=True)
    truth = {row["neuron"]: row["kl"] for row in exact.scores}
    rows = [row for row in usual.scores if row["evidence"] == "estimated"]
    kl, true = np.array([row["kl"] for row in rows]), np.array([truth[row["neuron"]] for row in rows])
    there = (kl > 0) & (true > 0)
    off = np.abs(np.log(kl[there] / true[there]))
    limits = [
        row["kl_low"] <= t <= row["kl_high"] for row, t in zip(rows, true, strict=True) if row["kl_high"] is not None
    ]
    every = np.array([[row["kl"], truth[row["neuron"]]] for row in usual.scores])
    critical = [{row["neuron"] for row in one.scores if row["is_critical"]} for one in (usual, exact)]
    told = usual.calibration
    return {
        "spearman": correlation(ranks(kl), ranks(true)),
        "spearman_of_the_answer": correlation(ranks(every[:, 0]), ranks(every[:, 1])),
        "told_spearman": told.spearman,
        "error_median": float(np.median(off)),
        "error_p95": float(np.quantile(off, 0.95)),
        "told_error_median": told.error_median,
        "told_error_p95": told.error_p95,
        "within_limits": float(np.mean(limits)) if limits else None,
        "measured": float(len(every) - len(rows)),
        "critical_shared": len(critical[0] & critical[1]) / len(critical[0] | critical[1]) if any(critical) else None,
    }


@contextmanager
def opened(adapter: Adapter, held: HeldOut, ablated: Ablation) -> Iterator[MeasuredSets]:
    """Measuring without an atlas."""
    with Ablator(adapter, held, ablated) as ablator:
        yield MeasuredSets(adapter, held, ablated, Judging(store=False), ablator, {}, (), Quiet())


if __name__ == "__main__":
    main()
