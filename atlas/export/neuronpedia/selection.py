"""What a person says -> packed ids of the neurons to export: exactly one way of choosing them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from atlas.errors import InputError, StoreError
from atlas.query.selector import N

if TYPE_CHECKING:
    from atlas.query.atlas import Atlas

_SPAN = re.compile(r"(\d+):(\d+)")


@dataclass(frozen=True)
class Choice:
    """Ways to choose neurons; none of them means those with exemplars."""

    neurons: tuple[object, ...] = ()  # selectors in any form
    everything: bool = False
    extracted: bool = False
    span: str | None = None  # "A:B", feature ids, both included
    sql: str | None = None  # a SELECT with columns layer and neuron


def chosen(atlas: Atlas, choice: Choice) -> list[int]:
    """Packed ids, ascending, without repeats.

    Raises InputError for two ways at once, ids out of range, an empty selection and a SELECT without layer and neuron;
    StoreError where no neuron has exemplars.
    """
    ways = [bool(choice.neurons), choice.everything, choice.extracted, choice.span is not None, choice.sql is not None]
    if sum(ways) > 1:
        raise InputError("choose neurons one way: NEURONS, --all, --extracted, --range A:B or --sql SELECT")
    if choice.neurons:
        return sorted(set(atlas.select(list(choice.neurons))))
    if choice.everything:
        return atlas.select(N())
    if choice.span is not None:
        return _of_span(atlas, choice.span)
    return _of_sql(atlas, choice.sql) if choice.sql is not None else _extracted(atlas)


def _extracted(atlas: Atlas) -> list[int]:
    rows = (
        []
        if "exemplars" in atlas.missing
        else atlas.free("SELECT DISTINCT layer, neuron FROM exemplars", {}).fetchall()
    )
    if not rows:
        raise StoreError(
            f"no neuron of {atlas.name} has exemplars (built without activations); choose neurons with --all, --range "
            "or NEURONS"
        )
    return sorted(layer * atlas.d_mlp + neuron for layer, neuron in rows)


def _of_span(atlas: Atlas, span: str) -> list[int]:
    found, last = _SPAN.fullmatch(span.strip()), atlas.layers * atlas.d_mlp - 1
    if not found:
        raise InputError(f"cannot read the range {span!r}; give two feature ids, for example --range 0:992")
    low, high = int(found[1]), int(found[2])
    if not low <= high <= last:
        raise InputError(f"the range {span} is not within 0:{last}, the feature ids of {atlas.name}")
    return list(range(low, high + 1))


def _of_sql(atlas: Atlas, sql: str) -> list[int]:
    found = atlas.sql(sql)
    if not {"layer", "neuron"} <= set(found.columns):
        raise InputError(f"the SELECT gives {', '.join(found.columns)}; it must give the columns layer and neuron")
    ids = {atlas.id_of((row["layer"], row["neuron"])) for row in found.rows()}
    if not ids:
        raise InputError("the SELECT gives no row; loosen its condition")
    return sorted(ids)
