"""A stored clustering -> NeuronScope's cluster files, of every layer and of every prompt, with centroids.

A file is of one layer, so a prompt has as many as layers, {prompt}_layer_{n}_clusters.json, or, for one chosen layer,
{prompt}_clusters.json: the modules restricted to the neurons of the prompt's attribution graphs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from atlas.derive.clustering.compare import stored_name
from atlas.derive.clustering.profiles import ProfileOptions, directions, read_profiles
from atlas.errors import InputError, StoreError
from atlas.export.folder import new_folder
from atlas.export.seed_forms import Cluster, LayerClusters, write_clusters
from atlas.export.seed_json import SeedReport, prompt_names

if TYPE_CHECKING:
    from atlas.query.atlas import Atlas

Profile = Literal["edges", "activations"]
Centroids = dict[str, tuple[float | None, ...]]

_PATHS = """
    SELECT DISTINCT array_to_string(parts[1:level], '.') AS path
    FROM (
        SELECT DISTINCT string_split(cluster_path, '.') AS parts FROM partitions
        WHERE coalesce(clustering, method) = $name
    ), unnest(range(1, len(parts) + 1)) AS l(level)
    ORDER BY list_transform(string_split(path, '.'), lambda x: try_cast(x AS BIGINT)), path"""
_LAYERS = """
    SELECT layer, cluster_path, list(neuron ORDER BY neuron) FROM partitions
    WHERE coalesce(clustering, method) = $name AND layer = coalesce($layer, layer)
    GROUP BY layer, cluster_path ORDER BY layer, cluster_path"""
_PROMPTS = """
    SELECT prompt FROM graphs WHERE prompt IS NOT NULL GROUP BY prompt
    ORDER BY min(graph_id) NULLS LAST, prompt LIMIT $1"""
_PROMPT = """
    SELECT p.layer, p.cluster_path, list_sort(list(DISTINCT p.neuron))
    FROM neuron_graphs AS n JOIN partitions AS p ON p.layer = n.layer AND p.neuron = n.neuron
    WHERE coalesce(p.clustering, p.method) = $name AND p.layer = coalesce($layer, p.layer)
        AND n.graph_id IN (SELECT graph_id FROM graphs WHERE prompt = $prompt)
    GROUP BY p.layer, p.cluster_path ORDER BY p.layer, p.cluster_path"""
_MEMBERS = """
    SELECT layer::BIGINT * $d_mlp + neuron AS id, cluster_path AS path FROM partitions
    WHERE coalesce(clustering, method) = $name ORDER BY id"""


@dataclass(frozen=True)
class ClusterPlan:
    """What to write; None of `clustering` is the primary one, of `profile` that of the clustering, else edges."""

    clustering: str | None = None
    profile: Profile | None = None  # whose three leading directions are the centroids' coordinates
    layer: int | None = None  # only this one
    prompts: int = 100  # files of prompts: of the first so many
    force: bool = False


def export_seed_clusters(atlas: Atlas, target: Path, *, plan: ClusterPlan | None = None) -> SeedReport:
    """Write the folder `target`: layer_{n}_clusters.json, and files of prompts where the atlas knows their neurons.

    A cluster_id is the rank, from 0, of the module's path among all of the clustering. A centroid is the mean of the
    whole module, the same in every file. Raises InputError for an unknown clustering, a layer out of range and a
    target that is not empty; the target is then as it was.
    """
    plan, report = plan or ClusterPlan(), SeedReport()
    name = stored_name(atlas, plan.clustering)
    if plan.layer is not None and not 0 <= plan.layer < atlas.layers:
        raise InputError(f"no layer {plan.layer} in {atlas.name}; layers are 0..{atlas.layers - 1}")
    ids = {path: rank for rank, (path,) in enumerate(atlas.con.execute(_PATHS, {"name": name}).fetchall())}
    centroids = _centroids(atlas, name, plan, report)
    with new_folder(target, force=plan.force) as folder:
        bound: dict[str, object] = {"name": name, "layer": plan.layer}
        for found in _layers(atlas, _LAYERS, bound, ids, centroids):
            write_clusters(folder / f"layer_{found.layer}_clusters.json", found)
        for prompt, file in _prompts(atlas, plan, report):
            for found in _layers(atlas, _PROMPT, bound | {"prompt": prompt}, ids, centroids):
                ending = "" if plan.layer is not None else f"_layer_{found.layer}"
                write_clusters(folder / f"{file}{ending}_clusters.json", found)
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        report.files = [(path.relative_to(folder).as_posix(), path.stat().st_size) for path in paths]
    return report


def _layers(
    atlas: Atlas, statement: str, bound: dict[str, object], ids: dict[str, int], centroids: Centroids
) -> Iterator[LayerClusters]:
    rows = atlas.con.execute(statement, bound).fetchall()
    for layer, of_layer in groupby(rows, key=lambda row: row[0]):
        clusters = [Cluster(ids[path], tuple(neurons), path, centroids.get(path)) for _, path, neurons in of_layer]
        yield LayerClusters(layer, tuple(sorted(clusters, key=lambda cluster: cluster.cluster_id)))


def _prompts(atlas: Atlas, plan: ClusterPlan, report: SeedReport) -> list[tuple[str, str]]:
    """(prompt, its name in files) of the first prompts whose neurons the atlas knows."""
    if not atlas.con.execute("SELECT count(*) FROM (SELECT 1 FROM neuron_graphs LIMIT 1)").fetchall()[0][0]:
        report.notes.append("no files of prompts: table neuron_graphs is empty (the atlas has no attribution graphs)")
        return []
    total = atlas.con.execute("SELECT count(DISTINCT prompt) FROM graphs").fetchall()[0][0]
    if total > plan.prompts:
        report.notes.append(f"files of {plan.prompts:,} of {total:,} prompts; raise --prompts for more")
    prompts = [prompt for (prompt,) in atlas.con.execute(_PROMPTS, [plan.prompts]).fetchall()]
    return list(zip(prompts, prompt_names(prompts), strict=True))


def _centroids(atlas: Atlas, name: str, plan: ClusterPlan, report: SeedReport) -> Centroids:
    """Mean coordinates of the modules' neurons along the three leading directions of their profiles."""
    told = atlas.con.execute("SELECT parameters FROM clusterings WHERE clustering = $1", [name]).fetchall()
    parameters = json.loads(told[0][0] or "{}") if told else {}
    profile: Profile = "activations" if parameters.get("profile") == "activations" else "edges"
    options = ProfileOptions(profile=plan.profile or profile, min_count=int(parameters.get("min_count", 3)))
    try:
        found = read_profiles(atlas.con, options=options, d_mlp=atlas.d_mlp)
    except StoreError as error:
        report.notes.append(f"no centroids: {error}")
        return {}
    return _means(atlas, name, found.ids, directions(found.rows, dimensions=3, seed=options.seed).astype(np.float64))


def _means(atlas: Atlas, name: str, ids: np.ndarray, places: np.ndarray) -> Centroids:
    read = atlas.con.execute(_MEMBERS, {"name": name, "d_mlp": atlas.d_mlp}).fetchnumpy()
    _, at, known = np.intersect1d(read["id"], ids, assume_unique=True, return_indices=True)
    paths, module, sizes = np.unique(read["path"][at].astype(str), return_inverse=True, return_counts=True)
    means = np.column_stack([np.bincount(module, places[known, axis]) / sizes for axis in range(places.shape[1])])
    return {str(path): tuple(round(float(x), 6) for x in mean) for path, mean in zip(paths, means, strict=True)}
