"""The name of a method and what a person set -> its options, what a run of it costs, and its run.

A run is named by its method unless it is given a name. Methods and their libraries are imported when they are used.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import duckdb

from atlas.derive.clustering.graph import EdgeChoice, count_edges, usual_count
from atlas.errors import InputError
from atlas.ingest.partitions import Clustering, Placed
from atlas.progress import Progress

_PACKAGE = "atlas.derive.clustering"
_METHODS = {  # name: (module, its options)
    "infomap": ("infomap", "InfomapOptions"),
    "leiden": ("leiden", "LeidenOptions"),
    "louvain-hierarchical": ("louvain", "LouvainOptions"),
    "kmeans": ("kmeans", "ProfileOptions"),
    "nmf": ("nmf", "ProfileOptions"),
    "spectral": ("spectral", "ProfileOptions"),
}
METHODS = tuple(_METHODS)
BASE_MEMORY = 400 << 20  # Python, numpy, Arrow and what DuckDB holds while it streams
MOST_SEED = (1 << 32) - 1  # what all of the libraries take
LINK = 40  # bytes of an edge in a link list, at most: two ids of 7 digits, a weight of 24


@dataclass(frozen=True)
class Cost:
    """What a method takes: bytes an entry and a neuron, and seconds(entries) = base * (entries / 1M) ^ growth.

    Both for the usual number of modules; `module`: bytes a neuron for each module more. Seconds are proportional to k.
    """

    entry: int
    neuron: int
    seconds: float
    growth: float
    module: int = 0


@dataclass(frozen=True)
class Need:
    """What a run will take; entries are edges, or pairs of a neuron and a token that fires it."""

    entries: int
    memory: int  # bytes
    seconds: float
    disk: int  # bytes, for a while


# Measured: infomap at 1 to 54 million edges; of 352,256 neurons and 4.4 million edges leiden (195 s of processor time,
# 1.5 GB), louvain-hierarchical (47 s, 1.3 GB), kmeans (146 s, 0.9 GB) and nmf (109 s, 1.0 GB); spectral (51 s) at 1.2
# million edges of 65,536 neurons.
_COSTS = {
    "infomap": Cost(190, 1000, 9.0, 1.4),
    "leiden": Cost(330, 500, 33.0, 1.2),
    "louvain-hierarchical": Cost(260, 500, 8.0, 1.2),
    "kmeans": Cost(110, 2000, 22.0, 1.2),
    "nmf": Cost(110, 2000, 20.0, 1.2, module=24),
    "spectral": Cost(110, 2000, 40.0, 1.2, module=32),
}


def make_options(method: str, given: Mapping[str, object]) -> Any:
    """The options of a method; InputError for a method or an option that there is not. None means the usual value."""
    if method not in _METHODS:
        raise InputError(f"no method {method!r}; choose {', '.join(METHODS)}")
    kind = getattr(_module(method), _METHODS[method][1])
    known = {one.name for one in fields(kind)}
    set_ones = {name: value for name, value in given.items() if value is not None}
    for name in set_ones:
        if name not in known:
            raise InputError(f"{method} has no {name.replace('_', '-')}; it takes {', '.join(sorted(known))}")
    for name, least in (("min_count", 1), ("trials", 1), ("seed", 0)):
        if name in set_ones and int(str(set_ones[name])) < least:
            raise InputError(f"{name.replace('_', '-')} is {set_ones[name]}, it must be at least {least}")
    if int(str(set_ones.get("seed", 0))) > MOST_SEED:
        raise InputError(f"seed is {set_ones['seed']}, it must be at most {MOST_SEED}")
    return kind(**set_ones)


def complete(con: duckdb.DuckDBPyConnection, method: str, given: Mapping[str, object]) -> dict[str, object]:
    """What was given, with the minimum count that suits this atlas where none was."""
    if given.get("min_count") is not None or given.get("profile") == "activations":
        return dict(given)
    return {**given, "min_count": usual_count(con)}


def find(
    con: duckdb.DuckDBPyConnection, method: str, options: Any, *, d_mlp: int, progress: Progress | None = None
) -> tuple[Clustering, Placed]:
    """Run a method with its options."""
    run, placed = _module(method).find(con, options=options, d_mlp=d_mlp, progress=progress)
    assert isinstance(run, Clustering) and isinstance(placed, Placed)
    return run, placed


def predict(con: duckdb.DuckDBPyConnection, method: str, options: Any, *, neurons: int) -> Need:
    """What a run will take, from the number of edges that go in; raises as the run does when there are none.

    Seconds are of an idle core and within a factor of three: they depend on how clear the modules are.
    """
    entries, cost = _entries(con, options), _COSTS[method]
    with_entries = min(neurons, 2 * entries)
    k, usual = _modules(method, options, with_entries)
    memory = BASE_MEMORY + entries * cost.entry + with_entries * (cost.neuron + cost.module * max(k - usual, 0))
    seconds = 2 + cost.seconds * (entries / 1e6) ** cost.growth * getattr(options, "trials", 1) * k / usual
    disk = entries * LINK if method == "infomap" else 0
    return Need(entries, memory, seconds, disk)


def _entries(con: duckdb.DuckDBPyConnection, options: Any) -> int:
    if hasattr(options, "weight"):
        return count_edges(con, EdgeChoice(options.weight, options.min_count))
    from atlas.derive.clustering.profiles import require_entries

    require_entries(con, options)
    if options.profile == "edges":
        return count_edges(con, EdgeChoice("weight_abs_sum", options.min_count))
    found = con.execute("SELECT count(*) FROM token_stats WHERE n >= $1 AND sum <> 0", [options.min_count]).fetchall()
    return int(found[0][0])


def _modules(method: str, options: Any, neurons: int) -> tuple[int, int]:
    """How many modules a method that is told so looks for, and how many it would by itself; (1, 1) for the others."""
    if not hasattr(options, "k"):
        return 1, 1
    from atlas.derive.clustering.profiles import module_count

    usual = module_count(replace(options, k=None), neurons, most=_module(method).MOST)
    return options.k or usual, usual


def _module(method: str) -> Any:
    return importlib.import_module(f"{_PACKAGE}.{_METHODS[method][0]}")
