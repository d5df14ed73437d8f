"""Pruning scores -> candidates and their number."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atlas.errors import InputError
from atlas.query.answer import Answer

if TYPE_CHECKING:
    from atlas.query.atlas import Atlas


def prune(
    atlas: Atlas,
    *,
    threshold: float = 10.0,
    layer: int | None = None,
    everything: bool = False,
    limit: int | None = 50,
) -> Answer:
    """Columns of prune_candidates, safest first; `.total` counts the candidates unless `everything`."""
    if not 0 <= threshold <= 100:
        raise InputError(f"threshold {threshold} is no percentile; give a number from 0 to 100")
    warnings = atlas.require("pruning")
    if layer is not None and not 0 <= layer < atlas.layers:
        raise InputError(f"layer {layer} is out of range: this model has layers 0..{atlas.layers - 1}")
    headline = ("layer_index", "neuron_index", "pruning_score", "is_pruning_candidate", "weight_magnitude",
                "weight_rank", "score_method", "label")  # fmt: skip
    values = {"threshold": float(threshold), "of_layer": layer, "only_candidates": not everything, "max_rows": limit}
    return atlas.ask("prune_candidates", values, headline=headline, warnings=warnings + _mixed(atlas))


def summary(atlas: Atlas, *, threshold: float = 10.0) -> Answer:
    """Columns of prune_summary: candidates by layer."""
    return atlas.ask("prune_summary", {"threshold": float(threshold)}, warnings=atlas.require("pruning"))


def _mixed(atlas: Atlas) -> tuple[str, ...]:
    evals = [row["eval_id"] for row in atlas.free("SELECT DISTINCT eval_id FROM pruning ORDER BY 1", {}).rows()]
    if len(evals) < 2:
        return ()
    return (f"{len(evals)} evaluations ({', '.join(map(str, evals))}): rows of different eval_id are not comparable",)
