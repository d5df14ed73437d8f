"""Pruning scores -> candidates and their number, of one method and one evaluation at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from atlas.errors import InputError, StoreError
from atlas.query.answer import Answer

if TYPE_CHECKING:
    from atlas.query.atlas import Atlas

METHODS = ("fisher", "wifv", "weights", "taylor_abs", "wanda")
SCOPES = ("layer", "global")
_HAS_SCORES = """SELECT 1 FROM pruning WHERE $method IN (score_method, 'weights') OR CASE $method
    WHEN 'fisher' THEN fisher WHEN 'wifv' THEN coalesce(wifv, activation_variance) WHEN 'taylor_abs' THEN taylor_abs
    WHEN 'wanda' THEN wanda END IS NOT NULL LIMIT 1"""
_NEEDS = {"fisher": "gradients", "taylor_abs": "gradients", "wifv": "activations", "wanda": "activations"}


@dataclass(frozen=True)
class Ranking:
    """What neurons are ranked by; the defaults are the atlas's own scores, by layer."""

    method: str | None = None  # of METHODS; None: the best one the atlas was built with
    scope: str = "layer"  # rank within each layer, or "global": among all neurons
    eval_id: str | None = None  # needed in an atlas with several evaluations


def prune(
    atlas: Atlas,
    *,
    threshold: float = 10.0,
    layer: int | None = None,
    everything: bool = False,
    limit: int | None = 50,
    ranking: Ranking | None = None,
) -> Answer:
    """Columns of prune_candidates, safest first; `.total` counts the candidates unless `everything`.

    InputError for scores of several evaluations without a chosen eval_id: they are never mixed in one answer.
    """
    warnings = atlas.require("pruning")
    if layer is not None and not 0 <= layer < atlas.layers:
        raise InputError(f"layer {layer} is out of range: this model has layers 0..{atlas.layers - 1}")
    headline = ("layer_index", "neuron_index", "pruning_score", "is_pruning_candidate", "weight_magnitude",
                "weight_rank", "score_method", "label")  # fmt: skip
    values: dict[str, object] = {"threshold": _percentile(threshold), "of_layer": layer}
    values |= {"only_candidates": not everything, "max_rows": limit, **_chosen(atlas, ranking)}
    return atlas.ask("prune_candidates", values, headline=headline, warnings=warnings)


def summary(atlas: Atlas, *, threshold: float = 10.0, ranking: Ranking | None = None) -> Answer:
    """Columns of prune_summary: candidates by layer."""
    warnings = atlas.require("pruning")
    values = {"threshold": _percentile(threshold), **_chosen(atlas, ranking)}
    return atlas.ask("prune_summary", values, warnings=warnings)


def document(
    atlas: Atlas, found: Answer, *, threshold: float, layer: int | None = None, ranking: Ranking | None = None
) -> dict[str, Any]:
    """An answer of prune(), with what it was asked -> candidates, total_candidates, threshold_percentile.

    total_candidates counts the true ones (of one layer where the answer is), also those that the limit cut.
    """
    counts = summary(atlas, threshold=threshold, ranking=ranking).rows()
    total = sum(row["candidates"] for row in counts if layer is None or row["layer_index"] == layer)
    return {"candidates": found.rows(), "total_candidates": total, "threshold_percentile": float(threshold)}


def _percentile(threshold: float) -> float:
    if not 0 <= threshold <= 100:
        raise InputError(f"threshold {threshold} is no percentile; give a number from 0 to 100")
    return float(threshold)


def _chosen(atlas: Atlas, ranking: Ranking | None) -> dict[str, object]:
    """The macros' parameters for a ranking; InputError or StoreError for one that this atlas does not have."""
    asked = ranking or Ranking()
    if asked.method not in (None, *METHODS):
        raise InputError(f"no score method {asked.method!r}; use {', '.join(METHODS)}")
    if asked.scope not in SCOPES:
        raise InputError(f"no scope {asked.scope!r}; use {' or '.join(SCOPES)}")
    _require_one_evaluation(atlas, asked.eval_id)
    if asked.method and not atlas.free(_HAS_SCORES, {"method": asked.method}).rows():
        needs = "" if asked.method == "weights" else f" with {_NEEDS[asked.method]}"
        raise StoreError(
            f"no {asked.method} scores in {atlas.name} (schema {atlas.schema}): they need a build{needs} of schema 20 "
            'or later; run "atlas build RECIPE.toml", or leave out --method'
        )
    return {"of_method": asked.method, "of_scope": asked.scope, "of_eval": asked.eval_id}


def _require_one_evaluation(atlas: Atlas, asked: str | None) -> None:
    rows = atlas.free("SELECT DISTINCT eval_id FROM pruning ORDER BY 1", {}).fetchall()
    there = [str(row[0]) for row in rows]
    if asked is None and len(there) > 1:
        raise InputError(
            f"{atlas.name} holds scores of {len(there)} evaluations (model revisions or corpora: {', '.join(there)}), "
            "which are not comparable; choose one with --eval-id"
        )
    if asked is not None and asked not in there:
        raise InputError(f"no scores of evaluation {asked!r} in {atlas.name}; it holds {', '.join(there) or 'none'}")
