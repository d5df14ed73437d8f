"""An atlas file -> an object whose methods are the questions; each binds values to one macro of sql/queries."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, overload

import duckdb

from atlas.errors import InputError, StoreError
from atlas.neuron import NeuronId, parse_neuron
from atlas.query.answer import Answer, macro_call, refuse
from atlas.query.selector import Selection, select
from atlas.store.connection import SEARCH_PATH, Limits, open_reader
from atlas.store.schema import newest_version, require_readable, schema_version
from atlas.store.sqlfiles import sql_files, sql_text

if TYPE_CHECKING:
    from atlas.query.circuits import Edges, Ego
    from atlas.query.clusters import ClusterCard, Quotient
    from atlas.query.compare import Diff, DiffOptions, What
    from atlas.query.label_stats import LabelStats
    from atlas.query.motifs import Motifs
    from atlas.query.neurons import Card
    from atlas.query.pruning import Ranking
    from atlas.query.search import Where
    from atlas.query.subgraph import Subgraph
    from atlas.store.checks import CheckResult

Polarity = Literal["+", "-"] | int

_BUILT_WITHOUT = {
    "edges": "attribution graphs",
    "token_edges": "attribution graphs",
    "clusters": "clustering",
    "vocab": "a vocabulary",
    "contexts": "activations",
    "exemplars": "activations",
    "token_stats": "activations",
    "neuron_stats": "activations",
    "labels": "labels",
    "pruning": "pruning scores",
    "weight_stats": "weights",
}


class Atlas:
    """One atlas file, open read-only; a context manager.

    Answers may be used from several threads: each run has its own cursor. A file of another tool with the tables
    neurons, edges, clusters and metadata opens unchanged; what it lacks reads as NULL.
    """

    def __init__(self, path: str | Path, *, limits: Limits | None = None) -> None:
        self.path = Path(path)
        self.name = self.path.name
        self.con = open_reader(path, limits=limits, macros=False)
        try:
            self._prepare()
        except BaseException:
            self.con.close()
            raise

    def _prepare(self) -> None:
        self._lock = threading.RLock()
        self._pool: ThreadPoolExecutor | None = None
        self._macros: set[str] = set()
        self.populations: dict[int, tuple[list[int], list[int]]] = {}  # of atlas.query.common, by minimum count
        self.index_state: str | None = None  # of atlas.query.search: whether the word index is of the texts shown
        self.vectors_state: str | None = None  # of atlas.query.semantic: likewise the vectors
        self.schema = schema_version(self.con)
        require_readable(self.con, self.name)
        self.missing: frozenset[str] = frozenset()
        if self.schema < newest_version():
            from atlas.query.standins import stand_in

            self.missing = stand_in(self.con, self.name)
        self.metadata: dict[str, str] = dict(self._fetch("SELECT key, value FROM metadata ORDER BY key"))  # type: ignore[arg-type]
        self.layers, self.d_mlp = self._sizes()

    def _sizes(self) -> tuple[int, int]:
        if "num_layers" in self.metadata and "neurons_per_layer" in self.metadata:
            return int(self.metadata["num_layers"]), int(self.metadata["neurons_per_layer"])
        from atlas.query.standins import mlp_width

        layers = self._fetch("SELECT coalesce(max(layer), 0) + 1 FROM neurons")[0][0]
        return int(str(layers)), mlp_width(self.con)

    # -- the questions ------------------------------------------------------------------------------------------

    def neuron(self, neuron: object, *, k: int = 10) -> Card:
        """Everything about one neuron: labels, tokens and texts of both signs, what it reads and writes, edges."""
        from atlas.query.neurons import card

        return card(self, neuron, k=k)

    def exemplars(
        self,
        selection: Selection,
        *,
        tokens: list[str] | None = None,
        polarity: Polarity | None = None,
        k: int | None = 20,
    ) -> Answer:
        """Texts on which the neurons fire most strongly, on request only those at the given tokens."""
        from atlas.query.tokens import exemplars

        return exemplars(self, selection, tokens=tokens, polarity=polarity, k=k)

    def search(
        self,
        query: str,
        *,
        mode: str = "words",
        field: str | Mapping[str, float] = "all",
        where: Where | None = None,
        limit: int | None = 20,
    ) -> Answer:
        """Neurons by their labels, best first; mode "words" (BM25), "fuzzy", "substring", "regex", "semantic" ...

        words: any of them, with inflections; dr* = words that begin so; "past tense" in quotes = as it stands.
        """
        from atlas.query.search import search

        return search(self, query, mode=mode, field=field, where=where, limit=limit)

    def label_stats(self, *, source: str | None = None, generic: int = 10, limit: int | None = 10) -> LabelStats:
        """What the labels are like: coverage, layers, types, interpretability, uniqueness, the most repeated texts."""
        from atlas.query.label_stats import label_stats

        return label_stats(self, source=source, generic=generic, limit=limit)

    def tokens(self, selection: Selection, *, polarity: Polarity | None = None, limit: int | None = 20) -> Answer:
        """Reverse activation: the tokens that fire a neuron or a set of neurons strongly."""
        from atlas.query.tokens import tokens

        return tokens(self, selection, polarity=polarity, limit=limit)

    def fires_on(
        self, *tokens: str, polarity: Polarity | None = None, at_least: int = 1, limit: int | None = 20
    ) -> Answer:
        """The neurons that fire strongly on a token; with several tokens, on that category (recall is averaged)."""
        from atlas.query.tokens import fires_on

        return fires_on(self, tokens, polarity=polarity, at_least=at_least, limit=limit)

    @overload
    def edges(
        self,
        sources: Selection | None = None,
        targets: Selection | None = None,
        *,
        min_weight: float = 0.0,
        min_count: int = 1,
        group_by: None = None,
        limit: int | None = 50,
    ) -> Edges: ...

    @overload
    def edges(
        self,
        sources: Selection | None = None,
        targets: Selection | None = None,
        *,
        min_weight: float = 0.0,
        min_count: int = 1,
        group_by: Literal["cluster"],
        limit: int | None = 50,
    ) -> Answer: ...

    def edges(
        self,
        sources: Selection | None = None,
        targets: Selection | None = None,
        *,
        min_weight: float = 0.0,
        min_count: int = 1,
        group_by: Literal["cluster"] | None = None,
        limit: int | None = 50,
    ) -> Answer:
        """Edges between two selections (None = any neuron), strongest first; `.by_cluster()` and `.matrix()`.

        group_by="cluster" collapses them to the finest modules; `.by_cluster(level)` to those of a level.
        """
        from atlas.query.circuits import edges

        if group_by not in (None, "cluster"):
            raise InputError(f"cannot group edges by {group_by!r}; use group_by='cluster' or leave it out")
        found = edges(self, sources, targets, min_weight=min_weight, min_count=min_count, limit=limit)
        return found.by_cluster(limit=limit) if group_by else found

    def ego(
        self, selection: Selection, *, hops: int = 1, top: int = 10, direction: str = "both", limit: int | None = None
    ) -> Ego:
        """The neighbourhood of a selection: nodes reached over the strongest edges, and edges among them (limit)."""
        from atlas.query.circuits import ego

        return ego(self, selection, hops=hops, top=top, direction=direction, limit=limit)

    def circuit(
        self,
        source: Selection | None = None,
        target: Selection | None = None,
        *,
        budget: float = 0.8,
        max_nodes: int = 200,
        min_count: int = 1,
        tokens: bool = True,
    ) -> Subgraph:
        """The neurons by which a source (None = all there is) acts on a target, up to a share of the influence.

        source: neurons or "embedding: doctor"; target: neurons or "logit: she"; tokens also shows what feeds the ends.
        """
        from atlas.query.circuit import Cut, circuit

        return circuit(self, source, target, cut=Cut(budget, max_nodes, min_count), tokens=tokens)

    def common(
        self,
        selection: Selection,
        *,
        direction: str = "inputs",
        at_least: int = 2,
        min_count: int = 1,
        limit: int | None = 20,
    ) -> Answer:
        """Neurons that feed (direction="outputs": are fed by) several of a selection, with p and q against degree."""
        from atlas.query.common import common

        return common(self, selection, direction=direction, at_least=at_least, min_count=min_count, limit=limit)

    def similar(
        self,
        selection: Selection,
        *,
        by: str = "out",
        k: int | None = 20,
        layers: tuple[int, int] | None = None,
    ) -> Answer:
        """Neurons with the most similar edges (by "out", "in" or "both"), "tokens" or words of the "label"."""
        from atlas.query.similar import similar

        return similar(self, selection, by=by, k=k, layers=layers)

    def clusters(
        self, *, level: int | None = None, below: str | None = None, min_size: int = 1, limit: int | None = 50
    ) -> Answer:
        """The modules, largest first."""
        from atlas.query.clusters import clusters

        return clusters(self, level=level, below=below, min_size=min_size, limit=limit)

    def clusterings(self, *, limit: int | None = 50) -> Answer:
        """The stored clusterings, the primary one (which clusters() and neurons show) first."""
        headline = ("clustering", "primary", "method", "neurons", "modules", "top_modules", "levels", "quality")
        warnings = self.require("clusterings")
        return self.ask("clusterings_list", {"max_rows": limit}, headline=headline, warnings=warnings)

    def cluster(self, path: str, *, k: int | None = 20, words: bool = False) -> ClusterCard:
        """One module: sizes, layers, weights, parts, members, neighbours, inner edges, tokens (and words)."""
        from atlas.query.clusters import cluster

        return cluster(self, path, k=k, words=words)

    def quotient(self, *, level: int = 1, between: bool = False, limit: int | None = 50) -> Quotient:
        """Modules as nodes: weight from each to each, what chance would send, z; `.matrix()` gives scipy sparse."""
        from atlas.query.clusters import quotient

        return quotient(self, level=level, between=between, limit=limit)

    def enrich(
        self,
        selection: Selection | None = None,
        *,
        level: int = 1,
        field: str = "label",
        min_hits: int = 2,
        limit: int | None = 50,
    ) -> Answer:
        """Words that the labels of a selection, or of every module of a level, hold more often than chance."""
        from atlas.query.enrichment import enrich

        return enrich(self, selection, level=level, field=field, min_hits=min_hits, limit=limit)

    def paths(
        self,
        src: Selection,
        dst: Selection,
        *,
        max_hops: int = 5,
        k: int = 10,
        score: str = "product",
        min_count: int = 1,
    ) -> Answer:
        """The k strongest paths between two selections, exact; score "product" or "bottleneck" of mean |F|."""
        from atlas.query.paths import paths

        return paths(self, src, dst, max_hops=max_hops, k=k, score=score, min_count=min_count)

    def graphs(self, selection: Selection, *, members: str | Path | None = None, limit: int | None = 20) -> Answer:
        """The attribution graphs (prompts) that contain every neuron of a selection, most relevant first."""
        from atlas.query.graphs import graphs

        return graphs(self, selection, members=members, limit=limit)

    def motifs(
        self,
        selection: Selection | None = None,
        *,
        kind: str | None = None,
        null: int = 100,
        seed: int = 0,
        min_count: int = 1,
        limit: int | None = 20,
    ) -> Motifs:
        """Feed-forward loops, fans and bi-fans against random graphs of the same degrees and layers."""
        from atlas.query.motifs import motifs

        return motifs(self, selection, kind=kind, null=null, seed=seed, min_count=min_count, limit=limit)

    def prune(
        self,
        *,
        threshold: float = 10.0,
        layer: int | None = None,
        everything: bool = False,
        limit: int | None = 50,
        ranking: Ranking | None = None,
    ) -> Answer:
        """Pruning candidates, safest first; `everything` also lists neurons that are none.

        `ranking`: another score method, ranks among all layers, or one of several evaluations.
        """
        from atlas.query.pruning import prune

        return prune(self, threshold=threshold, layer=layer, everything=everything, limit=limit, ranking=ranking)

    def weights(self, *, layer: int | None = None, limit: int | None = None) -> Answer:
        """Weight analysis of every tensor: parameters, sparsity, magnitudes, norms; layer -1: outside the layers."""
        from atlas.query.weights import weights

        return weights(self, layer=layer, limit=limit)

    def weight_summary(self, *, layer: int | None = None) -> Answer:
        """One row: overall_sparsity, total_parameters, non_zero_parameters of all tensors, or those of a layer."""
        from atlas.query.weights import weight_summary

        return weight_summary(self, layer=layer)

    def impacts(
        self,
        *,
        eval_id: str | None = None,
        layer: int | None = None,
        evidence: str | None = None,
        singles: bool = False,
        limit: int | None = 50,
    ) -> Answer:
        """What the model loses without neurons and sets of them, as stored: one evaluation, least harmful first."""
        from atlas.query.impacts import impacts

        return impacts(self, eval_id=eval_id, layer=layer, evidence=evidence, singles=singles, limit=limit)

    def diff(
        self,
        b: Atlas | str | Path,
        *,
        what: What = "summary",
        noise: tuple[str | Path, str | Path] | None = None,
        everything: bool = False,
        limit: int | None = 50,
        options: DiffOptions | None = None,
    ) -> Diff:
        """What another atlas has that this one has not: "summary", "edges", "labels", "clusters" or "tokens".

        Of edges only those that differ by more than two halves of the same graphs (noise) do; everything lists all.
        """
        from atlas.query.compare import diff

        return diff(self, b, what=what, noise=noise, everything=everything, limit=limit, options=options)

    def sql(self, text: str, parameters: dict[str, object] | None = None) -> Answer:
        """Any SELECT over the tables and macros; InputError for a statement that does not only read."""
        self.require_select(text)
        self._load([path.stem for path in sql_files("queries")])
        return Answer(self, text.strip().rstrip(";"), parameters)

    def info(self) -> dict[str, object]:
        """What the atlas is and holds: model, sizes, rows, edge method, quality of its graphs, its ingests."""
        from atlas.query.about import info

        return info(self)

    def hash(self) -> str:
        """Content hash: equal for two builds of one recipe."""
        from atlas.store.content import content_hash

        return content_hash(self.con)

    def check(self) -> list[CheckResult]:
        """Run every check of sql/checks; StoreError for files that another tool wrote."""
        from atlas.store.checks import run_checks

        if self.schema == 0:
            raise StoreError(
                f"{self.name} has schema 0 (another tool wrote it): the checks are for files of atlas build"
            )
        return run_checks(self.con)

    def select(self, selection: Selection) -> list[int]:
        """Packed ids (layer * d_mlp + neuron) of a selection, ascending."""
        return select(self, selection)

    # -- what the questions are made of ---------------------------------------------------------------------------

    def ask(
        self,
        macro: str,
        values: Mapping[str, object],
        *,
        warnings: tuple[str, ...] = (),
        headline: tuple[str, ...] = (),
    ) -> Answer:
        """An answer from one macro with values bound to its parameters."""
        self._load([macro])
        return Answer(self, macro_call(macro, values), values, warnings=warnings, headline=headline)

    def ask_each(self, macro: str, ids: Sequence[int], values: Mapping[str, object] | None = None) -> Answer:
        """The rows of a macro of one neuron (of_layer, of_neuron) for many packed ids, `id` first; in no order.

        One join for all: 200 neurons of 84M edges take a second, where single answers take 3 s. For one neuron use ask.
        """
        self._load([macro])
        named = "".join(f", {name} := ${name}" for name in values or {})
        statement = (
            f"SELECT i.id, m.* FROM (SELECT id, id // $width AS l, id % $width AS n FROM (SELECT unnest($ids) AS id)) "
            f"AS i, LATERAL (FROM {macro}(i.l, i.n{named})) AS m"
        )
        return Answer(self, statement, {"ids": list(ids), "width": self.d_mlp, **(values or {})})

    def free(self, statement: str, parameters: dict[str, object]) -> Answer:
        """An answer from a statement that holds text of the user."""
        self.require_select(statement)
        return Answer(self, statement, parameters)

    def id_of(self, neuron: object) -> int:
        """Packed id of one neuron in any id form; InputError names the bounds."""
        return parse_neuron(neuron, layers=self.layers, d_mlp=self.d_mlp).feature_id(self.d_mlp)

    def neuron_id(self, neuron: object) -> NeuronId:
        """One neuron in any id form; InputError names the bounds."""
        return parse_neuron(neuron, layers=self.layers, d_mlp=self.d_mlp)

    def require(self, *tables: str) -> tuple[str, ...]:
        """Raise StoreError for a missing table; for an empty one return a warning."""
        for table in tables:
            if table in self.missing:
                raise StoreError(
                    f"no table '{table}' in {self.name} (schema {self.schema}): built without "
                    f'{_BUILT_WITHOUT.get(table, table)}; run "atlas build RECIPE.toml" to make an atlas that has it'
                )
        empty = [t for t in tables if not self._fetch(f"SELECT 1 FROM {t} LIMIT 1")]
        return tuple(
            f"table {t} is empty: {self.name} was built without {_BUILT_WITHOUT.get(t, t)}; see atlas info"
            for t in empty
        )

    def require_cluster(self, path: str) -> None:
        """Raise InputError, which names the nearest module, unless the module exists."""
        from atlas.query.clusters import require_path

        require_path(self, path)

    def truncation(self) -> tuple[str, ...]:
        """A warning when the edges were cut to the strongest of each neuron, or when nobody recorded whether."""
        cut = self.metadata.get("edge_truncation")
        if not cut:
            return (
                f"edge truncation is unknown ({self.name} has no metadata edge_truncation): "
                "in-degrees, shares and totals may be too small",
            )
        if cut.lower() in ("none", "0", "null"):
            return ()
        return (f"edges were truncated ({cut}): in-degrees, shares and totals are of the edges kept",)

    def fetch(self, answers: Sequence[Answer]) -> None:
        """Run several answers at once, one for each processor: most of a small one is planning, in one thread."""
        with self._lock:
            self._pool = self._pool or ThreadPoolExecutor(min(os.cpu_count() or 1, 8), thread_name_prefix="atlas")
        list(self._pool.map(Answer.fetchall, answers))

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """Return a cursor that sees the macros and the file; one per thread."""
        try:
            cursor = self.con.cursor()
        except duckdb.ConnectionException as error:
            raise StoreError(f"{self.name} was closed; open it again with atlas.open") from error
        return cursor.execute(f"SET search_path = '{SEARCH_PATH}'")

    def load_macros(self, names: Iterable[str]) -> None:
        """Make macros of sql/queries callable that no question has used yet."""
        self._load(list(names))

    def close(self) -> None:
        """Close the file."""
        if self._pool is not None:
            self._pool.shutdown(wait=False)
        self.con.close()

    def __enter__(self) -> Atlas:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return (
            f"<Atlas {self.name}: {self.metadata.get('model', 'unknown model')}, {self.layers} x {self.d_mlp} neurons>"
        )

    def _load(self, macros: list[str]) -> None:
        with self._lock:
            for name in macros:
                if name not in self._macros:
                    self.cursor().execute(sql_text("queries", name))
                    self._macros.add(name)

    def _fetch(self, statement: str, **parameters: object) -> list[tuple[object, ...]]:
        return self.cursor().execute(statement, parameters).fetchall()

    def require_select(self, text: str) -> None:
        """Raise InputError unless the text is one statement that only reads."""
        try:
            statements = self.cursor().extract_statements(text)
        except duckdb.Error as error:
            raise refuse(error, self.name) from error
        kinds = [statement.type.name for statement in statements]
        if kinds != ["SELECT"]:
            found = ", ".join(kinds) or "nothing"
            raise InputError(f"the atlas is read-only: expected one SELECT (or FROM, DESCRIBE, SHOW), found {found}")
