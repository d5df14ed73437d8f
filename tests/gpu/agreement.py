"""What every engine gives on a device against what it gives on the CPU, on tiny seeded models in float32.

Both run the same code, but a GPU adds in another order: numbers agree to about 1e-6 of the largest, and what is
counted or ranked agrees wherever no number stands that close to the threshold or to its neighbour in the list.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import brute_force
import numpy as np
import pyarrow as pa
import torch
from tiny_models import FAMILIES, tokens

from atlas.measure import activations, gradients, logit_lens, read_tokens, wiring
from atlas.models.adapter import Adapter, adapt
from atlas.models.attribution import Engine, RelpOptions, Targets
from atlas.models.graph import Graph
from atlas.models.replacement import replacement
from atlas.models.tensors import in_memory
from atlas.progress import Quiet
from atlas.shards import Shard
from atlas.tables import HIST_BINS

KINDS = ("llama", "gpt2")
NEAR = 1e-5  # of the largest number of its kind: ten times what float32 sums of these models differ by
SHARD = Shard("f")
READING: dict[str, Any] = {"context_length": brute_force.LENGTH, "batch_tokens": 64, "block_documents": 8}
ACTIVATIONS = activations.ActivationOptions(
    **READING, top=7, strata=4, per_stratum=3, window=2, fire_quantile=0.8, calibration_tokens=10**6
)


def pair(kind: str, device: torch.device) -> tuple[Adapter, Adapter]:
    """One model on the CPU and on the device."""
    model = FAMILIES[kind](torch.float32, d_mlp=40).model
    words, moved = brute_force.Words(), copy.deepcopy(model).to(device)
    here, there = (adapt(one, words, name="tiny", revision="0" * 16) for one in (model, moved))
    assert there.device.type == device.type and here.device.type == "cpu"
    return here, there


def both(models: tuple[Adapter, Adapter], root: Path, measure: Callable[[Adapter, Path], None]) -> list[Any]:
    """The tables of one measurement on the CPU and on the device."""
    found = []
    for index, adapter in enumerate(models):
        measure(adapter, root / str(index))
        found.append(brute_force.read(root / str(index)))
    return found


# -- activations --------------------------------------------------------------------------------------------------


def check_activations(kind: str, device: torch.device, root: Path) -> None:
    models, every = pair(kind, device), brute_force.corpus(60)
    corpus = replace(every, documents=list(dict.fromkeys(every.documents)))  # repeated texts would only tie

    def run(adapter: Adapter, folder: Path) -> None:
        activations.measure(
            adapter, corpus, folder, shard=SHARD, options=ACTIVATIONS, progress=Quiet(), workers=1
        )  # fmt: skip

    here, there = both(models, root, run)
    a = brute_force.look(models[0], corpus).a  # [positions, layers, neurons]
    assert here["token_counts"].equals(there["token_counts"])
    check_counts(*(tables["neuron_stats"] for tables in (here, there)), a)
    check_sums(*(tables["neuron_stats"] for tables in (here, there)), a)
    best = [t["exemplars"].filter(pa.compute.equal(t["exemplars"]["stratum"], 0)) for t in (here, there)]
    check_lists(*best, lists=("layer", "neuron", "polarity"), names=("context_id", "position"), value="activation")


def check_counts(here: pa.Table, there: pa.Table, a: np.ndarray) -> None:
    """A count may differ by the number of activations that stand at its threshold, and no more."""
    flat = a.reshape(len(a), -1)
    near = NEAR * np.abs(flat).max()

    def at(threshold: np.ndarray) -> np.ndarray:
        return (np.abs(flat - threshold) <= near).sum(0)

    low, high = (column(here, name) for name in ("hist_lo", "hist_hi"))
    assert np.abs(low - column(there, "hist_lo")).max() <= near
    assert np.abs(high - column(there, "hist_hi")).max() <= near
    assert here["n_tokens"].equals(there["n_tokens"])
    thresholds = {"n_active": np.zeros_like(low)} | {f"n_fired_{s}": column(here, f"fire_{s}") for s in ("pos", "neg")}
    for name, threshold in thresholds.items():
        assert (np.abs(column(here, name) - column(there, name)) <= at(threshold)).all(), name
    below = [np.cumsum(np.stack(t["hist"].to_pylist()), axis=1) for t in (here, there)]
    for edge in range(HIST_BINS + 1):
        threshold = low + (high - low) * edge / HIST_BINS
        assert (np.abs(below[0][:, edge] - below[1][:, edge]) <= at(threshold)).all(), edge


def check_sums(here: pa.Table, there: pa.Table, a: np.ndarray) -> None:
    """Moments to 1e-4 of the sum of magnitudes: the sums themselves cancel."""
    magnitude = np.abs(a.reshape(len(a), -1)).astype(np.float64)
    powers = {"s1": 1, "s2": 2, "s3": 3, "s4": 4, "abs_sum": 1}
    for name, power in powers.items():
        error = np.abs(column(here, name) - column(there, name))
        assert (error <= 1e-4 * (magnitude**power).sum(0)).all(), name
    for name in ("min", "max", "calib_up", "calib_gate"):
        if here[name].null_count == 0:
            check_close(column(here, name), column(there, name), 1e-4, name)
        else:
            assert there[name].null_count == len(there)


# -- gradients, wiring, logit lens, read tokens -------------------------------------------------------------------


def check_gradients(kind: str, device: torch.device, root: Path) -> None:
    corpus = brute_force.corpus()

    def run(adapter: Adapter, folder: Path) -> None:
        options = gradients.GradientOptions(**READING)
        gradients.measure(adapter, corpus, folder, shard=SHARD, options=options, progress=Quiet(), workers=1)

    here, there = (tables["gradient_stats"] for tables in both(pair(kind, device), root, run))
    assert here["n_tokens"].equals(there["n_tokens"])
    for name in (name for name in here.schema.names if name.startswith("s_")):
        check_close(column(here, name), column(there, name), 1e-4, name)


def check_wiring(kind: str, device: torch.device, root: Path) -> None:
    models = pair(kind, device)
    rng, shape = np.random.default_rng(3), (models[0].spec.layers, models[0].spec.d_mlp)
    gate = rng.normal(size=shape) if models[0].spec.gated else None
    means = wiring.Calibration(gate, rng.normal(size=shape))
    for calibration in (means, None):

        def run(adapter: Adapter, folder: Path, calibration: wiring.Calibration | None = calibration) -> None:
            wiring.measure(in_memory(adapter), calibration, folder, shard=SHARD, top=5)

        found = [tables["wiring"] for tables in both(models, root / str(calibration is None), run)]
        check_lists(
            *found,
            lists=("layer", "neuron", "direction", "polarity"),
            names=("other_layer", "other_neuron"),
            value="effective_strength",
            more=("c_up", "c_gate", "lab_strength"),
        )


def check_logit_lens(kind: str, device: torch.device, root: Path) -> None:
    def run(adapter: Adapter, folder: Path) -> None:
        logit_lens.measure(replace(adapter, tokenizer=None), folder, shard=SHARD, top=5)

    found = [tables["logit_lens"] for tables in both(pair(kind, device), root, run)]
    check_lists(*found, lists=("layer", "neuron", "polarity"), names=("token_id",), value="value")


def check_read_tokens(kind: str, device: torch.device, root: Path) -> None:
    def run(adapter: Adapter, folder: Path) -> None:
        read_tokens.measure(adapter, folder, shard=SHARD, top=5)

    found = [tables["read_tokens"] for tables in both(pair(kind, device), root, run)]
    check_lists(*found, lists=("layer", "neuron", "part", "polarity"), names=("token_id",), value="value")


# -- attribution graphs -------------------------------------------------------------------------------------------

EVERY = RelpOptions(tau=0.0, max_nodes=None, skip_bos=False)
NAMED = RelpOptions(tau=0.0, max_nodes=None, targets=Targets((3, 4), (5,), 2))
PROMPTS = [tokens(9, seed=1), tokens(7, seed=2), tokens(9, seed=3)]


def check_graphs(kind: str, device: torch.device, root: Path) -> None:
    here, there = pair(kind, device)
    for options in (EVERY, NAMED):
        for expected, found in zip(graphs(here, options), graphs(there, options), strict=True):
            check_graph(expected, found)


def graphs(adapter: Adapter, options: RelpOptions) -> list[Graph]:
    with replacement(adapter) as model:
        found = Engine(adapter, model, options).graphs(PROMPTS)
    assert all(isinstance(graph, Graph) for graph in found)
    return found  # type: ignore[return-value]


def check_graph(here: Graph, there: Graph) -> None:
    assert here.targets == there.targets
    assert abs(here.metric_value - there.metric_value) <= 1e-4 * abs(here.metric_value)
    assert there.completeness_residual < 1e-4
    for name in ("layer", "position", "neuron"):
        assert np.array_equal(getattr(here.nodes, name), getattr(there.nodes, name)), name
    for name in ("activation", "gradient", "relevance", "direct"):
        check_close(getattr(here.nodes, name), getattr(there.nodes, name), 1e-4, name)
    for name in ("edges", "embedding", "logit"):
        check_close(*(dense(graph, name) for graph in (here, there)), 1e-4, name)


def dense(graph: Graph, name: str) -> np.ndarray:
    edges, most = getattr(graph, name), max(len(graph.nodes.layer), len(graph.token_ids), len(graph.targets))
    found = np.zeros((most, most))
    found[edges.source, edges.target] = edges.weight
    return found


# -- numbers and lists --------------------------------------------------------------------------------------------


def check_close(here: np.ndarray, there: np.ndarray, bound: float, name: str) -> None:
    """No number differs by more than `bound` of the largest."""
    assert here.shape == there.shape and np.abs(here).max() > 0, name
    assert np.abs(here - there).max() <= bound * np.abs(here).max(), name


def check_lists(
    here: pa.Table,
    there: pa.Table,
    *,
    lists: tuple[str, ...],
    names: tuple[str, ...],
    value: str,
    more: tuple[str, ...] = (),
) -> None:
    """Ranked lists: equal numbers place by place, and equal names where no neighbour is as strong."""
    assert all(here[name].equals(there[name]) for name in (*lists, "rank"))
    strength = column(here, value)
    check_close(strength, column(there, value), NEAR, value)
    first = column(here, "rank") == 0
    apart = np.abs(np.diff(strength)) > 2 * NEAR * np.abs(strength).max()
    last = np.append(
        first[1:], True
    )  # the next one of a list that was cut is not known: its last place is not compared
    clear = (first | np.append(True, apart)) & np.append(apart, True) & ~last
    assert clear.mean() > 0.2  # GELU is at least -0.17: its negative lists are full of neighbours
    for name in names:
        assert (column(here, name) == column(there, name))[clear].all(), name
    for name in more:
        assert here[name].null_count == there[name].null_count
        if here[name].null_count == 0:
            check_close(column(here, name)[clear], column(there, name)[clear], 1e-4, name)


def column(table: pa.Table, name: str) -> np.ndarray:
    return table[name].to_numpy(zero_copy_only=False)


CHECKS: dict[str, Callable[[str, torch.device, Path], None]] = {
    "activations": check_activations,
    "gradients": check_gradients,
    "wiring": check_wiring,
    "logit lens": check_logit_lens,
    "read tokens": check_read_tokens,
    "attribution graphs": check_graphs,
}
