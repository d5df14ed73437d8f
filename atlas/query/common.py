"""A set of neurons -> the partners that several of them share, with the chance of that by degree alone.

The statistics are in common_inputs.sql and common_outputs.sql. Their urns, the neurons of each layer with any
edge, are counted once per atlas and minimum count: that reads all edges, the questions themselves do not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from atlas.errors import InputError
from atlas.query.answer import Answer
from atlas.query.selector import Selection, select

if TYPE_CHECKING:
    from atlas.query.atlas import Atlas

HEADLINE = ("layer", "neuron", "label", "hits", "expected", "p", "q", "sign_agreement", "mean_abs_weight", "degree")
_MACROS = {"inputs": "common_inputs", "outputs": "common_outputs"}


def common(
    atlas: Atlas,
    selection: Selection,
    *,
    direction: str = "inputs",
    at_least: int = 2,
    min_count: int = 1,
    limit: int | None = 20,
) -> Answer:
    """Partners with at least `at_least` members of the selection, the least likely first; columns of common_inputs.

    direction: "inputs" feed the selection, "outputs" are fed by it. min_count: fewest observations of an edge.
    """
    if direction not in _MACROS:
        raise InputError(f"unknown direction {direction!r}; use inputs or outputs")
    ids = select(atlas, selection)
    if not 1 <= at_least <= len(ids):
        raise InputError(
            f"at_least is {at_least}, but the selection has {_counted(len(ids))}; use at most that, or select more"
        )
    warnings = atlas.require("edges") + tuple(f"{said}; p and q are biased" for said in atlas.truncation())
    senders, receivers = populations(atlas, min_count)
    values = {
        "of_ids": ids, "at_least_hits": at_least, "at_least_count": min_count,
        "of_senders": senders, "of_receivers": receivers, "max_rows": limit,
    }  # fmt: skip
    return atlas.ask(_MACROS[direction], values, headline=HEADLINE, warnings=warnings)


def populations(atlas: Atlas, min_count: int) -> tuple[list[int], list[int]]:
    """By layer, how many neurons have an outgoing and how many an incoming edge; kept for the atlas's next question."""
    if min_count not in atlas.populations:
        counts = {row[0]: row[1:] for row in atlas.ask("common_populations", {"at_least_count": min_count}).fetchall()}
        by_layer = [counts.get(layer, (0, 0)) for layer in range(max(counts, default=-1) + 1)]
        atlas.populations[min_count] = [n for n, _ in by_layer], [n for _, n in by_layer]
    return atlas.populations[min_count]


def _counted(n: int) -> str:
    return "1 neuron" if n == 1 else f"{n} neurons"
