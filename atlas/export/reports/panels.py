"""Packed ids -> everything a report shows of each neuron, asked for many neurons at once.

Every panel is the answer of the macro that `atlas neuron` asks; only how they are asked differs with the atlas's size.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from atlas.neuron import NeuronId
from atlas.query.atlas import Atlas
from atlas.query.similar_edges import SimilarByEdges

Row = dict[str, Any]
_CHUNK = 200
_JOINED = 131_072  # neurons of an atlas up to which one join for all is faster than look-ups one by one


@dataclass(frozen=True)
class Panels:
    """One neuron: `about` is its row of neuron_card, `lists` its panels by name, `modules` its module of each level."""

    id: NeuronId
    about: Row
    lists: dict[str, list[Row]] = field(default_factory=dict)
    modules: list[Row] = field(default_factory=list)  # coarsest first: cluster_path, level, label, size, layers
    layers: list[tuple[int, int]] = field(default_factory=list)  # layer, members of the finest module in it


@dataclass(frozen=True)
class _Panel:
    macro: str
    order: Callable[[Row], Any]
    rows: int = 1  # multiple of k; 0: the macro has no limit


def _nulls_last(value: float | None) -> float:
    return float("inf") if value is None else -value


_PANELS = {
    "labels": _Panel("neuron_labels", lambda r: (
        r["status"] != "ok", r["pass"], r["polarity"], *(r[c] or "" for c in ("source", "model", "run")),
        str(r["created"] or ""), r["label"] or ""), rows=0),
    "tokens": _Panel("neuron_top_tokens", lambda r: (
        -r["polarity"], _nulls_last(r["expected"]), -r["n"], r["token_id"])),
    "exemplars": _Panel("neuron_exemplars", lambda r: (-r["polarity"], r["stratum"], r["rank"])),
    "logit_lens": _Panel("neuron_logit_lens", lambda r: (-r["polarity"], r["rank"], r["token_id"])),
    "read_tokens": _Panel("neuron_read_tokens", lambda r: (r["part"], -r["polarity"], r["rank"], r["token_id"])),
    "edges_in": _Panel("edges_into", lambda r: (-r["weight_abs_sum"], r["layer"], r["neuron"])),
    "edges_out": _Panel("edges_from", lambda r: (-r["weight_abs_sum"], r["layer"], r["neuron"])),
    "wiring": _Panel("neuron_wiring", lambda r: (
        r["direction"] == "downstream", -r["polarity"], r["rank"], r["layer"], r["neuron"])),
    "pruning": _Panel("neuron_pruning", lambda r: (r["eval_id"] or "", r["score_method"] or ""), rows=0),
    "impacts": _Panel("neuron_impacts", lambda r: r["eval_id"] or "", rows=0),
}  # fmt: skip


def panels(atlas: Atlas, ids: Sequence[int], *, k: int = 10, similar: int = 5) -> Iterator[Panels]:
    """Yield the panels of each neuron, in the order of `ids`, 200 at a time.

    k: rows of each list (of each sign where both are shown); similar: neurons of the most similar edges, 0 for no list.
    Ids that are no rows of the atlas are left out.
    """
    alike = SimilarByEdges(atlas) if similar else None
    for first in range(0, len(ids), _CHUNK):
        some = list(ids[first : first + _CHUNK])
        about = {row.pop("id"): row for row in _ask(atlas, "neuron_card", some, {})}
        lists = {name: _grouped(atlas, panel, some, k) for name, panel in _PANELS.items()}
        near = alike.nearest(some, similar) if alike else None
        modules, layers = _modules(atlas, [row["cluster_path"] for row in about.values() if row["cluster_path"]])
        for one in some:
            if one in about:
                path = about[one]["cluster_path"]
                found = {name: rows.get(one, []) for name, rows in lists.items()}
                if near is not None:
                    found["similar"] = near.get(one, [])
                above = [modules[p] for p in _prefixes(path) if p in modules] if path else []
                place = NeuronId(*divmod(one, atlas.d_mlp))
                yield Panels(place, about[one], found, above, layers.get(path, []))


def _grouped(atlas: Atlas, panel: _Panel, ids: list[int], k: int) -> dict[int, list[Row]]:
    found: dict[int, list[Row]] = defaultdict(list)
    for row in _ask(atlas, panel.macro, ids, {"max_rows": k * panel.rows} if panel.rows else {}):
        found[row.pop("id")].append(row)
    ordered = {one: sorted(rows, key=panel.order) for one, rows in found.items()}
    if panel.macro == "neuron_impacts":  # the newest evaluation first
        return {one: sorted(rows, key=lambda r: r["created"] or "", reverse=True) for one, rows in ordered.items()}
    return ordered


def _ask(atlas: Atlas, macro: str, ids: list[int], values: dict[str, object]) -> Iterator[Row]:
    if atlas.layers * atlas.d_mlp <= _JOINED:
        yield from atlas.ask_each(macro, ids, values).rows()
        return
    for one in ids:
        layer, neuron = divmod(one, atlas.d_mlp)
        for row in atlas.ask(macro, {"of_layer": layer, "of_neuron": neuron, **values}).rows():
            yield {"id": one, **row}


def _prefixes(path: str) -> list[str]:
    """The modules that hold a module, coarsest first, itself last.

    >>> _prefixes("158.4.2")
    ['158', '158.4', '158.4.2']
    """
    parts = path.split(".")
    return [".".join(parts[:n]) for n in range(1, len(parts) + 1)]


def _modules(atlas: Atlas, paths: list[str]) -> tuple[dict[str, Row], dict[str, list[tuple[int, int]]]]:
    """Rows of clusters by path, for these paths and all above; members by layer of these."""
    if not paths or "clusters" in atlas.missing:
        return {}, {}
    above = sorted({one for path in paths for one in _prefixes(path)})
    rows = atlas.free(
        "SELECT cluster_path, level, label, size, layer_min, layer_max FROM clusters "
        "WHERE cluster_path IN (SELECT unnest($paths))",
        {"paths": above},
    ).rows()
    counts = atlas.free(
        "SELECT cluster_path, layer, count(*) AS members FROM neurons WHERE cluster_path IN (SELECT unnest($paths)) "
        "GROUP BY ALL ORDER BY cluster_path, layer",
        {"paths": sorted(set(paths))},
    ).fetchall()
    layers: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for path, layer, members in counts:
        layers[path].append((layer, members))
    return {row["cluster_path"]: row for row in rows}, layers
