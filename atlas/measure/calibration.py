"""A sample of the whole corpus -> per neuron: histogram range, firing thresholds, edges of the strata.

The sample is documents from PLACES evenly spaced places of the corpus, so that a corpus sorted by topic is seen whole.
Every shard computes these from the same tokens, so shards agree without talking to each other.

A quantile here is an order statistic (no interpolation) over evenly spaced counted positions, as many as fit the
memory below; minimum and maximum are over all counted positions of the sample.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from atlas.errors import InputError, ModelError
from atlas.measure.batches import Batch, Ints, Reading, batches_of, work_in_order
from atlas.measure.corpus import Context, Corpus, contexts
from atlas.measure.tap import Reached, Tap
from atlas.models.adapter import Adapter

Floats = npt.NDArray[np.float32]
PLACES = 64
MOST_ROWS = 4096  # positions behind a quantile: at 0.98 that is 82 in the tail
MOST_VALUES = 1 << 28  # float32 values held at once: 1 GiB


@dataclass(frozen=True)
class Calibration:
    """Thresholds and ranges, each [layers, d_mlp] float32.

    fire_pos = the `fire_quantile` quantile of a where that is positive, else +inf; fire_neg = the quantile at
    1 - fire_quantile where that is negative, else -inf. hist_lo, hist_hi = minimum and maximum widened by a quarter
    of their distance. edges [layers, 2, d_mlp, strata - 2] (sign 0 = positive) cut |a| beyond the threshold into
    strata - 1 bins of equal calibration count.
    """

    hist_lo: Floats
    hist_hi: Floats
    fire_pos: Floats
    fire_neg: Floats
    edges: Floats


@dataclass(frozen=True)
class Levels:
    """What to calibrate: size of the sample in tokens, the firing quantile and the number of sampled strata."""

    tokens: int
    fire_quantile: float
    strata: int


def calibrate(
    adapter: Adapter, corpus: Corpus, tap: Tap, *, reading: Reading, levels: Levels, workers: int
) -> Calibration:
    """Run about `levels.tokens` tokens of the corpus (whole contexts) and read their quantiles.

    Memory: at most MOST_VALUES float32 values, and one layer of them again. Raises InputError when the sample has no
    counted position, ModelError for values that are not finite.
    """
    batches = list(batches_of(_sample(adapter, corpus, reading, levels.tokens), adapter.bos_token_id, reading))
    total = sum(len(batch.rows) for batch in batches)
    if total == 0:
        raise InputError(f"{levels.tokens} tokens of {corpus.name} give no position to count; use more text")
    keep = min(total, MOST_ROWS, max(MOST_VALUES // adapter.spec.neurons, 1))
    chosen = np.arange(keep) * total // keep
    parts: list[tuple[Floats, Floats, list[Floats]]] = []
    for _, part in work_in_order(_numbered(batches, chosen), lambda b: _look(tap, *b), workers=workers):
        parts.append(part)
    low = np.minimum.reduce([part[0] for part in parts])
    high = np.maximum.reduce([part[1] for part in parts])
    quantiles = [_quantiles(np.concatenate([p[2][layer] for p in parts]), levels) for layer in range(len(low))]
    return _calibration(low, high, quantiles)


def _sample(adapter: Adapter, corpus: Corpus, reading: Reading, tokens: int) -> list[Context]:
    """Take an equal share of what is still missing at every place; a short place leaves more to the next."""
    found: list[Context] = []
    held, total = 0, len(corpus.documents)
    for place in range(PLACES):
        share = held + -(-(tokens - held) // (PLACES - place))
        documents = range(place * total // PLACES, (place + 1) * total // PLACES)
        for context in _from(adapter, corpus, reading, documents):
            if held >= share:
                break
            found.append(context)
            held += len(context.token_ids)
    return found


def _from(adapter: Adapter, corpus: Corpus, reading: Reading, documents: range) -> Iterator[Context]:
    for first in documents[::4]:  # few at a time: most places need only their first documents
        texts = corpus.documents[first : min(first + 4, documents.stop)]
        yield from contexts(texts, adapter.tokenizer, first=first, length=reading.length)


def _numbered(batches: list[Batch], chosen: Ints) -> Iterator[tuple[Batch, Ints]]:
    """Pair every batch with the chosen ones among its counted positions."""
    before = 0
    for batch in batches:
        inside = chosen[(chosen >= before) & (chosen < before + len(batch.rows))]
        yield batch, inside - before
        before += len(batch.rows)


def _look(tap: Tap, batch: Batch, chosen: Ints) -> tuple[Floats, Floats, list[Floats]]:
    low: list[Floats] = []
    high: list[Floats] = []
    rows: list[Floats] = []

    def receive(reached: Reached) -> None:
        values = reached.activation.float()
        counted = values[: len(batch.rows)]
        rows.append(values[torch.from_numpy(chosen).to(values.device)].cpu().numpy())
        if len(counted) == 0:
            counted = torch.tensor([[torch.inf], [-torch.inf]], device=values.device).expand(2, values.shape[1])
        elif not bool(torch.isfinite(counted.sum())):
            raise not_finite(reached.block.index)
        low.append(counted.amin(0).cpu().numpy())
        high.append(counted.amax(0).cpu().numpy())

    tap.run(batch, receive)
    return np.stack(low), np.stack(high), rows


def not_finite(layer: int) -> ModelError:
    """Make the error for activations that are NaN or infinite."""
    return ModelError(
        f"activations of layer {layer} are not finite (NaN or infinite); "
        "check the model's weights, or measure in float32 if they are half precision"
    )


def _quantiles(rows: Floats, levels: Levels) -> Floats:
    """[2, d_mlp, 1 + edges]: threshold and edges of |a| for the positive and the negative sign."""
    bins = max(levels.strata - 1, 1)
    tail = 1 - levels.fire_quantile
    shares = levels.fire_quantile + tail * np.arange(bins) / bins
    last = len(rows) - 1
    ranks = np.floor(shares * last).astype(np.int64)
    ordered = np.sort(np.ascontiguousarray(rows.T), axis=1)  # faster than a partition at six ranks
    return np.stack([ordered[:, ranks], -ordered[:, last - ranks]])


def _calibration(low: Floats, high: Floats, quantiles: list[Floats]) -> Calibration:
    found = np.stack(quantiles)
    found = np.where(found[..., :1] > 0, found, np.float32(np.inf))
    margin = (high - low) / 4
    margin = np.where(margin > 0, margin, np.maximum(np.abs(low) / 4, np.float32(1e-6)))
    return Calibration(
        hist_lo=(low - margin).astype(np.float32),
        hist_hi=(high + margin).astype(np.float32),
        fire_pos=found[:, 0, :, 0],
        fire_neg=-found[:, 1, :, 0],
        edges=np.ascontiguousarray(found[..., 1:]),
    )
