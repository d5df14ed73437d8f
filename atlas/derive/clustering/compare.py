"""Two clusterings of an atlas -> one report: agreement, sizes of their modules, likeness of the labels within them.

A clustering is named as in `clusterings`, or is an assignment file; "primary" is the one that neurons show.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from atlas.derive.clustering.coherence import Coherence, coherence, read_labels
from atlas.errors import InputError, StoreError
from atlas.ingest.clusters import read_assignments
from atlas.progress import Progress, Quiet
from atlas.query.agreement import Agreement, agreement

if TYPE_CHECKING:
    from atlas.query.atlas import Atlas

Ints = npt.NDArray[np.int64]

_QUANTILES = {"min": 0.0, "25%": 0.25, "50%": 0.5, "75%": 0.75, "90%": 0.9, "99%": 0.99, "max": 1.0}
_STORED = """
    SELECT layer::BIGINT * $d_mlp + neuron AS id,
           array_to_string(string_split(cluster_path, '.')[1:$level], '.') AS path
    FROM partitions WHERE coalesce(clustering, method) = $name ORDER BY id"""
_IN_FILE = """
    SELECT layer::BIGINT * $d_mlp + neuron AS id,
           array_to_string(string_split(cluster_path, '.')[1:$level], '.') AS path
    FROM temp.assignments ORDER BY id"""
_DEEPEST = 1000  # levels


@dataclass(frozen=True)
class CompareOptions:
    """How to compare; `draws` permutations make the null of label likeness, 0 leaves labels out."""

    level: int | None = None  # paths are cut to so many levels; None: the finest module of each neuron
    draws: int = 20
    seed: int = 42


@dataclass(frozen=True)
class Partition:
    """The modules of a clustering: packed ids, ascending, and the module of each, from 0."""

    name: str
    ids: Ints
    modules: Ints


@dataclass(frozen=True)
class Side:
    """One of two clusterings; sizes are quantiles over modules, in neurons."""

    name: str
    modules: int
    neurons: int
    outside: int  # neurons of the model in no module: not clustered, or alone and left out
    largest_share: float  # of the neurons placed
    sizes: dict[str, int] = field(default_factory=dict)
    coherence: Coherence | None = None  # None where labels were left out


@dataclass(frozen=True)
class Comparison:
    """The report of two clusterings."""

    a: Side
    b: Side
    agreement: Agreement
    level: int | None

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values, as comparison_report.json has it."""
        return asdict(self)


def compare(
    atlas: Atlas, a: str, b: str, *, options: CompareOptions | None = None, progress: Progress | None = None
) -> Comparison:
    """Compare two clusterings, each a name or an assignment file.

    Raises InputError for an unknown name, a file that cannot be read, and clusterings without a common neuron.
    """
    found = compare_all(atlas, [a, b], options=options, progress=progress)[0]
    if not found.agreement.neurons_in_both:
        raise InputError(f"{a} and {b} place no neuron in common; compare clusterings of the same neurons")
    return found


def compare_all(
    atlas: Atlas,
    names: Sequence[str] = (),
    *,
    options: CompareOptions | None = None,
    progress: Progress | None = None,
) -> list[Comparison]:
    """Compare every pair, all stored clusterings when none is named. Memory: 100 bytes a neuron of each clustering."""
    chosen, names = options or CompareOptions(), names or clustering_names(atlas)
    _check(names, chosen)
    with (progress or Quiet()).task("comparing", len(names), "clusterings") as task:
        partitions = [read_partition(atlas, name, level=chosen.level) for name in names]
        labels = read_labels(atlas.con, d_mlp=atlas.d_mlp) if chosen.draws else None
        sides = []
        for one in partitions:
            alike = coherence(labels, one.ids, one.modules, draws=chosen.draws, seed=chosen.seed) if labels else None
            sides.append(_side(one, atlas.layers * atlas.d_mlp, alike))
            task.advance()
    return [
        Comparison(sides[i], sides[j], agreement(_pair(partitions[i]), _pair(partitions[j])), chosen.level)
        for i, j in combinations(range(len(names)), 2)
    ]


def clustering_names(atlas: Atlas) -> list[str]:
    """Names of the stored clusterings, in order."""
    found = atlas.con.execute(
        "SELECT DISTINCT coalesce(clustering, method) AS name FROM partitions ORDER BY name"
    ).fetchall()
    return [name for (name,) in found]


def stored_name(atlas: Atlas, name: str | None = None) -> str:
    """The name of a stored clustering; None and "primary" mean the one that neurons show."""
    primary = name in (None, "primary")
    meant = atlas.metadata.get("primary_clustering", "infomap") if name is None or primary else name
    if meant not in clustering_names(atlas):
        raise (StoreError if primary else InputError)(_unknown(atlas, meant))
    return meant


def read_partition(atlas: Atlas, name: str, *, level: int | None = None) -> Partition:
    """The modules of a stored clustering or, where none has that name, of an assignment file."""
    from pyarrow.compute import dictionary_encode

    bound: dict[str, object] = {"d_mlp": atlas.d_mlp, "level": level or _DEEPEST}
    if name in ("primary", *clustering_names(atlas)):
        name = stored_name(atlas, name)
        table: Any = atlas.con.sql(_STORED, params={**bound, "name": name}).to_arrow_table()
    elif Path(name).is_file():
        read_assignments(atlas.con, Path(name), layers=atlas.layers, d_mlp=atlas.d_mlp)
        table = atlas.con.sql(_IN_FILE, params=bound).to_arrow_table()
    else:
        raise InputError(f"no file {name!r} and {_unknown(atlas, name)}")
    coded: Any = dictionary_encode(table["path"].combine_chunks())
    return Partition(name, table["id"].to_numpy().astype(np.int64), coded.indices.to_numpy().astype(np.int64))


def _check(names: Sequence[str], options: CompareOptions) -> None:
    if len(names) < 2:
        raise StoreError(
            f"{len(names)} clustering to compare ({', '.join(names)}); add another: atlas cluster import FILE"
        )
    if options.level is not None and options.level < 1:
        raise InputError(f"level is {options.level}; 1 is the top")
    if options.draws < 0 or options.draws == 1:
        raise InputError(f"draws is {options.draws}; give 2 or more, or 0 for no label likeness")
    if options.seed < 0:
        raise InputError(f"seed is {options.seed}; give 0 or more")


def _unknown(atlas: Atlas, name: str) -> str:
    known = clustering_names(atlas)
    if not known:
        return f'no clustering in {atlas.name}: table partitions is empty; run "atlas cluster run" or "... import FILE"'
    return f"no clustering {name!r} in {atlas.name}; there {'are' if len(known) > 1 else 'is'} {', '.join(known)}"


def _side(one: Partition, neurons: int, alike: Coherence | None) -> Side:
    sizes = np.bincount(one.modules)
    quantiles = {
        name: int(np.quantile(sizes, share, method="inverted_cdf")) for name, share in _QUANTILES.items() if len(sizes)
    }
    share = int(sizes.max()) / len(one.ids) if len(one.ids) else 0.0
    return Side(one.name, len(sizes), len(one.ids), neurons - len(one.ids), share, quantiles, alike)


def _pair(one: Partition) -> tuple[Ints, Ints]:
    return one.ids, one.modules
