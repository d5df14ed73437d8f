"""An atlas -> neurons whose impact is asked for, and the impacts that it holds already."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from atlas.errors import InputError, StoreError
from atlas.query.answer import Answer
from atlas.query.selector import select

if TYPE_CHECKING:
    from atlas.query.atlas import Atlas

HEADLINE = ("layer_index", "neuron_index", "n_neurons", "impact_score", "safe_to_prune", "kl", "kl_high", "delta_nll",
            "top1_flip_rate", "mean_change", "joint_over_sum", "label")  # fmt: skip


def impacts(
    atlas: Atlas,
    *,
    eval_id: str | None = None,
    layer: int | None = None,
    evidence: str | None = None,
    singles: bool = False,
    limit: int | None = 50,
) -> Answer:
    """Columns of impacts_measured of one evaluation, least harmful first; the newest where `eval_id` chooses none.

    Then a warning lists the others: rows of two evaluations are never in one answer. InputError for an eval_id or layer
    that is not there, StoreError for an atlas without the table.
    """
    warnings = _require(atlas)
    there = [row["eval_id"] for row in atlas.ask("impacts_evaluations", {"max_rows": None}).rows()]
    if eval_id is not None and eval_id not in there:
        raise InputError(f"no impacts of evaluation {eval_id!r} in {atlas.name}; it has {', '.join(there) or 'none'}")
    if layer is not None and not 0 <= layer < atlas.layers:
        raise InputError(f"layer {layer} is out of range: this model has layers 0..{atlas.layers - 1}")
    if evidence not in (None, "measured", "estimated"):
        raise InputError(f"no evidence {evidence!r}; choose measured or estimated")
    if eval_id is None and len(there) > 1:
        warnings += (f"impacts of {there[0]}, the newest; not comparable: {', '.join(there[1:])} (choose an eval_id)",)
    values = {"of_eval": eval_id, "of_layer": layer, "of_evidence": evidence, "singles_only": singles}
    return atlas.ask("impacts_measured", values | {"max_rows": limit}, headline=HEADLINE, warnings=warnings)


def chosen_neurons(
    atlas: Atlas, *, neurons: Sequence[object] | None = None, top: int | None = None, sql: str | None = None
) -> list[int]:
    """Packed ids without repeats, by exactly one of the three.

    neurons: selectors in any form (selector.py), ascending; top: so many neurons that are safest by the pruning scores,
    safest first; sql: a SELECT with columns layer and neuron, in its order. Raises InputError for none or several of
    these, neurons out of range, an empty selection and other columns.
    """
    if sum(one is not None for one in (neurons, top, sql)) != 1:
        raise InputError(
            "which neurons? give one of --neurons L0/N5,L0/N7, --top 50 and --sql 'SELECT layer, neuron ...'"
        )
    if sql is not None:
        return _of_sql(atlas, sql)
    if top is None:
        return select(atlas, list(neurons or ()))
    if top < 1:
        raise InputError(f"top is {top}; ask for at least 1 neuron")
    rows = atlas.prune(everything=True, limit=top).rows()
    if not rows:
        raise StoreError(f"{atlas.name} has no pruning scores to take the safest from; name neurons with --neurons")
    return [row["layer_index"] * atlas.d_mlp + row["neuron_index"] for row in rows]


def _of_sql(atlas: Atlas, sql: str) -> list[int]:
    found = atlas.sql(sql)
    if not {"layer", "neuron"} <= set(found.columns):
        raise InputError(f"the SELECT gives {', '.join(found.columns)}; it must give the columns layer and neuron")
    ids = [atlas.id_of((row["layer"], row["neuron"])) for row in found.rows()]
    if not ids:
        raise InputError("the SELECT gives no row, so there is no neuron to ablate; loosen its condition")
    return list(dict.fromkeys(ids))


def _require(atlas: Atlas) -> tuple[str, ...]:
    if "impacts" in atlas.missing:
        raise StoreError(
            f"no table 'impacts' in {atlas.name} (schema {atlas.schema}): run \"atlas impact\" to measure some"
        )
    if not atlas.sql("SELECT 1 FROM impacts LIMIT 1").fetchall():
        return (f'no impacts in {atlas.name} yet; "atlas impact" measures them',)
    return ()
