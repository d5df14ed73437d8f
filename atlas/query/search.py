"""Words, a pattern or a meaning -> neurons with such labels, best first. A mode is one function of this shape.

Words are looked up in the word index inside the atlas. An atlas without one, or whose labels changed since it was made,
is read from end to end instead, and the answer says so.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import duckdb

from atlas.errors import InputError, StoreError
from atlas.query.answer import Answer
from atlas.store.search_state import index_state

if TYPE_CHECKING:
    from atlas.query.atlas import Atlas

TEXTS = ("label", "description", "input_label", "output_label")
FIELDS = ("all", *TEXTS)
HEADLINE = ("layer", "neuron", "score", "label", "output_label", "cluster_path")
LONGEST = 1_000  # characters of a query: 150 words
_LETTER = re.compile(r"[^\W_]")
_ALL_LAYERS = (0, 10_000)
_LAYERS = re.compile(r"(\d{1,4})(?:[-:](\d{1,4}))?")


@dataclass(frozen=True)
class Where:
    """Filters of a search: layers (first, last), module path, and what one of the neuron's ok labels is.

    type, interpretability ("high") and source ('rule' finds 'rule:...') must hold of one label. min_score: lowest
    score of an answer. skip: rows to leave out first, for pages.
    """

    layers: tuple[int, int] | None = None
    cluster: str | None = None
    type: str | None = None
    source: str | None = None
    interpretability: str | None = None
    min_score: float = 0.0
    skip: int = 0


@dataclass(frozen=True)
class _Asked:
    """A search that was checked."""

    query: str
    mode: str
    field: str
    weights: list[float] | None
    where: Where
    limit: int | None


def search(
    atlas: Atlas,
    query: str,
    *,
    mode: str = "words",
    field: str | Mapping[str, float] = "all",
    where: Where | None = None,
    limit: int | None = 20,
) -> Answer:
    """Columns of label_search, best first.

    field: one of FIELDS, or weights by field ({"label": 3}; the others weigh 1). InputError for a query without words,
    of more than LONGEST characters, or a regular expression that does not parse.
    """
    asked = _check(atlas, query, mode, field, where, limit)
    return _MODES[mode](atlas, asked)


def search_many(
    atlas: Atlas,
    queries: Sequence[str],
    *,
    mode: str = "words",
    field: str | Mapping[str, float] = "all",
    where: Where | None = None,
    limit: int | None = 20,
) -> Answer:
    """The answers to many queries in one pass, limit rows each: columns of label_search_many; modes words and fuzzy.

    InputError for phrases in quotes, StoreError for an atlas without a word index.
    """
    if mode not in ("words", "fuzzy"):
        raise InputError(f"many queries at once go with mode words or fuzzy, not {mode!r}; ask them one by one")
    if not queries:
        raise InputError("no query; give one a line")
    for number, query in enumerate(queries, start=1):
        try:
            checked = _check(atlas, query, mode, field, where, limit)
        except InputError as error:
            raise InputError(f"query {number}: {error}") from error
        if _phrases(query):
            raise InputError(f"query {number}: a phrase in quotes ({query!r}) is not for many at once; ask it alone")
    require_index(atlas)
    values = {"of_queries": list(queries)} | {k: v for k, v in _values(checked).items() if k != "query"}
    answer = atlas.ask("label_search_many", values, headline=("query", *HEADLINE))
    answer.counted = False
    return answer


def explain(
    atlas: Atlas,
    query: str,
    *,
    mode: str = "words",
    field: str | Mapping[str, float] = "all",
    documents: list[int] | None = None,
) -> Answer:
    """The score parts of a search for words: one row per neuron and word; documents: only these packed ids."""
    if mode not in ("words", "fuzzy"):
        raise InputError(f"mode {mode!r} has no score parts; only words and fuzzy have")
    asked = _check(atlas, query, mode, field, None, None)
    require_index(atlas)
    values = {"query": query, "mode": mode, "of_field": asked.field, "of_weights": asked.weights}
    headline = ("layer", "neuron", "term", "tf", "df", "idf", "length", "mean_length", "likeness", "score")
    return atlas.ask("label_search_explain", {**values, "of_documents": documents}, headline=headline)


def read_layers(text: str | None) -> tuple[int, int] | None:
    """Layers from text: "12" or "10:20", both included.

    >>> read_layers("10:20")
    (10, 20)
    """
    if text is None:
        return None
    match = _LAYERS.fullmatch(text)
    if match is None:
        raise InputError(f"cannot read layers from {text!r}; use 12 or 10:20")
    return int(match[1]), int(match[2] or match[1])


def require_index(atlas: Atlas) -> None:
    """Raise StoreError, with the next step, unless the atlas has a word index of the texts it shows."""
    if reason := _index_fault(atlas):
        raise StoreError(f'{reason}; run "atlas label index {atlas.path}"')


def _words(atlas: Atlas, asked: _Asked) -> Answer:
    values, fault = _values(asked), _index_fault(atlas)
    if fault is None:
        return atlas.ask("label_search", values, headline=HEADLINE)
    if asked.mode == "fuzzy" or asked.weights or _phrases(asked.query):
        what = "near words" if asked.mode == "fuzzy" else "weights" if asked.weights else "a phrase in quotes"
        raise StoreError(f'{fault}, which {what} need; run "atlas label index {atlas.path}", or use --mode substring')
    values = {key: value for key, value in values.items() if key not in ("mode", "of_weights")}
    note = f"{fault}: every text was read, without stems (dog does not find dogs); "
    again = f'"atlas label index {atlas.path}" makes one'
    return atlas.ask("label_scan", values, headline=HEADLINE, warnings=(note + again,))


def _pattern(atlas: Atlas, asked: _Asked) -> Answer:
    if asked.mode == "regex":
        _require_regex(atlas, asked.query)
    return atlas.ask("label_search", _values(asked), headline=HEADLINE)


def _semantic(atlas: Atlas, asked: _Asked) -> Answer:
    from atlas.query.semantic import semantic

    return semantic(atlas, asked.query, field=asked.field, where=asked.where, limit=asked.limit)


def _hybrid(atlas: Atlas, asked: _Asked) -> Answer:
    from atlas.query.semantic import hybrid

    return hybrid(atlas, asked.query, field=asked.field, where=asked.where, limit=asked.limit)


_MODES: Mapping[str, Callable[[Atlas, _Asked], Answer]] = {
    "words": _words,
    "fuzzy": _words,
    "substring": _pattern,
    "regex": _pattern,
    "semantic": _semantic,
    "hybrid": _hybrid,
}
MODES = tuple(_MODES)
_DEFAULTS: Mapping[str, object] = {
    "of_field": "all", "of_weights": None, "layer_from": 0, "layer_to": 10_000, "in_cluster": None, "of_type": None,
    "of_interpretability": None, "of_source": None, "at_least_score": None, "skip_rows": 0,
}  # fmt: skip


def _index_fault(atlas: Atlas) -> str | None:
    """Why the word index cannot be used; asked once of an open atlas, whose file nobody can change meanwhile."""
    if atlas.index_state is None:
        lacking = "search_postings" in atlas.missing or "metadata" in atlas.missing
        atlas.index_state = "absent" if lacking else index_state(atlas.cursor())
    if atlas.index_state == "fresh":
        return None
    if atlas.index_state == "stale":
        return f"labels of {atlas.name} changed since its word index was made, so it is not used"
    return f"{atlas.name} has no word index"


def _values(asked: _Asked) -> dict[str, object]:
    where = asked.where
    first, last = where.layers or _ALL_LAYERS
    return without_defaults({
        "query": asked.query, "mode": asked.mode, "of_field": asked.field, "of_weights": asked.weights,
        "layer_from": first, "layer_to": last, "in_cluster": where.cluster, "of_type": where.type,
        "of_interpretability": where.interpretability, "of_source": where.source, "at_least_score": where.min_score,
        "max_rows": asked.limit, "skip_rows": where.skip,
    })  # fmt: skip


def without_defaults(values: dict[str, object]) -> dict[str, object]:
    """Leave out parameters that say what the macro takes anyway.

    A bound NULL is not known when the query is planned, so every filter would be joined: 100 instead of 58 ms for the
    meaning of 1.64M labels.
    """
    return {name: value for name, value in values.items() if name not in _DEFAULTS or value != _DEFAULTS[name]}


def _check(  # noqa: PLR0917
    atlas: Atlas, query: str, mode: str, field: str | Mapping[str, float], where: Where | None, limit: int | None
) -> _Asked:
    if mode not in _MODES:
        raise InputError(f"unknown search mode {mode!r}; use one of {', '.join(MODES)}")
    name, weights = _field(field)
    where = Where() if where is None else where
    _require_query(query, mode)
    _require_where(where)
    if where.type or where.source or where.interpretability:
        atlas.require("labels")
    if where.cluster is not None:
        atlas.require_cluster(where.cluster)
    return _Asked(query, mode, name, weights, where, limit)


def _field(field: str | Mapping[str, float]) -> tuple[str, list[float] | None]:
    if isinstance(field, str):
        if field not in FIELDS:
            raise InputError(f"unknown field {field!r}; use one of {', '.join(FIELDS)}")
        return field, None
    odd = [f"{name}={weight}" for name, weight in field.items() if name not in TEXTS or not 0 <= weight < 1_000]
    if odd or not field or not any(field.get(name, 1) for name in TEXTS):
        raise InputError(f"cannot weigh by {', '.join(odd) or field}; give weights from 0 to 999 of {', '.join(TEXTS)}")
    return "all", [float(field.get(name, 1)) for name in TEXTS]


def _require_query(query: str, mode: str) -> None:
    if not query.strip():
        raise InputError("empty query; give words such as 'aspirin' or a regular expression with mode 'regex'")
    if len(query) > LONGEST:
        raise InputError(f"a query of {len(query):,} characters; at most {LONGEST:,} (some 150 words) make sense")
    if mode in ("words", "fuzzy") and not _LETTER.search(query):
        raise InputError(f"no letter or digit in {query!r}; to search for signs use mode 'substring' or 'regex'")


def _require_where(where: object) -> None:
    if not isinstance(where, Where):
        found, layers = f"a {type(where).__name__}, {where!r}", None
    else:
        found, layers = repr(where), where.layers
        texts = (where.cluster, where.type, where.source, where.interpretability)
        numbers = isinstance(where.skip, int) and where.skip >= 0 and isinstance(where.min_score, int | float)
        kinds = all(text is None or isinstance(text, str) for text in texts)
        if numbers and kinds and (layers is None or _is_pair(layers)):
            return
    raise InputError(
        f"where is {found}; use atlas.query.search.Where(layers=(0, 5), cluster='1.2', type='lexical', source='llm'), "
        "with any of them left out"
    )


def _is_pair(layers: object) -> bool:
    return isinstance(layers, tuple | list) and len(layers) == 2 and all(isinstance(layer, int) for layer in layers)


def _phrases(query: str) -> list[str]:
    return [phrase for phrase in re.findall(r'"([^"]*)"', query) if _LETTER.search(phrase)]


def _require_regex(atlas: Atlas, query: str) -> None:
    try:
        atlas.cursor().execute("SELECT regexp_matches('', $query, 'i')", {"query": query})
    except duckdb.Error as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"not a regular expression (RE2): {query!r} ({reason}); put \\ before signs meant as such, "
            "or use mode 'substring'"
        ) from error
