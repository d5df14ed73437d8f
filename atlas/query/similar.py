"""A neuron or a set of neurons -> the neurons most like it by edges, by the tokens they fire on or by their labels.

Every ranking is exact; similar_edges.sql says how that is possible without reading every neuron's edges.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from atlas.errors import InputError
from atlas.query.answer import Answer
from atlas.query.selector import Selection, select

if TYPE_CHECKING:
    from atlas.query.atlas import Atlas

BY = ("out", "in", "both", "tokens", "label")
HEADLINE = ("layer", "neuron", "label", "cosine", "jaccard", "shared", "strongest")


def similar(
    atlas: Atlas,
    selection: Selection,
    *,
    by: str = "out",
    k: int | None = 20,
    layers: tuple[int, int] | None = None,
) -> Answer:
    """The k neurons most like the selection (None: all that share anything), by cosine; by="label" by shared words.

    layers: only neurons of these, (first, last). Columns of similar_edges, similar_tokens or similar_labels.
    """
    if by not in BY:
        raise InputError(f"unknown by={by!r}; use {', '.join(BY[:-1])} or {BY[-1]}")
    first, last = _layers(atlas, layers)
    values = {"of_ids": select(atlas, selection), "first_layer": first, "last_layer": last, "max_rows": k}
    if by == "tokens":
        return atlas.ask("similar_tokens", values, headline=HEADLINE, warnings=atlas.require("token_stats", "vocab"))
    if by == "label":
        shown = tuple(column for column in HEADLINE if column != "cosine")
        return atlas.ask("similar_labels", values, headline=shown, warnings=_unlabelled(atlas, values["of_ids"]))
    warnings = atlas.require("edges") + atlas.truncation() + _unlinked(atlas, values["of_ids"], by)
    return atlas.ask("similar_edges", values | {"of_side": by}, headline=HEADLINE, warnings=warnings)


def _layers(atlas: Atlas, layers: tuple[int, int] | None) -> tuple[int | None, int | None]:
    if layers is None:
        return None, None
    if not (isinstance(layers, tuple | list) and len(layers) == 2 and 0 <= layers[0] <= layers[1] < atlas.layers):
        raise InputError(f"layers is {layers!r}; use (first, last), both within 0 to {atlas.layers - 1}")
    return layers[0], layers[1]


def _unlinked(atlas: Atlas, ids: object, by: str) -> tuple[str, ...]:
    text = """SELECT coalesce(sum(n_out), 0), coalesce(sum(n_in), 0) FROM edge_totals
        WHERE id IN (SELECT unnest($ids)::INTEGER)"""
    out, into = atlas.free(text, {"ids": ids}).fetchall()[0]
    if {"out": out, "in": into, "both": out + into}[by]:
        return ()
    way = {"out": "out of", "in": "into", "both": "at"}[by]
    return (f"the atlas keeps no edge {way} the selection, so nothing can be compared; try by='tokens' or 'label'",)


def _unlabelled(atlas: Atlas, ids: object) -> tuple[str, ...]:
    text = "SELECT count(label) FROM neurons WHERE feature_id IN (SELECT unnest($ids)::BIGINT)"
    labelled = atlas.free(text, {"ids": ids}).fetchall()[0][0]
    return () if labelled else ("no neuron of the selection has a label; try by='out', 'in' or 'tokens'",)
