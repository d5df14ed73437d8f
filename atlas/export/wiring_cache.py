"""The wiring of an atlas -> the layer_N.json wiring cache of earlier tools, one file a layer, streamed.

Fields that earlier tools left undefined, as written here: c_combined = c_up + c_gate; predicted_polarity is
"excitatory" or "inhibitory", the sign of effective_strength; polarity_confidence = |c_up + c_gate| divided by
|c_up| + |c_gate|, 1 where both columns agree; relp_confirmed says whether the atlas has an edge between the two neurons
from attribution graphs, relp_strength is its mean weight (null without one). lab_strength and polarity_source are ours:
they let a cache be read back without loss.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atlas.errors import InputError
from atlas.export.folder import new_folder
from atlas.neuron import NeuronId
from atlas.progress import Progress, Quiet
from atlas.store.connection import SEARCH_PATH

if TYPE_CHECKING:
    from atlas.query.atlas import Atlas

_ROWS = 4096  # rows of a fetch
_WIRING = """
    SELECT w.neuron, w.direction, w.polarity, w.other_layer, w.other_neuron, w.c_up, w.c_gate, w.effective_strength,
           w.lab_strength, w.polarity_source, e.mean_weight
    FROM wiring AS w
    LEFT JOIN edges AS e ON $relp
        AND e.src = CASE w.direction WHEN 'downstream' THEN w.layer ELSE w.other_layer END * $d_mlp
                  + CASE w.direction WHEN 'downstream' THEN w.neuron ELSE w.other_neuron END
        AND e.tgt = CASE w.direction WHEN 'downstream' THEN w.other_layer ELSE w.layer END * $d_mlp
                  + CASE w.direction WHEN 'downstream' THEN w.other_neuron ELSE w.neuron END
    WHERE w.layer = $layer
    ORDER BY w.neuron, w.direction, w.polarity DESC, w.rank"""
_LENS = """
    SELECT l.neuron, l.polarity, v.token, l.token_id, l.value
    FROM logit_lens AS l LEFT JOIN vocab AS v ON v.token_id = l.token_id
    WHERE l.layer = $layer
    ORDER BY l.neuron, l.polarity DESC, l.rank"""
_KINDS = {1: "excitatory", -1: "inhibitory"}
_LENSES = {1: "promotes", -1: "suppresses"}

Row = tuple[Any, ...]


@dataclass
class CacheReport:
    """What was written: (file name, bytes) in order of layer, and what a reader should know."""

    files: list[tuple[str, int]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def export_wiring_cache(
    atlas: Atlas, target: Path, *, force: bool = False, progress: Progress | None = None
) -> CacheReport:
    """Write layer_0.json .. of an atlas into `target`, all of them or none; every neuron has its member.

    Memory: one neuron and what DuckDB needs to sort one layer. Raises InputError for an atlas without wiring and for
    a folder that is not empty (unless `force`).
    """
    report = CacheReport()
    if not atlas.con.execute("SELECT count(*) FROM wiring").fetchall()[0][0]:
        raise InputError(f"{atlas.name} has no wiring; build it with activations, or give another --atlas FILE")
    relp = atlas.metadata.get("edge_method", "").startswith("relp")
    if not relp:
        report.notes.append(
            "relp_confirmed is false throughout: the edges of this atlas are not from attribution graphs"
        )
    shown = progress or Quiet()
    with new_folder(target, force=force) as draft, shown.task("wiring cache", atlas.layers, "layers") as task:
        for layer in range(atlas.layers):
            path = draft / f"layer_{layer}.json"
            _write_layer(atlas, layer, path, relp)
            report.files.append((path.name, path.stat().st_size))
            task.advance()
    return report


def _write_layer(atlas: Atlas, layer: int, path: Path, relp: bool) -> None:
    wiring = _rows(atlas, _WIRING, {"layer": layer, "relp": relp, "d_mlp": atlas.d_mlp})
    lens = _rows(atlas, _LENS, {"layer": layer})
    pairs = zip(_by_neuron(wiring, atlas.d_mlp), _by_neuron(lens, atlas.d_mlp), strict=True)
    with path.open("w", encoding="utf-8", newline="\n") as handle:
        for neuron, (connections, tokens) in enumerate(pairs):
            text = json.dumps(_member(connections, tokens), ensure_ascii=False, allow_nan=False)
            handle.write("{" if neuron == 0 else ",")
            handle.write(f'\n"{neuron}": {text}')
        handle.write("\n}\n")


def _rows(atlas: Atlas, text: str, parameters: dict[str, Any]) -> Iterator[Row]:
    with atlas.con.cursor() as cursor:
        cursor.execute(f"SET search_path = '{SEARCH_PATH}'")
        cursor.execute(text, parameters)
        while rows := cursor.fetchmany(_ROWS):
            yield from rows


def _by_neuron(rows: Iterator[Row], count: int) -> Iterator[list[Row]]:
    """Rows that begin with a neuron, ascending -> those of neuron 0, 1 .. count - 1, a list each."""
    groups = groupby(rows, key=lambda row: row[0])
    upcoming, found = next(groups, (count, iter(())))
    for neuron in range(count):
        if neuron < upcoming:
            yield []
            continue
        yield list(found)
        upcoming, found = next(groups, (count, iter(())))


def _member(connections: list[Row], tokens: list[Row]) -> dict[str, Any]:
    lists: dict[str, dict[str, list[dict[str, Any]]]] = {"upstream": _empty(_KINDS), "downstream": _empty(_KINDS)}
    for _, direction, polarity, *entry in connections:
        lists[direction][_KINDS[polarity]].append(_entry(polarity, entry))
    lens = _empty(_LENSES)
    for _, polarity, token, token_id, weight in tokens:
        lens[_LENSES[polarity]].append({"token": token, "token_id": token_id, "weight": weight})
    return {"projections": lens, **lists}


def _empty(kinds: dict[int, str]) -> dict[str, list[dict[str, Any]]]:
    return {kind: [] for kind in kinds.values()}


def _entry(polarity: int, values: list[Any]) -> dict[str, Any]:
    layer, neuron, up, gate, strength, lab, source, relp = values
    size = None if gate is None else abs(up) + abs(gate)
    return {
        "layer": layer,
        "neuron": neuron,
        "neuron_id": str(NeuronId(layer, neuron)),
        "c_up": up,
        "c_gate": gate,
        "c_combined": up if gate is None else up + gate,
        "predicted_polarity": _KINDS[polarity],
        "polarity_confidence": None if size is None else abs(up + gate) / size if size else 0.0,
        "effective_strength": strength,
        "relp_confirmed": relp is not None,
        "relp_strength": relp,
        "lab_strength": lab,
        "polarity_source": source,
    }
