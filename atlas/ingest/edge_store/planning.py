"""Sources -> what is new of them, whether it may go into the store, what it will take, and the work that adds it."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from atlas.errors import AtlasError, InputError, ResourceError
from atlas.ingest.edge_store.facts import Store, StoreFacts, open_store, source_hashes
from atlas.ingest.edge_store.partial import Work
from atlas.ingest.edge_store.sources import (
    NO_GRAPHS,
    Given,
    graphs_of,
    known_graphs,
    known_sources,
    look_at,
    without_name,
)

WORK_OBSERVATIONS = 1 << 26  # of one partial: what a kill can cost is a piece, what a machine takes at once is this
OBSERVATION_DISK = 20  # bytes of a partial per observation, nodes and token edges included; measured 17
GRAPH_DISK = 400  # bytes per graph: its row and its nodes
COMPACT_DISK = 1.3  # of the partials' size, while both are there; measured 0.8 to 1.13, spills of sorting in it


@dataclass(frozen=True)
class News:
    """What is to be added, and what is not."""

    fresh: tuple[Given, ...]
    known: tuple[Given, ...]  # sources that are in the store
    rejected: tuple[tuple[str, str], ...]  # path, reason


def look(paths: Iterable[Path], store: Store | None, *, method: str | None, shown: Callable[[int], None]) -> News:
    """Tell new sources from known ones; InputError for a path whose content has changed since it was added.

    Known is also what comes a second time among the paths: under another name, or inside a store.
    """
    by_path, hashes = _known(store)
    fresh = []
    known = []
    rejected = []
    for path in paths:
        shown(1)
        try:
            one = look_at(path, method)
        except AtlasError as error:
            rejected.append((str(path.resolve()), without_name(str(error), path)))
            continue
        if one.sha256 in hashes or _all_in(one, hashes):
            known.append(one)
        elif one.path in by_path and one.kind != "store":
            raise InputError(
                f"{path} has changed since it was added (its hash was {by_path[one.path][:12]}, is {one.sha256[:12]}); "
                "graphs cannot be taken out of a store: put the new ones into another file, or make a new store"
            )
        else:
            fresh.append(one)
            hashes |= _hashes_of(one)
    return News(tuple(fresh), tuple(known), tuple(rejected))


def strangers(facts: StoreFacts, fresh: Sequence[Given], *, said_model: bool) -> list[tuple[str, str]]:
    """Path and reason of sources of another method, model or size than the store's.

    Names of models are not compared where a person has said the model (`said_model`): the same one has several.
    """
    found = []
    for one in fresh:
        reason = _strange(facts, one, said_model)
        if reason:
            found.append((one.path, reason))
    return found


def _strange(facts: StoreFacts, one: Given, said_model: bool) -> str | None:
    if one.edge_method not in (facts.edge_method, NO_GRAPHS):
        return (
            f"it holds {one.edge_method} edges, the store {facts.edge_method}: they never mix in one statistic; add it "
            "to another store, or say --method if the file is wrong about itself"
        )
    if one.kind == "store":
        other = open_store(Path(one.path)).facts
        if other.half != facts.half:
            return f"it is {_half(other)}, this store {_half(facts)}; they do not mix"
        for name in ("layers", "width", "unit_type", "quantum", "model"):
            if getattr(other, name) != getattr(facts, name):
                return f"it has {name} {getattr(other, name)}, this store {getattr(facts, name)}; they do not mix"
    known = facts.revision if one.kind == "shard" else facts.model
    if one.model and known not in (None, "unknown", one.model) and not said_model:
        return (
            f"it is of the model {one.model}, the store of {known}; --model {facts.model} says that they are the same"
        )
    return None


def _half(facts: StoreFacts) -> str:
    return f"half {facts.half} of its graphs" if facts.half else "of all its graphs"


def refuse_repeated_graphs(store: Store, fresh: Sequence[Given]) -> None:
    """Refuse shards and stores with graphs that the store, or another of them, has under another file."""
    seen = known_graphs(store)
    for one in fresh:
        if one.kind in ("shard", "store"):
            own = np.sort(graphs_of(one)) if one.kind == "shard" else known_graphs(open_store(Path(one.path)))
            if again := len(np.intersect1d(seen, own, assume_unique=True)):
                raise InputError(
                    f"{again} graphs of {one.name} are in the store already, from shards of another count; "
                    "add one set of shards of a measurement"
                )
            seen = np.union1d(seen, own)


def refuse_full_disk(path: Path, needed: int, what: str) -> None:
    """Refuse to begin what will not fit, with both numbers."""
    free = shutil.disk_usage(path).free
    if free < needed:
        raise ResourceError(
            f"{what} takes up to {needed / 1e9:.2f} GB under {path}, {free / 1e9:.2f} GB are free; "
            "free space, or put the store on another disk"
        )


def disk_of(fresh: Sequence[Given]) -> int:
    """Bytes that adding sources takes at most."""
    return sum(one.size if one.kind == "store" else one.observations * OBSERVATION_DISK + GRAPH_DISK for one in fresh)


def works(news: News, *, memory: int, threads: int, strict: bool) -> list[Work]:
    """New sources in groups of about WORK_OBSERVATIONS.

    Groups are cut by path over what is new and what is known, so that a command that is run again, whichever groups
    came in before, finds the same ones: what was begun of them goes on.
    """
    fresh = {one.sha256 for one in news.fresh}
    sources = {one.sha256: one for one in (*news.known, *news.fresh)}  # each content once
    groups: list[list[Given]] = [[]]
    held = 0
    for one in sorted(sources.values(), key=lambda given: (given.path, given.sha256)):
        if one.kind == "store":
            continue
        if groups[-1] and held + one.observations > WORK_OBSERVATIONS:
            groups.append([])
            held = 0
        groups[-1].append(one)
        held += one.observations
    wanted = [[one for one in group if one.sha256 in fresh] for group in groups]
    return [Work(_name(group), tuple(group), memory, threads, strict) for group in wanted if group]


def _name(group: Sequence[Given]) -> str:
    """The same for the same contents in the same order, for pieces of a draft know their sources by number."""
    return hashlib.sha256(json.dumps([one.sha256 for one in group]).encode()).hexdigest()[:16]


def _known(store: Store | None) -> tuple[dict[str, str], set[str]]:
    """Hash by path, and all hashes, of what is in the store."""
    if store is None:
        return {}, set()
    rows = known_sources(store).to_pylist()
    return {row["path"]: row["sha256"] for row in rows}, {row["sha256"] for row in rows}


def _all_in(one: Given, hashes: set[str]) -> bool:
    """Whether every source of another store is in this one; InputError when only some are."""
    if one.kind != "store":
        return False
    theirs = _hashes_of(one)
    both = len(theirs & hashes)
    if 0 < both < len(theirs):
        raise InputError(
            f"{both} of {len(theirs)} sources of {one.name} are in this store; add the others by themselves"
        )
    return both == len(theirs)


def _hashes_of(one: Given) -> set[str]:
    """Of a source's content; of a store those of its sources."""
    if one.kind != "store":
        return {one.sha256}
    other = open_store(Path(one.path))
    return {sha for partial in other.manifest.partials for sha in source_hashes(other.folder(partial))}
