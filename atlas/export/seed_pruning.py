"""Weights, pruning scores and measured impacts of an atlas -> NeuronScope's two pruning documents.

Every field of the seed's documents keeps its name and place; what says which evaluation a number is of stands beside
them at the top. A document is of one evaluation: in an atlas with several, one must be chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from atlas.errors import InputError
from atlas.export.seed_forms import sparsity_analysis

if TYPE_CHECKING:
    from atlas.query.atlas import Atlas

THRESHOLD = 10.0  # percentile of the seed's pruning candidates
HIGH = 0.3  # impact_score of a high-impact neuron: above three budgets
_PLACE = ("layer_index", "neuron_index")
_CANDIDATE = (*_PLACE, "weight_magnitude", "weight_rank", "is_pruning_candidate", "pruning_score")
_TOTAL = ("impact_score", "mean_change", "max_change")
_IMPACT = (*_PLACE, *_TOTAL, "safe_to_prune")
_ADVICE = ("safe_to_prune", "risky_to_prune", "suggested_batch_size", "high_impact_neurons")
_WEIGHTS = """
    SELECT name, layer, total_parameters, non_zero_parameters, sparsity, mean_magnitude, std_magnitude,
        min_magnitude, max_magnitude, l1_norm, l2_norm
    FROM weight_stats ORDER BY layer, name"""
_SCORES = "SELECT DISTINCT score_method, eval_id FROM pruning ORDER BY ALL"
_EVALUATIONS = "SELECT DISTINCT ablation, eval_id FROM impacts WHERE evidence = 'measured' ORDER BY ALL"

Row = dict[str, Any]


def weight_analysis(atlas: Atlas, *, threshold: float = THRESHOLD, eval_ids: Sequence[str] = ()) -> Row:
    """Sparsity of every weight tensor and overall, and the true pruning candidates, the safest first.

    Beside them: threshold_percentile, total_candidates, score_method, eval_id (both None without scores). Raises
    InputError when the atlas holds scores of several evaluations and `eval_ids` chooses none of them.
    """
    method, eval_id = _chosen(atlas, _SCORES, eval_ids, of="scores")
    asked = {"threshold": threshold, "max_rows": None, "of_eval": eval_id}
    rows = [] if eval_id is None and method is None else atlas.ask("prune_candidates", asked).rows()
    return {
        "sparsity_analysis": stored_sparsity(atlas),
        "pruning_candidates": [_fields(row, _CANDIDATE) for row in rows],
        "threshold_percentile": threshold,
        "total_candidates": len(rows),
        "score_method": method,
        "eval_id": eval_id,
    }


def stored_sparsity(atlas: Atlas) -> Row:
    """The sparsity_analysis of the atlas's own model; totals of 0 where the atlas has no weight_stats."""
    return sparsity_analysis(atlas.free(_WEIGHTS, {}).rows())


def impact_analysis(atlas: Atlas, *, eval_ids: Sequence[str] = ()) -> Row | None:
    """What was measured of the newest, largest batch: each member alone, all jointly, and what is recommended.

    Members are judged by the batch's budget divided by their number. Without a batch: all neurons that were measured
    alone, each judged by its own budget, and None for what only a batch tells. safe_to_prune and the counts of it are
    None where there is no verdict. Beside the seed's fields: what was measured on which text. None without measured
    impacts; InputError for impacts of several evaluations of which `eval_ids` chooses none.
    """
    ablation, eval_id = _chosen(atlas, _EVALUATIONS, eval_ids, of="impacts")
    if eval_id is None:
        return None
    batch = atlas.ask("batch_sets", {"of_eval": eval_id, "max_rows": 1}).rows()
    told = _of_batch(atlas, batch[0]) if batch else _of_neurons(atlas, eval_id)
    return told | {"ablation": ablation, "eval_id": eval_id}


def of_measurement(found: Row) -> Row:
    """What a batch or an impact analysis gave, when it was measured, in the form of impact_analysis."""
    rows = [_fields(row, _IMPACT) for row in found["individual_impacts"]]
    told = {
        "individual_impacts": rows,
        "cumulative_impact": _fields(found.get("cumulative_impact") or found, _TOTAL),
        "recommendations": _fields(found.get("recommendations") or _advice(rows), _ADVICE),
    }
    beside = ("tokens", "documents", "budget", "reason", "ablation", "eval_id")
    return told | {name: found[name] for name in beside if name in found}


def require_known(atlas: Atlas, eval_ids: Sequence[str]) -> None:
    """Raise InputError for an evaluation that the atlas has neither scores nor impacts of."""
    found = atlas.free("SELECT eval_id FROM pruning UNION SELECT eval_id FROM impacts ORDER BY 1", {})
    there = [str(row[0]) for row in found.fetchall()]
    unknown = [eval_id for eval_id in eval_ids if eval_id not in there]
    if unknown:
        raise InputError(f"no evaluation {unknown[0]!r} in {atlas.name}; it holds {', '.join(there) or 'none'}")


def _of_batch(atlas: Atlas, batch: Row) -> Row:
    members = atlas.ask("batch_impacts", {"of_set": batch["set_id"]}).rows()
    (advice,) = atlas.ask("batch_recommendations", {"of_set": batch["set_id"]}).rows()
    beside = ("set_id", "n_neurons", "kl", "kl_high", "sum_kl", "joint_over_sum", "tokens", "documents", "budget")
    return {
        "individual_impacts": [_fields(row, _IMPACT) for row in members],
        "cumulative_impact": _fields(batch, _TOTAL),
        "recommendations": _fields(advice, _ADVICE),
        **_fields(batch, (*beside, "reason")),
    }


def _of_neurons(atlas: Atlas, eval_id: str) -> Row:
    asked = {"of_eval": eval_id, "of_evidence": "measured", "singles_only": True, "max_rows": None}
    rows = atlas.ask("impacts_measured", asked).rows()
    return {
        "individual_impacts": [_fields(row, _IMPACT) for row in rows],
        "cumulative_impact": dict.fromkeys(_TOTAL),
        "recommendations": _advice([_fields(row, _IMPACT) for row in rows]),
        **_fields(rows[0], ("tokens", "documents", "budget")),
        "reason": "no set of several neurons was measured jointly",
    }


def _advice(rows: Sequence[Row]) -> Row:
    """What single neurons recommend by themselves."""
    verdicts = [row["safe_to_prune"] for row in rows]
    told = bool(rows) and None not in verdicts
    return {
        "safe_to_prune": verdicts.count(True) if told else None,
        "risky_to_prune": verdicts.count(False) if told else None,
        "suggested_batch_size": None,
        "high_impact_neurons": [row for row in rows if (row["impact_score"] or 0) > HIGH],
    }


def _chosen(atlas: Atlas, statement: str, eval_ids: Sequence[str], *, of: str) -> tuple[str | None, str | None]:
    """The kind and the eval_id of the one evaluation that a document may be of; (None, None) when there is none."""
    there: list[tuple[str | None, str | None]] = [(row[0], row[1]) for row in atlas.free(statement, {}).fetchall()]
    chosen = there if len(there) < 2 else [one for one in there if one[1] in eval_ids]
    if len(there) > 1 and len(chosen) != 1:
        names = ", ".join(f"{kind} {eval_id}" for kind, eval_id in there)
        raise InputError(
            f"{atlas.name} holds {of} of {len(there)} evaluations ({names}), which must not be mixed in one file; "
            "choose one with --eval-id"
        )
    return chosen[0] if chosen else (None, None)


def _fields(row: Row, names: Sequence[str]) -> Row:
    return {name: row[name] for name in names}
