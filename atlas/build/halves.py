"""Graphs -> two atlases of one half of them each: what sampling alone changes between two atlases of one model.

A graph's half is a bit of the hash of its identity, so it is the same whatever the files, their order or the machine.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from atlas.build.edge_store import EdgeOptions, Sizes, add
from atlas.build.projection import project_store
from atlas.errors import InputError
from atlas.ingest.edge_store.facts import open_store
from atlas.ingest.projection import ProjectOptions
from atlas.progress import Progress, Quiet


@dataclass(frozen=True)
class Half:
    """One half, as an atlas of edges and graphs; its store lies beside it."""

    file: Path
    graphs: int
    edges: int


def make_halves(
    given: Iterable[Path],
    folder: Path,
    *,
    sizes: Sizes | None = None,
    how: ProjectOptions | None = None,
    options: EdgeOptions | None = None,
    progress: Progress | None = None,
) -> tuple[Half, Half]:
    """Make `half-1.duckdb` and `half-2.duckdb` in a folder, with their stores `half-1.edges` and `half-2.edges`.

    The same call goes on after a kill. Raises InputError for files that no half can be made of (sums of other tools)
    and when a half is left without graphs. Memory and disk: those of an edge store, twice one after the other.
    """
    paths, shown, chosen = list(given), progress or Quiet(), options or EdgeOptions()
    stores = [folder / f"half-{half}.edges" for half in (1, 2)]
    for half, store in enumerate(stores, start=1):
        add(store, paths, sizes=replace(sizes or Sizes(), half=half), options=chosen, progress=shown)
    graphs = [_graphs(store) for store in stores]
    if not all(graphs):
        raise InputError(
            f"the halves have {graphs[0]} and {graphs[1]} graphs; give more graphs, noise takes a few hundred"
        )
    made = [_project(store, how or ProjectOptions(min_count=1), chosen, shown) for store in stores]
    return made[0], made[1]


def _graphs(store: Path) -> int:
    """Graphs of a store; of loose observations, which list none, their number stands in."""
    manifest = open_store(store).manifest
    return sum(one.graphs for one in manifest.partials) or manifest.observations


def _project(store: Path, how: ProjectOptions, options: EdgeOptions, shown: Progress) -> Half:
    file = store.with_suffix(".duckdb")
    found = project_store(store, file, how=how, cooccurrence=0, options=options, progress=shown)
    return Half(file, found.graphs, found.edges)
