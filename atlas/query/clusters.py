"""Modules of the primary clustering: the list, one module with all about it, and the matrix between modules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from atlas.errors import InputError, StoreError
from atlas.query.answer import Answer

if TYPE_CHECKING:
    from atlas.query.atlas import Atlas

HEADLINE = ("cluster_path", "level", "label", "size", "layer_min", "layer_max", "internal_weight", "conductance")


QUOTIENT_HEADLINE = (
    "src_cluster", "src_label", "tgt_cluster", "tgt_label", "n_edges", "weight", "signed_weight", "expected", "ratio",
    "z",
)  # fmt: skip
TOKENS_OF = 1000  # members of most flow whose tokens and words stand for the module: 0.1 s, more change little


@dataclass(frozen=True)
class ClusterCard:
    """One module: its row, its layers, parts, members, neighbours, strongest inner edges, tokens and enriched words."""

    path: str
    about: dict[str, Any]
    layers: Answer
    parts: Answer
    members: Answer
    neighbours: Answer
    edges: Answer
    tokens: Answer | None
    words: Answer | None

    def lists(self) -> dict[str, Answer]:
        """The answers by name, those that the atlas has no data for left out."""
        named = {
            "layers": self.layers, "parts": self.parts, "members": self.members, "neighbours": self.neighbours,
            "edges": self.edges, "tokens": self.tokens, "words": self.words,
        }  # fmt: skip
        return {name: answer for name, answer in named.items() if answer is not None}

    def to_dict(self) -> dict[str, Any]:
        """All parts as plain lists and dicts (`parts` is their number, `parts_list` are the modules)."""
        lists = self.lists()
        return {**self.about, **{"parts_list" if n == "parts" else n: answer.rows() for n, answer in lists.items()}}


@dataclass(frozen=True)
class ModuleMatrix:
    """Modules as scipy.sparse: value[i, j] of rows[i] -> columns[j] (paths; None = outside every module)."""

    value: Any  # scipy.sparse.csr_array [modules, modules], float64; no entry = no edge
    rows: list[str | None]
    columns: list[str | None]


class Quotient(Answer):
    """Pairs of modules that can also be given as a matrix.

    Of at most 4,096 modules all pairs are computed at once (atlas.query.quotient), which equals the macro that `sql`
    and `statement` show; of more the macro runs.
    """

    _atlas: Atlas
    _macro: str

    @property
    def statement(self) -> str:
        """The macro with $names in place of values."""
        return self._macro

    @property
    def sql(self) -> str:
        """The macro with its values in place: it runs in any DuckDB shell on the atlas file."""
        return Answer(self._atlas, self._macro, self._parameters).sql

    def matrix(self, value: str = "weight") -> ModuleMatrix:
        """Return a column of ALL pairs that have edges (neither the limit nor `between` applies), as scipy.sparse."""
        return _matrix(self._atlas, int(str(self._parameters["of_level"])), value)


def clusters(
    atlas: Atlas, *, level: int | None = None, below: str | None = None, min_size: int = 1, limit: int | None = 50
) -> Answer:
    """Columns of clusters_list, largest first."""
    warnings = atlas.require("clusters")
    if below is not None:
        require_path(atlas, below)
    values = {"of_level": level, "of_parent": below, "at_least": min_size, "max_rows": limit}
    return atlas.ask("clusters_list", values, headline=HEADLINE, warnings=warnings)


def search(atlas: Atlas, query: str, *, limit: int | None = 20) -> Answer:
    """Columns of cluster_search: modules with the words in their label."""
    return atlas.ask("cluster_search", {"query": query, "max_rows": limit}, warnings=atlas.require("clusters"))


def members(atlas: Atlas, path: str, *, limit: int | None = 50) -> Answer:
    """Columns of cluster_members; InputError for an unknown path."""
    require_path(atlas, path)
    headline = ("layer", "neuron", "label", "cluster_path", "infomap_flow", "appearance_count")
    return atlas.ask("cluster_members", {"of_path": path, "max_rows": limit}, headline=headline)


def cluster(atlas: Atlas, path: str, *, k: int | None = 20, words: bool = False) -> ClusterCard:
    """Return one module; k = rows of each list. InputError for an unknown path.

    Tokens and words are those of its 1,000 members of most flow; words (enriched in labels) only on request, because
    every label of the atlas has to be read for their background (1.64M labels: seconds, the rest of the card: one).
    """
    require_path(atlas, path)
    one, some = {"of_path": path}, {"of_path": path, "max_rows": k}
    cut = atlas.truncation()
    neighbours = ("cluster_path", "label", "size", "weight_out", "weight_in", "edges_out", "edges_in")
    inner = (
        "src_layer", "src_neuron", "src_label", "tgt_layer", "tgt_neuron", "tgt_label", "mean_weight",
        "sign_consistency", "count",
    )  # fmt: skip
    return ClusterCard(
        path=path,
        about=atlas.ask("cluster_card", one).rows()[0],
        layers=atlas.ask("cluster_layers", one),
        parts=clusters(atlas, below=path, limit=k),
        members=members(atlas, path, limit=k),
        neighbours=atlas.ask("cluster_neighbours", some, headline=neighbours, warnings=cut),
        edges=atlas.ask("cluster_edges", some, headline=inner),
        tokens=_tokens(atlas, path, k),
        words=_words(atlas, path, k) if words else None,
    )


def quotient(atlas: Atlas, *, level: int = 1, between: bool = False, limit: int | None = 50) -> Quotient:
    """Columns of quotient, by weight; `between` leaves out what stays inside a module."""
    from atlas.query.quotient import ROWS, AllPairs, fits

    warnings = require_modules(atlas, level) + atlas.require("edges") + atlas.truncation()
    values = {"of_level": level, "with_inside": not between, "max_rows": limit}
    macro = atlas.ask("quotient", values).statement
    source, statement = (AllPairs(atlas, level), ROWS) if fits(atlas, level) else (atlas, macro)
    found = Quotient(source, statement, values, warnings=warnings, headline=QUOTIENT_HEADLINE)
    found._atlas, found._macro = atlas, macro
    return found


def require_path(atlas: Atlas, path: str) -> None:
    """Raise StoreError for an atlas without modules, InputError with the nearest module for an unknown path."""
    _require_some(atlas)
    parts = path.split(".")
    above = [".".join(parts[:n]) for n in range(len(parts), 0, -1)]
    there = {row[0] for row in atlas.free("FROM clusters SELECT cluster_path WHERE cluster_path IN (SELECT unnest($p))",
                                          {"p": above})}  # fmt: skip
    if path in there:
        return
    nearest = next((p for p in above if p in there), None)
    hint = f"{nearest!r} exists: atlas cluster list --below {nearest}" if nearest else '"atlas cluster list" shows all'
    raise InputError(f"no module {path!r} in {atlas.name}; {hint}")


def require_modules(atlas: Atlas, level: int) -> tuple[str, ...]:
    """Raise StoreError for an atlas without modules, InputError for a level that it has not; return no warning."""
    _require_some(atlas)
    levels = [row[0] for row in atlas.free("SELECT DISTINCT level FROM clusters ORDER BY level", {})]
    if level not in levels:
        raise InputError(f"no modules of level {level} in {atlas.name}; there are levels {levels[0]} to {levels[-1]}")
    return ()


def _require_some(atlas: Atlas) -> None:
    if atlas.require("clusters"):
        raise StoreError(f'{atlas.name} has no modules: it was built without clustering; run "atlas cluster run" on it')


def _tokens(atlas: Atlas, path: str, k: int | None) -> Answer | None:
    if "token_stats" in atlas.missing or "vocab" in atlas.missing or atlas.require("token_stats", "vocab"):
        return None
    found = atlas.tokens(_strongest(atlas, path), limit=k)
    found.warnings = ()  # the card's own note says whose tokens they are
    return found


def _words(atlas: Atlas, path: str, k: int | None) -> Answer | None:
    from atlas.query.enrichment import enrich

    found = enrich(atlas, _strongest(atlas, path), limit=k)
    return found if len(found) else None


def _strongest(atlas: Atlas, path: str) -> list[object]:
    rows = atlas.ask("cluster_members", {"of_path": path, "max_rows": TOKENS_OF}).rows()
    return [int(row["feature_id"]) for row in rows]


def _matrix(atlas: Atlas, level: int, value: str) -> ModuleMatrix:
    try:
        from scipy.sparse import csr_array
    except ImportError as error:
        raise InputError("matrix() needs scipy, which is not installed; pip install scipy") from error
    from atlas.query.quotient import sums

    found = sums(atlas, level)
    known = (*found.columns, "expected", "z")
    if value not in known:
        raise InputError(f"no value {value!r} of pairs of modules; choose among {', '.join(known)}")
    numbers = found.columns[value] if value in found.columns else found.with_chance()[value]
    shape = (len(found.names), len(found.names))
    return ModuleMatrix(csr_array((numbers.astype(float), (found.i, found.j)), shape=shape), found.names, found.names)
