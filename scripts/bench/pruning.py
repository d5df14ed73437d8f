"""Whether pruning scores and verdicts can be trusted, on trained models small enough to ablate every neuron of.

Documents of the corpus are parted as a build parts them: calibration documents give scores and means; the held-out
tenth gives the true KL of every neuron, alone, by mean ablation; documents in neither are fresh text. Printed for each
model: Spearman of every score with the true KL, over all neurons and within layers, beside the reliability of the truth
(Spearman of two random halves of the held-out documents, stepped up to the whole by Spearman-Brown: no score can be
expected above its square root); the damage of removing the lowest 10, 20 and 30% of each layer by each method; joint
KL over the sum of single KLs for the safest neurons and for random ones; and how often a set declared safe on
held-out text stays under the budget on fresh text, with a 95% Wilson interval. `--times` adds those of impact.py,
importance.py and weights.py.

    python scripts/bench/pruning.py --quick
    python scripts/bench/pruning.py --keep truth --only stories260K     # goes on where a killed run stopped
"""

from __future__ import annotations

import argparse
import json
import math
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import spearmanr

from atlas.build.context import is_heldout
from atlas.ingest.neurons import score_pruning
from atlas.ingest.views import close_shards, open_shards
from atlas.measure import gradients, weights
from atlas.measure.ablation import Ablation, Ablator, Damages, HeldOut, held_out
from atlas.measure.corpus import Corpus, read_corpus
from atlas.measure.impact import BUDGET, SAFE, impacts
from atlas.models.adapter import Adapter, load_model
from atlas.models.folder import find_folder
from atlas.models.tensors import in_files
from atlas.progress import Quiet
from atlas.shards import Shard
from atlas.store.connection import open_writer
from atlas.store.schema import apply_schema

Floats = npt.NDArray[np.float64]
ROOT = Path(__file__).parents[2]
SHARED = Path(os.environ.get("ATLAS_SHARED", ROOT.parent / "shared")) / "data"
METHODS = ("fisher", "wifv", "weights", "taylor_abs", "wanda", "fisher_at_a")  # the last: without Var(a) mean g^2
SHARES = (10, 20, 30)
SIZES = (2, 4, 8, 16, 32, 64)
_SUMS = """INSERT INTO neuron_stats BY NAME SELECT layer, neuron, sum(n_tokens)::BIGINT AS n_tokens,
    sum(n_tokens)::BIGINT AS grad_tokens, sum(s_a) AS grad_s_a, sum(s_a2) AS grad_s_a2, sum(s_abs) AS grad_s_abs,
    sum(s_g2) AS grad_s_g2, sum(s_ag) AS grad_s_ag, sum(s_a2g2) AS grad_s_a2g2, sum(s_absag) AS grad_s_absag,
    sum(s_ag2) AS grad_s_ag2 FROM shard_gradient_stats GROUP BY layer, neuron"""


@dataclass(frozen=True)
class Source:
    """A model, its corpus, and how it is read: calibration documents; tokens of their and of the judged contexts."""

    folder: Path
    corpus: Path
    calibration: int
    calibration_context: int
    context: int


MODELS = {
    "demo": Source(ROOT / "data/demo/model", ROOT / "data/demo/corpus.json", 400, 128, 128),
    # first contexts only, so that the tokens are of as many stories as possible
    "stories260K": Source(SHARED / "models/stories260K-hf", SHARED / "corpora/tinystories_1000.json", 300, 256, 128),
}


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    tokens: int  # predicted positions of the held-out and of the fresh text
    every: int  # one neuron in so many has its true KL measured
    sets: int  # sets whose verdict is tried on fresh text
    shares: tuple[int, ...] = SHARES


@dataclass(frozen=True)
class Judged:
    """A model with its scores and the true KL of its neurons."""

    adapter: Adapter
    scores: dict[str, Floats]  # method -> [neurons of the model]
    held: Ablator
    fresh: Ablator
    neurons: list[int]  # packed ids with a true KL
    truth: Damages  # rows as neurons
    size: Size
    keep: Path | None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one neuron in 24, small texts: under 50 s on 2 cores")
    parser.add_argument("--tokens", type=int, default=12_000, help="predicted positions of each text")
    parser.add_argument("--sets", type=int, default=400, help="sets whose verdict is tried on fresh text")
    parser.add_argument("--every", type=int, default=1, help="one neuron in so many has its true KL measured")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", choices=list(MODELS))
    parser.add_argument("--keep", type=Path, help="folder of measured damages, for a run that goes on")
    parser.add_argument("--times", action="store_true", help="also the times of the other benches")
    parser.add_argument("--swap", action="store_true", help="true KL on the fresh text, verdicts tried on the held-out")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    size = Size(2_000, 24, 24) if given.quick else Size(given.tokens, given.every, given.sets)
    told: dict[str, Any] = {}
    for name, source in MODELS.items():
        if given.only in (None, name) and source.folder.is_dir():
            for key, value in one_model(name, source, size, given.keep, swap=given.swap).items():
                told.setdefault(key, {})[name] = value
    told |= times() if given.times else {}
    print(json.dumps({**told, "tokens": size.tokens, "every": size.every, "baseline": "true single-neuron KL"}))


def one_model(name: str, source: Source, size: Size, keep: Path | None, *, swap: bool = False) -> dict[str, Any]:
    """Every figure of one model; `swap`: the truth is that of the fresh text, on which fisher was not chosen."""
    adapter = load_model(source.folder, device="cpu")
    corpus = read_corpus(source.corpus)
    parts = parted(corpus, source.calibration)
    scores, means = scores_of(adapter, source, replace(corpus, documents=parts["calibration"]))
    order = ("fresh", "heldout") if swap else ("heldout", "fresh")
    texts = [first_contexts(adapter, parts[part], source.context, size.tokens) for part in order]
    with (
        Ablator(adapter, texts[0], Ablation("mean", means)) as held,
        Ablator(adapter, texts[1], Ablation("mean", means)) as fresh,
    ):
        neurons = list(range(0, adapter.spec.neurons, size.every))
        folder = keep and keep / f"{name}-{size.tokens}-{size.every}{'-swapped' * swap}"
        truth = kept(held, [[one] for one in neurons], folder)
        judged = Judged(adapter, scores, held, fresh, neurons, truth, size, folder and folder / f"sets-{size.sets}")
        found = {"spearman": agreement(judged), "reliability": reliability(judged), "damage": damage(judged)}
        found |= {"joint_over_sum": super_additivity(judged), "safe_holds": safe_holds(judged)}
    print_model(name, found, texts[0])
    return found


def parted(corpus: Corpus, calibration: int) -> dict[str, list[str]]:
    """Documents as a build parts them; the fresh ones are neither calibrated on nor held out."""
    outside = [text for text in corpus.documents if not is_heldout(text)]
    held = [text for text in corpus.documents if is_heldout(text)]
    return {"calibration": outside[:calibration], "heldout": held, "fresh": outside[calibration:]}


def scores_of(adapter: Adapter, source: Source, calibration: Corpus) -> tuple[dict[str, Floats], Floats]:
    """Scores of every method [neurons], as a build makes them, and mean activations [layers, d_mlp]."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        options = gradients.GradientOptions(context_length=source.calibration_context)
        told: dict[str, Any] = {"shard": Shard("bench"), "progress": Quiet()}
        gradients.measure(adapter, calibration, root / "g", options=options, workers=1, **told)
        weights.measure(in_files(source.folder), find_folder(source.folder), root / "w", **told)
        con = open_writer(root / "scores.duckdb")
        apply_schema(con, d_mlp=adapter.spec.d_mlp)
        open_shards(con, root / "g", "gradient_stats")
        con.execute(_SUMS)
        close_shards(con, "gradient_stats")
        score_pruning(con, weights=root / "w", eval_id="bench")
        rows = con.execute(
            "SELECT fisher, wifv, weight_magnitude, taylor_abs, wanda, "
            "2 * fisher - activation_variance * grad_s_g2 / grad_tokens, grad_s_a / grad_tokens FROM pruning "
            "JOIN neuron_stats USING (layer, neuron) ORDER BY layer, neuron"
        ).fetchnumpy()
        con.close()
    columns = [np.asarray(column, np.float64) for column in rows.values()]
    return dict(zip(METHODS, columns[:-1], strict=True)), columns[-1].reshape(adapter.spec.layers, -1)


def first_contexts(adapter: Adapter, documents: Sequence[str], length: int, tokens: int) -> HeldOut:
    """The first context of each document, until there are enough tokens."""
    whole = held_out(adapter, documents, context_length=length)
    found, count = [], 0
    for context in whole.contexts:
        if context.offset == 0 and count < tokens:
            found.append(replace(context, document=len(found)))
            count += len(context.token_ids) - 1
    kept_hashes = tuple(whole.sha256[c.document] for c in whole.contexts if c.offset == 0)[: len(found)]
    return replace(whole, contexts=tuple(found), sha256=kept_hashes)


def kept(ablator: Ablator, sets: list[list[int]], folder: Path | None, at_once: int = 64) -> Damages:
    """Measure sets, some at a time; what `folder` holds of an earlier run is not measured again."""
    parts = []
    for start in range(0, len(sets), at_once):
        file = folder / f"{start}.npz" if folder else None
        if file is None or not file.exists():
            part = ablator.measure(sets[start : start + at_once])
            if file is not None:
                file.parent.mkdir(parents=True, exist_ok=True)
                np.savez(file.with_suffix(".part.npz"), **vars(part))
                file.with_suffix(".part.npz").rename(file)
        else:
            with np.load(file) as held:
                part = Damages(**held)
        parts.append(part)
    columns = {key: np.concatenate([getattr(p, key) for p in parts]) for key in vars(parts[0]) if key != "tokens"}
    return Damages(**columns, tokens=parts[0].tokens)


def mean_kl(damages: Damages) -> Floats:
    """Nats per token of each set."""
    found: Floats = damages.kl.sum(1) / damages.tokens.sum()
    return found


def agreement(judged: Judged) -> dict[str, dict[str, Any]]:
    """Spearman of each score with the true KL: over all neurons, and within each layer."""
    kl, layers = mean_kl(judged.truth), np.array(judged.neurons) // judged.adapter.spec.d_mlp
    found = {}
    for method, every in judged.scores.items():
        score = every[judged.neurons]
        within = [float(spearmanr(score[layers == i], kl[layers == i]).statistic) for i in np.unique(layers)]
        found[method] = {"all": float(spearmanr(score, kl).statistic), "layers": within}
    return found


def reliability(judged: Judged) -> float:
    """Spearman-Brown of two random halves of the held-out documents."""
    order = np.random.default_rng(0).permutation(len(judged.truth.tokens))
    halves = [judged.truth.kl[:, half].sum(1) for half in np.array_split(order, 2)]
    r = float(spearmanr(*halves).statistic)
    return 2 * r / (1 + r)


def damage(judged: Judged) -> dict[str, dict[int, dict[str, float]]]:
    """Joint KL and loss, nats per token, of removing the lowest share of every layer by each method."""
    d_mlp = judged.adapter.spec.d_mlp
    asked = [(method, share) for method in METHODS for share in judged.size.shares]
    sets = []
    for method, share in asked:
        order = np.argsort(judged.scores[method].reshape(-1, d_mlp), axis=1, kind="stable")[:, : d_mlp * share // 100]
        sets.append([int(layer * d_mlp + n) for layer, row in enumerate(order) for n in row])
    measured = judged.held.measure(sets)
    kl, nll = mean_kl(measured), measured.nll.sum(1) / measured.tokens.sum()
    found: dict[str, dict[int, dict[str, float]]] = {}
    for (method, share), one, other in zip(asked, kl, nll, strict=True):
        found.setdefault(method, {})[share] = {"kl": float(one), "delta_nll": float(other)}
    return found


def super_additivity(judged: Judged) -> dict[str, dict[int, float]]:
    """Joint KL over the sum of single KLs: the safest neurons by fisher, and the mean of four random draws."""
    dice, ids = np.random.default_rng(1), np.array(judged.neurons)
    order = ids[np.argsort(judged.scores["fisher"][ids], kind="stable")]
    sizes = [size for size in SIZES if size < len(ids)]
    sets = [order[:size].tolist() for size in sizes]
    sets += [dice.choice(ids, size, replace=False).tolist() for size in sizes for _ in range(4)]
    single = dict(zip(judged.neurons, mean_kl(judged.truth), strict=True))
    ratios = mean_kl(judged.held.measure(sets)) / [sum(single[one] for one in some) for some in sets]
    drawn = ratios[len(sizes) :].reshape(-1, 4).mean(1)
    return {
        "safest": dict(zip(sizes, ratios[: len(sizes)].tolist(), strict=True)),
        "random": dict(zip(sizes, drawn.tolist(), strict=True)),
    }


def safe_holds(judged: Judged) -> dict[str, dict[str, Any]]:
    """How many sets declared safe on held-out text stay under the budget on fresh text.

    Verdicts are those of impacts() but for the demand of 10,000 tokens, which a quick run does not meet.
    """
    found: dict[str, dict[str, Any]] = {}
    total = np.zeros(3, np.int64)
    for kind, sets in drawn_sets(judged).items():
        verdicts = impacts(kept(judged.held, sets, judged.keep and judged.keep / f"{kind}-held", 16), sets)
        scored = [(one, v.impact_score) for one, v in zip(sets, verdicts, strict=True)]
        safe = [one for one, score in scored if score is not None and score < SAFE]
        folder = judged.keep and judged.keep / f"{kind}-fresh"
        under = mean_kl(kept(judged.fresh, safe, folder, 16)) < BUDGET if safe else np.zeros(0, bool)
        counts = np.array([len(sets), len(safe), under.sum()])
        found[kind], total = counted(counts), total + counts
    return found | {"all": counted(total)}


def drawn_sets(judged: Judged) -> dict[str, list[list[int]]]:
    """Sets on either side of the budget: sizes are drawn so that their single KLs add up to 0.2 to 1.2 budgets."""
    dice, ids = np.random.default_rng(2), np.array(judged.neurons)
    single = dict(zip(judged.neurons, mean_kl(judged.truth), strict=True))
    found: dict[str, list[list[int]]] = {"random": [], "candidates": [], "single": []}
    for number in range(judged.size.sets):
        kind = ("random", "candidates", "single")[number % 3]
        wanted, some, total = dice.uniform(0.2, 1.2) * BUDGET, [], 0.0
        if kind == "single":  # any neuron, so most are far from the budget
            found[kind].append([int(dice.choice(ids))])
            continue
        method = METHODS[number // 3 % len(METHODS)]  # candidates in the order of a score, from a drawn place
        order = dice.permutation(ids)
        if kind == "candidates":
            lowest = ids[np.argsort(judged.scores[method][ids], kind="stable")]
            order = lowest[dice.integers(max(len(ids) // 4, 1)) :]
        for one in order.tolist():
            if some and total + single[one] > wanted:
                break
            some.append(one)
            total += single[one]
        found[kind].append(some)
    return found


def counted(counts: Sequence[int] | npt.NDArray[np.int64]) -> dict[str, Any]:
    """Shares with a 95% Wilson interval."""
    sets, declared, held = map(int, counts)
    low, high = wilson(held, declared)
    share = held / declared if declared else None
    return {"sets": sets, "declared_safe": declared, "held": held, "share": share, "low": low, "high": high}


def wilson(successes: int, trials: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's score interval of a share."""
    if not trials:
        return 0.0, 1.0
    p, square = successes / trials, z * z / trials
    middle, half = p + square / 2, z * math.sqrt(p * (1 - p) / trials + square / (4 * trials))
    return (middle - half) / (1 + square), (middle + half) / (1 + square)


def times() -> dict[str, Any]:
    """Of the other benches, on GPT-2 small's shape: seconds of an impact, a layer's importance, a weight analysis."""
    import impact
    import importance
    import weights as weight_analysis

    adapter, held = impact.gpt2_small(), impact.held_out()
    impact.one_impact(adapter, held, 0)  # compiles
    wall, _ = impact.timed(lambda: impact.one_impact(adapter, held, 5))
    layers = importance.times(1, [adapter.spec.layers - 1])["layer_importance_s"]
    with tempfile.TemporaryDirectory() as folder:
        weight_analysis.write_model(Path(folder), adapter.spec.layers, torch.float32)
        rounds = weight_analysis.rounds(Path(folder), torch.get_num_threads(), 3)
    return {"impact_s": wall, "layer_importance_s": layers, "weights_s": rounds["analysis_s"]["median"]}


def lines(name: str, found: dict[str, Any]) -> Iterator[str]:
    """What a person reads of one model."""
    for method, value in found["spearman"].items():
        lost = ", ".join(f"{s}%: {v['kl']:.3f}" for s, v in found["damage"][method].items())
        within = " ".join(f"{one:.2f}" for one in value["layers"])
        yield f"{name:<12} {method:<10} Spearman {value['all']:.3f}  by layer {within}  KL of the lowest {lost}"
    yield f"{name:<12} reliability of the truth {found['reliability']:.3f}"
    for kind, ratios in found["joint_over_sum"].items():
        yield f"{name:<12} joint/sum {kind}: " + ", ".join(f"{n}: {ratio:.2f}" for n, ratio in ratios.items())
    for kind, c in found["safe_holds"].items():
        share = "" if c["share"] is None else f" ({c['share']:.1%}, {c['low']:.1%} to {c['high']:.1%})"
        yield f"{name:<12} safe {kind}: {c['held']} of {c['declared_safe']} held{share}, of {c['sets']} sets"


def print_model(name: str, found: dict[str, Any], text: HeldOut) -> None:
    print(f"{name}: {text.tokens:,} held-out tokens of {len(text.sha256)} documents")
    print("\n".join(lines(name, found)))


if __name__ == "__main__":
    main()
