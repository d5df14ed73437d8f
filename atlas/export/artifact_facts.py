"""One atlas file -> the facts that the registry of artifacts shows, all read from the file."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb

from atlas.errors import StoreError
from atlas.export.artifact_folders import BUILD, ShardFacts, measured_shards
from atlas.store.content import content_hash, row_counts

if TYPE_CHECKING:
    from atlas.query.atlas import Atlas

PUBLIC = ("neurons", "edges", "clusters", "metadata")
NON_TRIVIAL = 3  # neurons: a module of one or two says nothing about a circuit
BENCH = ".bench.json"  # ending of the file of figures beside an atlas

_COMMENTS = "SELECT table_name, comment FROM duckdb_tables() WHERE database_name = 'atlas'"
_COLUMNS = """
    SELECT table_name, list(column_name ORDER BY column_index) FROM duckdb_columns()
    WHERE database_name = 'atlas' GROUP BY table_name"""
_SOURCES = """
    SELECT "pass", source, count(DISTINCT (layer, neuron)) FROM labels
    WHERE coalesce(status, 'ok') = 'ok' AND label IS NOT NULL GROUP BY ALL ORDER BY ALL"""
_INTERPRETABILITY = """
    SELECT "pass", interpretability, count(*) FROM labels
    WHERE coalesce(status, 'ok') = 'ok' AND label IS NOT NULL GROUP BY ALL
    ORDER BY "pass", array_position(['low', 'medium', 'high'], any_value(interpretability)) DESC NULLS LAST,
        interpretability"""
_FAILURES = "SELECT status, count(*) FROM labels WHERE status <> 'ok' GROUP BY status ORDER BY status"
_LEVELS = "SELECT level, count(*) FROM clusters GROUP BY level ORDER BY level"
_LARGEST = """
    SELECT cluster_path, size FROM clusters WHERE level = 1 AND size IS NOT NULL
    ORDER BY size DESC, cluster_path LIMIT 1"""
_CIRCUITS = """
    SELECT coalesce(sum(n), 0)::BIGINT, count(*) FILTER (n >= $1)
    FROM (SELECT count(*) AS n FROM neurons WHERE cluster_path IS NOT NULL GROUP BY cluster_path)"""
_CLUSTERINGS = "SELECT clustering, method, neurons, modules, levels FROM clusterings ORDER BY clustering"
_GRAPHS = """
    SELECT count(*), min(explained), quantile_cont(explained, 0.25), median(explained), quantile_cont(explained, 0.75),
        sum(nodes_dropped)::BIGINT, median(explained_neurons)
    FROM graphs"""


@dataclass(frozen=True)
class Identity:
    """What tells one atlas from another; `shown` is its path as the registry writes it."""

    file: Path
    shown: str
    size: int
    schema: int
    metadata: dict[str, str]

    @property
    def created(self) -> str:
        """When it was built (ISO text), empty when unknown."""
        return self.metadata.get("created", "")


@dataclass(frozen=True)
class TableFacts:
    """One table of the file."""

    name: str
    rows: int
    description: str
    columns: tuple[str, ...]


@dataclass(frozen=True)
class LabelFacts:
    """Who labelled how many neurons; a neuron with labels of two sources counts in both."""

    neurons: int
    labelled: int  # neurons with a chosen label
    sources: list[tuple[str | None, str | None, int]]  # pass, source, neurons
    interpretability: list[tuple[str | None, str | None, int]]  # pass, interpretability, labels
    failures: list[tuple[str, int]]  # status, answers that are no label
    types: list[tuple[str | None, str | None, int]]  # pass, type, labels
    uniqueness: list[tuple[str | None, int, int]]  # pass, labels, distinct texts
    layers: list[tuple[int, int, int]]  # layer, neurons, those with a label


@dataclass(frozen=True)
class ModuleFacts:
    """The primary clustering."""

    levels: list[tuple[int, int]]  # level, modules
    largest: tuple[str, int] | None  # path and size of the largest top module
    clustered: int  # neurons in a module
    non_trivial: int  # finest modules of at least NON_TRIVIAL neurons


@dataclass(frozen=True)
class GraphFacts:
    """The attribution graphs and what they explain; the shares are None without graphs."""

    graphs: int
    lowest: float | None
    quarter: float | None
    median: float | None
    three_quarters: float | None
    nodes_dropped: int | None
    neurons_median: float | None  # from the listed neurons alone


@dataclass(frozen=True)
class Example:
    """A query with the rows it returned."""

    question: str
    statement: str
    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]


@dataclass(frozen=True)
class AtlasFacts:
    """Everything that the registry says about one atlas."""

    identity: Identity
    tables: tuple[TableFacts, ...]
    labels: LabelFacts
    modules: ModuleFacts
    graphs: GraphFacts
    stored_observations: int  # sum of edges.count
    content_hash: str
    examples: list[Example]
    clusterings: list[tuple[Any, ...]]  # name, method, neurons, modules, levels of every stored clustering
    shards: ShardFacts | None  # of the build folder beside the file
    bench: dict[str, Any] = field(default_factory=dict)  # figures of scripts/bench/atlas_scale.py


def read_identity(file: Path, shown: str) -> Identity:
    """Open an atlas and read what it is; StoreError when it is none, damaged, locked or of a newer schema."""
    with _opened(file) as atlas:
        return Identity(file, shown, file.stat().st_size, atlas.schema, dict(atlas.metadata))


def read_facts(identity: Identity) -> AtlasFacts:
    """Read everything; scans the whole file for the content hash."""
    from atlas.export.artifact_examples import examples

    with _opened(identity.file) as atlas:
        con = atlas.con
        return AtlasFacts(
            identity=identity,
            tables=_tables(con),
            labels=_labels(atlas),
            modules=_modules(con),
            graphs=GraphFacts(*con.execute(_GRAPHS).fetchall()[0]),
            stored_observations=int(con.execute("SELECT coalesce(sum(count), 0) FROM edges").fetchall()[0][0]),
            content_hash=content_hash(con),
            examples=examples(con),
            clusterings=con.execute(_CLUSTERINGS).fetchall(),
            shards=measured_shards(Path(f"{identity.file}{BUILD}"), f"{identity.shown}{BUILD}/"),
            bench=_bench(identity.file),
        )


def reason(error: Exception, file: Path) -> str:
    """Say why a file cannot be read, in one line without the paths and process ids of this machine."""
    text = str(error.__cause__ or error).splitlines()[0].strip()
    if "lock" in text.lower():
        return "in use by another process"
    for name in sorted({str(file), str(file.resolve())}, key=len, reverse=True):
        text = text.replace(name, file.name)
    return re.sub(r"(?<![\w.])/(?:[^\s\"':/]+/)+", "", text)


def _opened(file: Path) -> Atlas:
    from atlas.query.atlas import Atlas

    try:
        return Atlas(file)
    except duckdb.Error as error:
        raise StoreError(f"{file.name}: {error}; rebuild it") from error


def _tables(con: duckdb.DuckDBPyConnection) -> tuple[TableFacts, ...]:
    comments = dict(con.execute(_COMMENTS).fetchall())
    columns = dict(con.execute(_COLUMNS).fetchall())
    counts = row_counts(con)
    order = [*(name for name in PUBLIC if name in counts), *(name for name in counts if name not in PUBLIC)]
    return tuple(TableFacts(n, counts[n], comments.get(n) or "", tuple(columns.get(n, ()))) for n in order)


def _labels(atlas: Atlas) -> LabelFacts:
    con = atlas.con
    neurons, labelled = con.execute("SELECT count(*), count(label) FROM neurons").fetchall()[0]
    sources, interpretability, failures = (
        con.execute(statement).fetchall() for statement in (_SOURCES, _INTERPRETABILITY, _FAILURES)
    )
    types, unique, layers = (
        [row[:3] for row in atlas.ask(name, {}).fetchall()]
        for name in ("label_types", "label_uniqueness", "label_layers")
    )
    return LabelFacts(
        neurons, labelled, sources, interpretability, failures, types=types, uniqueness=unique, layers=layers
    )


def _modules(con: duckdb.DuckDBPyConnection) -> ModuleFacts:
    largest = con.execute(_LARGEST).fetchall()
    clustered, non_trivial = con.execute(_CIRCUITS, [NON_TRIVIAL]).fetchall()[0]
    return ModuleFacts(con.execute(_LEVELS).fetchall(), largest[0] if largest else None, clustered, non_trivial)


def _bench(file: Path) -> dict[str, Any]:
    """What a bench measured while it made the file and left beside it; {} where there is none."""
    try:
        found: dict[str, Any] = json.loads(file.with_name(file.name + BENCH).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise StoreError(f"{file.name}{BENCH} is not JSON ({error}); delete it, or run the bench again") from None
    return found
