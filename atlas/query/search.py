"""Words or a regular expression -> neurons with such labels, best first."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import duckdb

from atlas.errors import InputError
from atlas.query.answer import Answer

if TYPE_CHECKING:
    from atlas.query.atlas import Atlas

FIELDS = ("all", "label", "description", "input_label", "output_label")
MODES = ("words", "regex")
HEADLINE = ("layer", "neuron", "score", "label", "output_label", "cluster_path")


@dataclass(frozen=True)
class Where:
    """Filters of a search: layers (first, last), module path, label type, label source ('rule' finds 'rule:...')."""

    layers: tuple[int, int] | None = None
    cluster: str | None = None
    type: str | None = None
    source: str | None = None


def search(
    atlas: Atlas,
    query: str,
    *,
    mode: str = "words",
    field: str = "all",
    where: Where | None = None,
    limit: int | None = 20,
) -> Answer:
    """Columns of label_search; InputError for an empty query or a regular expression that does not parse."""
    _require(query, mode, field)
    where = Where() if where is None else where
    _require_where(where)
    warnings = atlas.require("labels") if where.type or where.source else ()
    if where.cluster is not None:
        atlas.require_cluster(where.cluster)
    first, last = where.layers or (0, atlas.layers - 1)
    answer = atlas.ask(
        "label_search",
        {
            "query": query, "mode": mode, "of_field": field, "layer_from": first, "layer_to": last,
            "in_cluster": where.cluster, "of_type": where.type, "of_source": where.source, "max_rows": limit,
        },
        headline=HEADLINE,
        warnings=warnings,
    )  # fmt: skip
    if mode == "regex":
        _require_regex(atlas, query)
    return answer


def explain(atlas: Atlas, query: str, *, field: str = "all") -> Answer:
    """The score parts of a word search: one row per neuron and word."""
    _require(query, "words", field)
    return atlas.ask("label_search_explain", {"query": query, "of_field": field})


def _require(query: str, mode: str, field: str) -> None:
    if mode not in MODES:
        raise InputError(f"unknown search mode {mode!r}; use one of {', '.join(MODES)}")
    if field not in FIELDS:
        raise InputError(f"unknown field {field!r}; use one of {', '.join(FIELDS)}")
    if not query.strip():
        raise InputError("empty query; give words such as 'aspirin' or a regular expression with mode 'regex'")
    if mode == "words" and not re.search(r"[^\W_]", query):
        raise InputError(f"no letter or digit in {query!r}; to search for signs use mode 'regex'")


def _require_where(where: object) -> None:
    if not isinstance(where, Where):
        found, layers = f"a {type(where).__name__}, {where!r}", None
    else:
        found, layers = repr(where), where.layers
        texts = all(text is None or isinstance(text, str) for text in (where.cluster, where.type, where.source))
        if texts and (layers is None or _is_pair(layers)):
            return
    raise InputError(
        f"where is {found}; use atlas.query.search.Where(layers=(0, 5), cluster='1.2', type='lexical', source='llm'), "
        "with any of them left out"
    )


def _is_pair(layers: object) -> bool:
    return isinstance(layers, tuple | list) and len(layers) == 2 and all(isinstance(layer, int) for layer in layers)


def _require_regex(atlas: Atlas, query: str) -> None:
    try:
        atlas.cursor().execute("SELECT regexp_matches('', $query, 'i')", {"query": query})
    except duckdb.Error as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"not a regular expression (RE2): {query!r} ({reason}); put \\ before signs meant as such"
        ) from error
