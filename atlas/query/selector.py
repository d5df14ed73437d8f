"""A selection of neurons -> packed ids: by id, layer, label text, module, number of graphs or a free SQL condition.

The same selector is used by every question, as neuPrint's criteria are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from atlas.errors import InputError
from atlas.neuron import NeuronId

if TYPE_CHECKING:
    from atlas.query.answer import Answer
    from atlas.query.atlas import Atlas

_LAYERS = re.compile(r"^(\d+)(?:-(\d+))?$")


@dataclass(frozen=True)
class N:
    """Neurons that satisfy every given condition; N() is all of them.

    layers: one layer or several. ids: neurons in any id form. label: text inside label, description, input_label or
    output_label (case ignored). cluster: module path, the modules below it included. min_count: fewest attribution
    graphs (appearance_count). where: a condition over the columns of `neurons`, in SQL.
    """

    layers: int | Iterable[int] | None = None
    ids: tuple[object, ...] | None = None
    label: str | None = None
    cluster: str | None = None
    min_count: int | None = None
    where: str | None = None


Selection = N | NeuronId | str | int | tuple[object, ...] | list[object]


def select(atlas: Atlas, selection: Selection) -> list[int]:
    """Packed ids in ascending order; InputError when nothing matches or an id is out of range.

    Text is an id ("L24/N5326"), "cluster:158.4", "layer:3", "layer:0-5" or "label:aspirin". A pair of integers is one
    neuron (layer, neuron); a list is several neurons in any id form.
    """
    given = selection
    if isinstance(selection, str) and (condition := _condition(selection)):
        selection = condition
    if not isinstance(selection, N):
        return _ids(atlas, selection)
    found = _matching(atlas, selection)
    if not found:
        raise InputError(f"no neuron matches {given}; loosen a condition (atlas info shows what the atlas has)")
    return found


def listed(atlas: Atlas, selection: Selection | None, also: N, *, limit: int | None = 50) -> Answer:
    """Neurons of a selection (None: any) that satisfy `also`, by packed id: who they are, not all about them.

    Columns: layer, neuron, feature_id, label, cluster_path, appearance_count, max_activation. No rows where none does;
    InputError for an unknown id or module.
    """
    ids = _matching(atlas, also)
    if selection is not None:
        wanted = set(select(atlas, selection))
        ids = [one for one in ids if one in wanted]
    statement = """FROM neurons SELECT layer, neuron, feature_id, label, cluster_path, appearance_count, max_activation
        WHERE feature_id IN (SELECT unnest($ids::BIGINT[])) ORDER BY feature_id LIMIT $max_rows"""
    headline = ("layer", "neuron", "label", "cluster_path", "appearance_count")
    answer = atlas.free(statement, {"ids": ids, "max_rows": limit})
    answer.headline = headline
    return answer


def _condition(text: str) -> N | None:
    kind, colon, value = text.partition(":")
    if not colon or kind not in ("cluster", "layer", "label"):
        return None
    if kind == "cluster":
        return N(cluster=value)
    if kind == "label":
        return N(label=value)
    match = _LAYERS.match(value)
    if match is None:
        raise InputError(f'cannot read layers from {value!r}; use "layer:3" or "layer:0-5"')
    return N(layers=range(int(match[1]), int(match[2] or match[1]) + 1))


def _ids(atlas: Atlas, selection: NeuronId | str | int | tuple[object, ...] | list[object]) -> list[int]:
    pair = isinstance(selection, tuple) and len(selection) == 2 and not isinstance(selection[0], NeuronId)
    several = isinstance(selection, list) or (isinstance(selection, tuple) and not pair)
    if not several:
        return [atlas.id_of(selection)]
    assert isinstance(selection, list | tuple)
    if not selection:
        raise InputError("an empty list selects no neuron; give at least one id")
    found: set[int] = set()
    for item in selection:
        found.update(select(atlas, item) if isinstance(item, str | N) else [atlas.id_of(item)])
    return sorted(found)


def _matching(atlas: Atlas, n: N) -> list[int]:
    if n.cluster is not None:
        atlas.require_cluster(n.cluster)
    layers = None if n.layers is None else [n.layers] if isinstance(n.layers, int) else list(n.layers)
    statement = f"""
        SELECT feature_id FROM neurons
        WHERE ($layers IS NULL OR layer IN (SELECT unnest($layers::INTEGER[])))
          AND ($ids IS NULL OR feature_id IN (SELECT unnest($ids::BIGINT[])))
          AND ($label IS NULL OR contains(
              lower(concat_ws(' ', label, description, input_label, output_label)), lower($label)))
          AND ($cluster IS NULL OR cluster_path = $cluster OR starts_with(cluster_path, $cluster || '.'))
          AND ($min_count IS NULL OR appearance_count >= $min_count)
          AND ({n.where or "true"}
        )
        ORDER BY feature_id"""  # the line break closes a trailing comment in the condition
    found = atlas.free(statement, {
        "layers": layers,
        "ids": None if n.ids is None else [atlas.id_of(i) for i in n.ids],
        "label": n.label,
        "cluster": n.cluster,
        "min_count": n.min_count,
    })  # fmt: skip
    return [row[0] for row in found.fetchall()]
