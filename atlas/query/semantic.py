"""A text or a neuron -> neurons whose labels mean nearly the same, by the vectors of "atlas label embed".

The query is embedded by the model that embedded the labels (its name and the hash of its weights are in the atlas);
the search itself is SQL.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from atlas.errors import InputError, StoreError
from atlas.query.answer import Answer
from atlas.query.search import require_index, without_defaults
from atlas.store.label_vectors import embedding_state

if TYPE_CHECKING:
    from atlas.models.text_embedder import TextEmbedder
    from atlas.query.atlas import Atlas
    from atlas.query.search import Where

HEADLINE = ("layer", "neuron", "score", "label", "output_label", "cluster_path")
_DEPTH = 200  # rows of each search that a hybrid one puts together


def semantic(
    atlas: Atlas, query: str, *, field: str = "all", where: Where | None = None, limit: int | None = 20
) -> Answer:
    """Columns of label_semantic, the nearest meaning first; score is a cosine.

    InputError for an empty query, without the extra `semantic`, or for a field without vectors; StoreError for an
    atlas without vectors or with vectors of other texts than it shows.
    """
    vector = _vector(atlas, query, field)
    values = {"of_vector": vector, "of_field": field, "max_rows": limit, **_filters(where), **_page(where)}
    return atlas.ask("label_semantic", without_defaults(values), headline=HEADLINE)


def like(
    atlas: Atlas, neuron: object, *, field: str = "all", where: Where | None = None, limit: int | None = 20
) -> Answer:
    """Columns of label_like: the neurons whose labels mean most nearly what this one's does, itself left out.

    The stored vector is the query: no model is needed. InputError for a neuron without a text in the field.
    """
    require_embeddings(atlas, field)
    found = atlas.neuron_id(neuron)
    place = {"of_layer": found.layer, "of_neuron": found.neuron, "of_field": field}
    if not atlas.ask("label_vector", place).fetchall():
        raise InputError(f"{found} has no {'label' if field == 'all' else field} to be like")
    values = {**place, "max_rows": limit, **_filters(where), **_page(where)}
    return atlas.ask("label_like", without_defaults(values), headline=HEADLINE)


def hybrid(
    atlas: Atlas, query: str, *, field: str = "all", where: Where | None = None, limit: int | None = 20
) -> Answer:
    """Columns of label_hybrid: meaning, words and near words of the query together, with the parts of the score.

    The first 200 rows of each of the three searches (more for a larger limit) are put in order. Errors as in semantic.
    """
    require_index(atlas)
    page = _page(where)
    depth = None if limit is None else max(_DEPTH, 2 * (limit + page["skip_rows"]))
    asked = without_defaults({"of_field": field, "max_rows": depth, **_filters(where)})
    vector = _vector(atlas, query, field)
    values = {
        "by_words": _list(atlas.ask("label_search", {**asked, "query": query})),
        "by_fuzzy": _list(atlas.ask("label_search", {**asked, "query": query, "mode": "fuzzy"})),
        "by_meaning": _list(atlas.ask("label_semantic", {**asked, "of_vector": vector})),
        "of_terms": max(1, len(re.findall(r"[^\W_]+", query))),
        "max_rows": limit,
        **page,
    }
    return atlas.ask("label_hybrid", values, headline=HEADLINE)


def require_embeddings(atlas: Atlas, field: str = "all") -> None:
    """Raise StoreError unless the atlas has vectors of the texts it shows, InputError for a field without vectors."""
    again = f'run "atlas label embed {atlas.path}"'
    if atlas.vectors_state is None:
        atlas.vectors_state = "absent" if "label_texts" in atlas.missing else embedding_state(atlas.cursor())
    if atlas.vectors_state == "absent":
        raise StoreError(f"{atlas.name} has no vectors of its labels, which search by meaning needs; {again}")
    if atlas.vectors_state == "stale":
        raise StoreError(
            f"labels of {atlas.name} changed since they were embedded, so search by meaning would miss some; {again} "
            "(new texts only)"
        )
    fields = atlas.metadata["label_embedding_fields"].split(",")
    if field not in ("all", *fields):
        raise InputError(
            f"{atlas.name} has vectors of {', '.join(fields)}, not of {field!r}; see atlas label embed --help"
        )


def require_embedder(atlas: Atlas, field: str = "all") -> TextEmbedder:
    """The model that embedded the labels of this atlas."""
    require_embeddings(atlas, field)
    embedder = _embedder(atlas.metadata["label_embedding_model"])
    kept = atlas.metadata["label_embedding_sha256"]
    if embedder.digest != kept:
        raise StoreError(
            f"the labels of {atlas.name} were embedded by other weights of {embedder.name}: sha256 {kept[:12]}..., "
            f'here {embedder.digest[:12]}...; run "atlas label embed {atlas.path}"'
        )
    return embedder


@lru_cache(maxsize=1)  # 0.3 s: the weights' hash
def _embedder(name: str) -> TextEmbedder:
    from atlas.models.text_embedder import load_embedder

    return load_embedder(name)


def _vector(atlas: Atlas, query: str, field: str) -> list[float]:
    if not query.strip():
        raise InputError("empty query; give a few words, such as 'words about medicine'")
    vector: list[float] = require_embedder(atlas, field).embed([query])[0].tolist()
    return vector


def _list(found: Answer) -> list[dict[str, object]]:
    return [{key: row[key] for key in ("feature_id", "score", "n_terms") if key in row} for row in found.rows()]


def _filters(where: Where | None) -> dict[str, object]:
    if where is None:
        return {}
    first, last = where.layers or (0, 10_000)  # what the macros take for every layer
    return {
        "layer_from": first,
        "layer_to": last,
        "in_cluster": where.cluster,
        "of_type": where.type,
        "of_interpretability": where.interpretability,
        "of_source": where.source,
    }


def _page(where: Where | None) -> dict[str, Any]:
    if where is None:
        return {"at_least_score": None, "skip_rows": 0}
    return {"at_least_score": where.min_score or None, "skip_rows": where.skip}
