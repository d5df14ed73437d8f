"""Corpus -> what every neuron does on it: statistics, exemplars, statistics by token, calibration means.

One pass: batches run through the model's body with hooks on every MLP (tap.py); dense counts stay with each thread,
float sums and exemplars are taken in the order of the batches (batches.py), so that the shard files depend on the
model, the corpus and the options alone, bit for bit, not on the number of workers.
"""

from __future__ import annotations

import queue
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from math import isfinite
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from atlas.errors import InputError
from atlas.measure.accumulators import Tally
from atlas.measure.batches import (
    Batch,
    Counts,
    Ints,
    Reading,
    contexts_of,
    documents_in,
    read_batches,
    shard_documents,
    work_in_order,
)
from atlas.measure.calibration import Calibration, Levels, calibrate, not_finite
from atlas.measure.candidates import Positions, Selector
from atlas.measure.corpus import Context, Corpus, context_length
from atlas.measure.exemplars import Candidates, Exemplars, position_hash, priority, ranks
from atlas.measure.kernels import BINS, Fired, Summed
from atlas.measure.tap import Reached, Tap, Written, calibration_sums, output_factor_sum, tapped
from atlas.measure.token_sums import TokenLayer
from atlas.models.adapter import Adapter
from atlas.models.threads import one_core
from atlas.progress import Progress
from atlas.shards import Shard, ShardDraft, new_shard
from atlas.tables import IDS

__all__ = ["ActivationOptions", "measure"]


@dataclass(frozen=True)
class ActivationOptions:
    """What to keep; lengths in tokens, `top` and `per_stratum` per neuron and sign."""

    context_length: int | None = None  # BOS included; None: the model's, at most 512
    batch_tokens: int = 4096
    top: int = 20
    strata: int = 4  # 1: weak activations; 2..: bins of the firings (exemplars.py)
    per_stratum: int = 5
    window: int = 8  # positions kept on either side of an exemplar
    fire_quantile: float = 0.98
    calibration_tokens: int = 4096  # from all over the corpus
    token_rows: int = 60_000_000  # (neuron, sign, token) triples held: 1.9 GB (token_sums.py)
    skip_bos: bool = True
    block_documents: int = 256

    def __post_init__(self) -> None:
        if not 0.5 < self.fire_quantile < 1:
            raise InputError(f"fire_quantile is {self.fire_quantile}; use a share between 0.5 and 1")
        least_of = {"top": 1, "strata": 0, "per_stratum": 1, "window": 0, "calibration_tokens": 1, "token_rows": 1}
        for name, least in least_of.items():
            if getattr(self, name) < least:
                raise InputError(f"{name} is {getattr(self, name)}; use at least {least}")


def measure(
    adapter: Adapter,
    corpus: Corpus,
    root: Path,
    *,
    shard: Shard,
    options: ActivationOptions,
    progress: Progress,
    workers: int,
) -> None:
    """Write one shard of neuron_stats, exemplars, contexts, token_stats and token_counts (tables.SHARDS) under `root`.

    A shard is a contiguous range of blocks of `block_documents` documents. Position 0 of every context and BOS tokens
    are left out of all statistics, token counts and exemplars (with `skip_bos`); they do appear in windows. Rows are
    sorted by layer, neuron, polarity (+1 first), stratum, rank; by token id; by context id. calib_gate is NULL without
    a gate, calib_out without a norm on the MLP's output; min and max are NULL for a shard without a counted position.
    Facts of the marker: documents, documents_empty, contexts, tokens (BOS included), excluded_positions and
    token_firings_dropped: firings left out of token_stats because the layer held more than its share of `token_rows`
    triples. While that is 0 token_stats is exact; beyond, the rarer tokens of a neuron are missing or low in n and sum,
    and what is kept depends on the number of shards, though not on workers. No other table has such a bound.

    Memory, whatever the length of the corpus: 1.3 kB + 2 (top + strata * per_stratum) * (44 + 8 window) bytes a neuron
    and 0.5 kB a neuron and worker; 32 bytes per distinct (neuron, sign, token) that fired, at most `token_rows`; one
    block of documents; one batch a worker; calibration (calibration.py).
    Raises InputError for the corpus and options, ModelError for activations that are not finite.
    """
    reading = Reading(
        context_length(adapter.spec, options.context_length),
        options.batch_tokens,
        options.block_documents,
        options.skip_bos,
    )
    with one_core(), tapped(adapter) as tap, new_shard(root, shard) as draft:
        levels = Levels(options.calibration_tokens, options.fire_quantile, options.strata)
        calibration = calibrate(adapter, corpus, tap, reading=reading, levels=levels, workers=workers)
        run = _Pass(adapter, calibration, options, tap)
        counts = Counts()
        owned = shard_documents(corpus, shard, reading)
        batches = read_batches(corpus, owned, tokenizer=adapter.tokenizer, reading=reading, counts=counts)
        with progress.task("activations", len(owned), "documents") as task:
            for batch, found in work_in_order(batches, run.look, workers=workers, alone=1):
                run.take(batch, found)
                task.advance(documents_in(batch))
        # tokenising again costs about a thousandth of the pass; holding contexts would grow with the corpus
        run.write(draft, contexts_of(corpus, owned, tokenizer=adapter.tokenizer, reading=reading))
        draft.facts.update(vars(counts))


@dataclass
class _Found:
    """What one batch gave, layer by layer."""

    sums: list[Tensor] = field(default_factory=list)  # [7, d_mlp] float64: moments, calibration sums
    firings: list[Fired] = field(default_factory=list)
    candidates: list[Candidates] = field(default_factory=list)
    output_factors: list[float] = field(default_factory=list)  # empty without norms on the MLPs' outputs


class _Pass:
    """The state of one pass; `look` runs in any thread, `take` in one, in the order of the batches."""

    def __init__(self, adapter: Adapter, calibration: Calibration, options: ActivationOptions, tap: Tap) -> None:
        spec = adapter.spec
        self._adapter, self._calibration, self._tap = adapter, calibration, tap
        self._exemplars = Exemplars(
            spec.neurons,
            top=options.top,
            strata=options.strata,
            per_stratum=options.per_stratum,
            window=options.window,
        )
        self._selector = Selector(
            calibration, self._exemplars, vocab=spec.vocab, top=options.top, window=options.window
        )
        self._tallies: queue.SimpleQueue[Tally] = queue.SimpleQueue()
        self._sums = np.zeros((spec.layers, 7, spec.d_mlp))
        self._output_factors = np.zeros(spec.layers)
        self._tokens = [
            TokenLayer(spec.vocab, 2 * spec.d_mlp, options.token_rows // spec.layers) for _ in range(spec.layers)
        ]
        self._token_counts = np.zeros(spec.vocab, dtype=np.int64)
        self._dropped = 0

    def look(self, batch: Batch) -> _Found:
        """Run one batch."""
        found, positions = _Found(), Positions.of(batch)
        rows = torch.from_numpy(batch.rows).to(self._adapter.device)
        with self._tally() as tally:

            def receive(reached: Reached) -> None:
                layer, every = reached.block.index, reached.activation
                means = calibration_sums(reached, rows)  # first, while its tensors are in the cache
                values = every[: len(rows)]
                bars = self._selector.bars(layer, values)
                dense = tally.add(layer, values, -bars.any[1::2], bars.any[::2])
                found.sums.append(_rounded(torch.cat([dense.sums, means]), every.dtype))
                firings, candidates = self._selector.select(layer, dense.found, bars, every, positions)
                found.firings.append(firings)
                found.candidates.append(candidates)

            def written(output: Written) -> None:
                factor = float(_rounded(output_factor_sum(output, rows), output.output.dtype))
                if not isfinite(factor):
                    raise not_finite(output.block.index)
                found.output_factors.append(factor)

            if len(batch.rows):
                self._tap.run(batch, receive, written)
        return found

    def take(self, batch: Batch, found: _Found) -> None:
        """Add what one batch gave."""
        if not len(batch.rows):
            return
        self._sums += torch.stack(found.sums).numpy()
        if found.output_factors:
            self._output_factors += found.output_factors
        self._token_counts += np.bincount(batch.token, minlength=len(self._token_counts))
        for tokens, fires in zip(self._tokens, found.firings, strict=True):
            tokens.add(fires)
        self._exemplars.add(found.candidates)

    def write(self, draft: ShardDraft, contexts: Iterator[Context]) -> None:
        """Write the five tables; `contexts` are those of the shard once more."""
        fired = np.zeros((len(self._tokens), 2 * self._adapter.spec.d_mlp), dtype=np.int64)
        draft.write_parts("token_stats", self._token_tables(fired))
        draft.write("neuron_stats", self._neuron_stats(fired.reshape(-1, 2)))
        draft.write_parts("exemplars", self._exemplar_tables())
        draft.write_parts("contexts", self._context_tables(contexts))
        ids = np.flatnonzero(self._token_counts)
        draft.write("token_counts", pa.table({"token_id": ids, "n": self._token_counts[ids]}))
        draft.facts["token_firings_dropped"] = self._dropped

    @contextmanager
    def _tally(self) -> Iterator[Tally]:
        try:
            tally = self._tallies.get_nowait()
        except queue.Empty:
            tally = Tally(self._calibration, self._adapter.device)
        yield tally
        self._tallies.put(tally)

    def _neuron_stats(self, fired: Ints) -> pa.Table:
        spec, count = self._adapter.spec, int(self._token_counts.sum())
        total = Tally(self._calibration, self._adapter.device)
        while not self._tallies.empty():
            total.merge(self._tallies.get())
        sums = self._sums.transpose(1, 0, 2).reshape(7, -1)
        hist = total.hist.cpu().numpy().reshape(-1)
        calibration = {
            name: getattr(self._calibration, name).ravel() for name in ("fire_pos", "fire_neg", "hist_lo", "hist_hi")
        }
        seen = {"min": total.low.cpu().numpy().ravel(), "max": total.high.cpu().numpy().ravel()}
        return pa.table(
            {
                "layer": np.repeat(np.arange(spec.layers), spec.d_mlp),
                "neuron": np.tile(np.arange(spec.d_mlp), spec.layers),
                "n_tokens": np.full(spec.neurons, count),
                **dict(zip(("s1", "s2", "s3", "s4", "abs_sum"), sums, strict=False)),
                "n_active": total.n_active.cpu().numpy().ravel(),
                "n_fired_pos": fired[:, 0],
                "n_fired_neg": fired[:, 1],
                **calibration,
                **{name: pa.array(values, mask=np.full(spec.neurons, count == 0)) for name, values in seen.items()},
                "hist": pa.ListArray.from_arrays(np.arange(spec.neurons + 1, dtype=np.int32) * BINS, hist),
                "calib_gate": pa.array(sums[5], mask=np.full(spec.neurons, not spec.gated)),
                "calib_up": sums[6],
                "calib_out": self._calib_out(),
            }
        )

    def _calib_out(self) -> pa.Array:
        width = self._adapter.spec.d_mlp
        absent = [block.mlp_out_norm is None for block in self._adapter.blocks]
        return pa.array(np.repeat(self._output_factors, width), mask=np.repeat(absent, width))

    def _token_tables(self, fired: Ints) -> Iterator[pa.Table]:
        """Rows by layer, neuron, sign (+1 first) and token id, a layer at a time; `fired` gains firings by side."""
        for layer, tokens in enumerate(self._tokens):
            sums = tokens.result()
            fired[layer] = tokens.fired(sums)
            self._dropped += int(tokens.dropped.sum())
            self._tokens[layer] = tokens.emptied()
            yield _token_table(layer, sums, self._adapter.spec.vocab)

    def _exemplar_tables(self) -> Iterator[pa.Table]:
        """Rows by layer, neuron, sign (+1 first), stratum and rank, a layer at a time."""
        lists = 2 * self._adapter.spec.d_mlp * (self._exemplars.strata + 1)
        for layer in range(self._adapter.spec.layers):
            yield self._exemplar_table(self._exemplars.part(layer * lists, (layer + 1) * lists))

    def _exemplar_table(self, kept: Candidates) -> pa.Table:
        spec, window = self._adapter.spec, kept.window
        place, stratum = np.divmod(kept.group, self._exemplars.strata + 1)
        neuron, negative = np.divmod(place, 2)
        half = window.shape[1] // 2
        around = kept.position[:, None] + np.arange(-half, half + 1)
        inside = (around >= 0) & (around < kept.length[:, None])
        ends = np.append(0, np.cumsum(inside.sum(axis=1))).astype(np.int32)
        return pa.table(
            {
                "layer": neuron // spec.d_mlp,
                "neuron": neuron % spec.d_mlp,
                "polarity": 1 - 2 * negative,
                "stratum": stratum,
                "rank": ranks(kept.group),
                "activation": kept.value,
                "context_id": kept.context_id,
                "position": kept.position,
                "window_start": np.maximum(kept.position - half, 0),
                "window": pa.ListArray.from_arrays(ends, window[inside]),
                "priority": priority(position_hash(kept.context_id, kept.position), neuron).astype(np.int64),
            }
        )

    def _context_tables(self, contexts: Iterator[Context]) -> Iterator[pa.Table]:
        """Rows by context id, those that a kept exemplar points into."""
        kept = self._exemplars.contexts()
        while some := list(islice(contexts, 4096)):
            ids = np.array([context.context_id for context in some])
            rows = [some[i] for i in np.flatnonzero(np.isin(ids, kept))]
            yield pa.table(
                {
                    "context_id": pa.array([row.context_id for row in rows], pa.int64()),
                    "document": pa.array([row.document for row in rows], pa.int64()),
                    "offset": pa.array([row.offset for row in rows], pa.int32()),
                    "token_ids": pa.array([row.token_ids for row in rows], IDS),
                }
            )


def _rounded(sums: Tensor, dtype: torch.dtype) -> Tensor:
    """Round what one batch gave to float32, unless the model computes in float64; in float64, on the processor.

    Sums of float32 numbers of like size are exact in float64, so it does not matter which shard added which batch.
    """
    return sums.to(torch.promote_types(dtype, torch.float32)).double().cpu()


def _token_table(layer: int, sums: Summed, vocab: int) -> pa.Table:
    side, token = np.divmod(sums.key, vocab)
    return pa.table(
        {
            "layer": np.full(len(side), layer),
            "neuron": side // 2,
            "polarity": 1 - 2 * (side % 2),
            "token_id": token,
            "n": sums.n,
            "sum": sums.sum,
            "max": sums.high,
            "min": sums.low,
        }
    )
