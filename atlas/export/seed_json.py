"""An atlas -> a folder of NeuronScope's JSON files, complete or absent.

activations/{prompt}.json, clusters/layer_{n}_clusters.json, queries/{neuron or cluster}.json, samples.json,
pruning/weight_analysis.json and pruning/impact_analysis.json. What the atlas has no rows for is not written, and said
in the report. The readers of the same files are exported here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from atlas.errors import InputError
from atlas.export.folder import new_folder
from atlas.export.seed_forms import (
    Activations,
    Cluster,
    LayerClusters,
    Measured,
    TokenQuery,
    read_activations,
    read_clusters,
    read_impact_analysis,
    read_query,
    read_samples,
    read_weight_analysis,
    strongest,
    write_activations,
    write_clusters,
    write_impact_analysis,
    write_query,
    write_samples,
    write_weight_analysis,
)
from atlas.export.seed_pruning import impact_analysis, require_known, weight_analysis
from atlas.export.seed_tables import (
    cluster_ids,
    cluster_query,
    firing_neurons,
    largest_clusters,
    layer_clusters,
    neuron_query,
    sample_prompts,
)
from atlas.neuron import NeuronId

if TYPE_CHECKING:
    from atlas.query.atlas import Atlas

__all__ = [
    "Activations",
    "Cluster",
    "LayerClusters",
    "Measured",
    "SeedPlan",
    "SeedReport",
    "TokenQuery",
    "export_seed_json",
    "prompt_names",
    "read_activations",
    "read_clusters",
    "read_impact_analysis",
    "read_query",
    "read_samples",
    "read_weight_analysis",
]

_NOT_IN_NAMES = re.compile(r"[^\w.]")  # a path from another tool's file must not leave the folder


@dataclass(frozen=True)
class SeedPlan:
    """What to write. An empty `neurons` means the strongest neurons and the largest modules."""

    neurons: tuple[str, ...] = ()  # selections; "cluster:158.4" asks for that module as one query
    limit: int = 100  # query files of neurons, of modules, and prompts of samples.json, at most
    tokens: int = 50  # tokens of each sign in a query file, at most
    top: int | None = None  # strongest neurons per layer in an activation file; None for all
    force: bool = False
    part: Literal["pruning"] | None = None  # only these files; None: all
    eval_ids: tuple[str, ...] = ()  # which scores, and which impacts, where the atlas has several evaluations


@dataclass
class SeedReport:
    """What was written: (path in the folder, bytes) in order of path, and what was left out and why."""

    files: list[tuple[str, int]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def export_seed_json(
    atlas: Atlas, target: Path, *, plan: SeedPlan | None = None, measured: Sequence[Measured] = ()
) -> SeedReport:
    """Write the folder `target` from an open atlas and, for activation files, prompts measured on its model.

    Equal atlases and plans give equal bytes. Raises InputError (a target that is not empty, an unknown neuron or
    module, a measurement of another model) and StoreError; the target is then as it was before.
    """
    plan, report = plan or SeedPlan(), SeedReport()
    if plan.limit < 1 or plan.tokens < 1:
        raise InputError(f"limit is {plan.limit} and tokens {plan.tokens}; use at least 1")
    with new_folder(target, force=plan.force) as folder:
        _export_pruning(atlas, folder, plan.eval_ids, report)
        if plan.part != "pruning":
            ids = cluster_ids(atlas.con)
            _export_clusters(atlas, folder, ids, report)
            _export_queries(atlas, folder, ids, plan=plan, report=report)
            _export_samples(atlas, folder, plan.limit, report)
            _export_activations(atlas, folder, measured, plan.top)
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        report.files = [(path.relative_to(folder).as_posix(), path.stat().st_size) for path in paths]
    return report


def prompt_names(prompts: Sequence[str]) -> list[str]:
    """File names of prompts: their words in lower case, at most 40 characters; a repeated name gets _2, _3 ...

    >>> prompt_names(["Translate the sentence", "translate the sentence!", "..."])
    ['translate_the_sentence', 'translate_the_sentence_2', 'prompt']
    """
    names: list[str] = []
    for prompt in prompts:
        base = "_".join(re.findall(r"\w+", prompt.lower()))[:40].strip("_") or "prompt"
        numbered = (f"{base}_{i}" if i > 1 else base for i in range(1, len(prompts) + 1))
        names.append(next(name for name in numbered if name not in names))
    return names


def _export_pruning(atlas: Atlas, folder: Path, eval_ids: Sequence[str], report: SeedReport) -> None:
    require_known(atlas, eval_ids)
    weights = weight_analysis(atlas, eval_ids=eval_ids)
    if weights["sparsity_analysis"]["layer_stats"] or weights["eval_id"] is not None:
        write_weight_analysis(folder / "pruning" / "weight_analysis.json", weights)
    else:
        report.notes.append("no pruning/weight_analysis.json: tables weight_stats and pruning are empty")
    impacts = impact_analysis(atlas, eval_ids=eval_ids)
    if impacts is None:
        report.notes.append('no pruning/impact_analysis.json: no impacts were measured; "atlas prune batch" does')
        return
    write_impact_analysis(folder / "pruning" / "impact_analysis.json", impacts)
    alone, members = len(impacts["individual_impacts"]), impacts.get("n_neurons", 0)
    if alone < members:
        report.notes.append(f"pruning/impact_analysis.json: {alone:,} of {members:,} members were measured alone")
    if impacts["recommendations"]["safe_to_prune"] is None:
        report.notes.append(f"pruning/impact_analysis.json has no verdicts: {impacts['reason']}")


def _export_clusters(atlas: Atlas, folder: Path, ids: dict[str, int], report: SeedReport) -> None:
    if not ids:
        report.notes.append("no clusters/: no neuron has a cluster_path (the atlas was built without clustering)")
        return
    for found in layer_clusters(atlas.con, ids):
        write_clusters(folder / "clusters" / f"layer_{found.layer}_clusters.json", found)


def _export_queries(atlas: Atlas, folder: Path, ids: dict[str, int], *, plan: SeedPlan, report: SeedReport) -> None:
    neurons, clusters = _selected(atlas, ids, plan) if plan.neurons else _default(atlas)
    if not neurons and not clusters:
        report.notes.append("no queries/: table token_stats is empty (the atlas was built without activations)")
    for what, found in (("neurons", neurons), ("modules", clusters)):
        if len(found) > plan.limit:
            report.notes.append(f"queries/ holds {plan.limit:,} of {len(found):,} {what}; raise --limit for more")
    for layer, neuron in neurons[: plan.limit]:
        query = neuron_query(atlas.con, layer, neuron, tokens=plan.tokens)
        write_query(folder / "queries" / f"L{layer}_N{neuron}.json", query)
    for path in clusters[: plan.limit]:
        query = cluster_query(atlas.con, path, cluster_id=ids[path], tokens=plan.tokens)
        write_query(folder / "queries" / f"cluster_{_NOT_IN_NAMES.sub('_', path)}.json", query)


def _default(atlas: Atlas) -> tuple[list[tuple[int, int]], list[str]]:
    neurons = firing_neurons(atlas.con)
    return neurons, largest_clusters(atlas.con) if neurons else []


def _selected(atlas: Atlas, ids: dict[str, int], plan: SeedPlan) -> tuple[list[tuple[int, int]], list[str]]:
    from atlas.query.selector import select

    paths = dict.fromkeys(s.removeprefix("cluster:") for s in plan.neurons if s.startswith("cluster:"))
    for path in paths:
        if path not in ids:
            raise InputError(f'no module {path!r} in {atlas.name}; "atlas cluster" lists the modules')
    found = dict.fromkeys(i for s in plan.neurons if not s.startswith("cluster:") for i in select(atlas, s))
    keys = (NeuronId.of_feature(i, atlas.d_mlp) for i in found)
    return [(key.layer, key.neuron) for key in keys], list(paths)


def _export_samples(atlas: Atlas, folder: Path, limit: int, report: SeedReport) -> None:
    prompts = sample_prompts(atlas.con, limit=limit)
    if not prompts:
        report.notes.append("no samples.json: tables graphs and contexts are empty")
        return
    write_samples(folder / "samples.json", prompts)


def _export_activations(atlas: Atlas, folder: Path, measured: Sequence[Measured], top: int | None) -> None:
    for name, found in _named(measured):
        layers, neurons = found.values.shape[:2]
        if (layers, neurons) != (atlas.layers, atlas.d_mlp):
            raise InputError(
                f"the model has {layers} layers of {neurons} neurons, {atlas.name} {atlas.layers} of {atlas.d_mlp}; "
                "give --model the model that the atlas was built from"
            )
        write_activations(folder / "activations" / f"{name}.json", strongest(found, top))


def _named(measured: Sequence[Measured]) -> Iterator[tuple[str, Measured]]:
    return zip(prompt_names([found.prompt for found in measured]), measured, strict=True)
