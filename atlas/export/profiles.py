"""An atlas -> the aggregate profiles of earlier tools as one JSON file: {"metadata", "summary", "profiles": [...]}.

A profile is a neuron with its strongest edges (top_upstream_sources: "15_1816" neurons and "E_128000" embeddings;
top_downstream_targets: neurons; output_token_associations: logits), co-occurring neurons, labels and projections of its
weights. frequency = graphs that have the edge / graphs that have the neuron, null where graphs were not counted.
direct_effect_ratio = sum of |F| to logits / sum of |F| out of the neuron, edges as the atlas keeps them.
`atlas edges add` reads the edges back, `atlas label import` the labels. Memory: one neuron,
and what DuckDB needs to sort a layer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import orjson

from atlas.errors import InputError
from atlas.export.label_forms import FORMS, About
from atlas.export.plain.files import new_file
from atlas.ingest.label_choice import rank_labels, read_precedence
from atlas.ingest.label_formats.records import LONGEST_LABEL
from atlas.progress import Progress, Quiet
from atlas.query.selector import Selection
from atlas.store.sqlfiles import sql_text

if TYPE_CHECKING:
    from atlas.query.atlas import Atlas

Row = tuple[Any, ...]
_ROWS = 4096  # of a fetch
_NEURONS = """
    SELECT n.neuron, coalesce(n.appearance_count, 0), n.max_activation, coalesce(t.weight_out, 0)
    FROM neurons AS n LEFT JOIN edge_totals AS t ON t.id = n.feature_id
    WHERE n.layer = $layer AND ($every AND (n.appearance_count > 0 OR t.id IS NOT NULL)
        OR n.feature_id IN (SELECT unnest($ids)))
    ORDER BY n.neuron"""
_LISTS = {  # every one begins with the neuron, ascending; $top is of a neuron
    "up": """
        SELECT tgt_neuron, src // $width || '_' || src % $width, count, n_graphs, mean_weight,
            coalesce(weight_abs_sum, abs(weight_sum)) AS strength
        FROM edges WHERE tgt_layer = $layer AND count > 0 AND isfinite(mean_weight)
        QUALIFY row_number() OVER (PARTITION BY tgt ORDER BY strength DESC, src) <= $top
        ORDER BY tgt, strength DESC, src""",
    "down": """
        SELECT src_neuron, tgt // $width || '_' || tgt % $width, count, n_graphs, mean_weight,
            coalesce(weight_abs_sum, abs(weight_sum)) AS strength
        FROM edges WHERE src_layer = $layer AND count > 0 AND isfinite(mean_weight)
        QUALIFY row_number() OVER (PARTITION BY src ORDER BY strength DESC, tgt) <= $top
        ORDER BY src, strength DESC, tgt""",
    "embeddings": """
        SELECT neuron, 'E_' || token_id, count, n_graphs, weight_sum::DOUBLE / count,
            coalesce(weight_abs_sum, abs(weight_sum)) AS strength
        FROM token_edges WHERE layer = $layer AND kind = 'embedding' AND count > 0 AND isfinite(weight_sum)
        QUALIFY row_number() OVER (PARTITION BY neuron ORDER BY strength DESC, token_id) <= $top
        ORDER BY neuron, strength DESC, token_id""",
    "logits": """
        SELECT neuron, t.token_id, t.count, n_graphs, weight_sum::DOUBLE / t.count, v.token,
            sum(coalesce(weight_abs_sum, abs(weight_sum))::DOUBLE) OVER (PARTITION BY neuron) AS all_logits,
            coalesce(weight_abs_sum, abs(weight_sum)) AS strength
        FROM token_edges AS t LEFT JOIN vocab AS v ON v.token_id = t.token_id
        WHERE layer = $layer AND kind = 'logit' AND t.count > 0 AND isfinite(weight_sum)
        QUALIFY row_number() OVER (PARTITION BY neuron ORDER BY strength DESC, t.token_id) <= $top
        ORDER BY neuron, strength DESC, t.token_id""",
    "together": """
        SELECT neuron, other_layer, other_neuron, n_graphs, lift FROM cooccurrence
        WHERE layer = $layer AND rank <= $top ORDER BY neuron, rank, other_layer, other_neuron""",
    "lens": """
        SELECT l.neuron, l.polarity, v.token, l.token_id, l.value
        FROM logit_lens AS l LEFT JOIN vocab AS v ON v.token_id = l.token_id
        WHERE l.layer = $layer AND l.rank < $top ORDER BY l.neuron, l.polarity DESC, l.rank, l.token_id""",
    "read": """
        SELECT r.neuron, r.part, r.polarity, v.token, r.token_id, r.value
        FROM read_tokens AS r LEFT JOIN vocab AS v ON v.token_id = r.token_id
        WHERE r.layer = $layer AND r.rank < $top ORDER BY r.neuron, r.part, r.polarity DESC, r.rank, r.token_id""",
}
_ALL = 1 << 31
_PARTS = {("gate", 1): "gate", ("up", 1): "up_positive", ("up", -1): "up_negative"}


@dataclass(frozen=True)
class ProfilePlan:
    """Whose profiles, and how much of each; without a selection all neurons that have edges or are in a graph."""

    selection: Selection | None = None
    top: int | None = 20  # entries of each list; None for all
    force: bool = False


@dataclass(frozen=True)
class ProfileReport:
    """Profiles and bytes written."""

    profiles: int
    size: int


def export_profiles(
    atlas: Atlas, target: Path, *, plan: ProfilePlan | None = None, progress: Progress | None = None
) -> ProfileReport:
    """Write the profiles in the order of layer and neuron, whole or not at all; equal atlases give equal bytes.

    With `top` None the file holds every edge, and reading it back gives the same edges with count and weight_sum.
    Raises InputError for a target that is there (unless plan.force) and when there is nothing to write.
    """
    plan, shown = plan or ProfilePlan(), progress or Quiet()
    if plan.top is not None and plan.top < 1:
        raise InputError(f"top is {plan.top}; use at least 1")
    chosen = None if plan.selection is None else atlas.select(plan.selection)
    layers = range(atlas.layers) if chosen is None else sorted({one // atlas.d_mlp for one in chosen})
    written = 0
    with new_file(target, force=plan.force) as draft:
        with draft.open("wb") as out, shown.task("profiles", len(layers), "layers") as task:
            out.write(b'{"metadata": ' + orjson.dumps(_metadata(atlas, plan)) + b',\n"profiles": [')
            for layer in layers:
                for profile in _profiles(atlas, layer, chosen, plan.top or _ALL):
                    out.write((b",\n" if written else b"\n") + orjson.dumps(profile))
                    written += 1
                task.advance()
            _finish(out, written)
        if not written:
            raise InputError(f"no neuron with edges or graphs in {atlas.name}; nothing is written")
        size = draft.stat().st_size
    return ProfileReport(written, size)


def _finish(out: IO[bytes], written: int) -> None:
    out.write(b'\n],\n"summary": ' + orjson.dumps({"total_profiles": written}) + b"}\n")


def _metadata(atlas: Atlas, plan: ProfilePlan) -> dict[str, Any]:
    known: dict[str, Any] = {
        key: atlas.metadata[key] for key in ("model", "revision", "edge_method") if key in atlas.metadata
    }
    graphs = atlas.con.execute("SELECT count(*) FROM graphs").fetchall()[0][0]
    sizes = {"num_layers": atlas.layers, "neurons_per_layer": atlas.d_mlp, "total_graphs": graphs, "top": plan.top}
    return {**known, **sizes, "notes": list(atlas.truncation())}


def _profiles(atlas: Atlas, layer: int, chosen: list[int] | None, top: int) -> Iterator[dict[str, Any]]:
    every = {
        "layer": layer,
        "every": chosen is None,
        "ids": [one for one in chosen or () if one // atlas.d_mlp == layer],
    }
    values = {"layer": layer, "width": atlas.d_mlp, "top": top}
    lists = {name: _Cursor(_rows(atlas, text, values)) for name, text in _LISTS.items()}
    labels, about = _labels(atlas, layer), About(atlas.metadata.get("model", ""), atlas.d_mlp)
    for neuron, graphs, peak, flow in _rows(atlas, _NEURONS, every):
        found = {name: rows.of(neuron) for name, rows in lists.items()}
        said = labels.get(neuron)
        yield {
            "layer": layer, "neuron": neuron, "neuron_id": f"L{layer}/N{neuron}", "appearance_count": graphs,
            "max_activation": peak,
            **_edges(found, graphs),
            "direct_effect_ratio": _ratio(found["logits"], flow),
            "top_cooccurring_neurons": [
                {"neuron_id": f"L{other}/N{unit}", "count": count, "lift": lift}
                for _, other, unit, count, lift in found["together"]
            ],
            "output_projections": _projections(found["lens"], {1: "promotes", -1: "suppresses"}),
            "input_projections": _projections([(n, (p, s), *r) for n, p, s, *r in found["read"]], _PARTS),
            **(_said(FORMS["combined"].shape(said, about)[0][1]) if said else {}),
        }  # fmt: skip


def _edges(found: dict[str, list[Row]], graphs: int) -> dict[str, Any]:
    up = sorted(found["up"] + found["embeddings"], key=lambda row: (-row[-1], row[1]))
    return {
        "top_upstream_sources": [{"source": row[1], **_statistics(row, graphs)} for row in up],
        "top_downstream_targets": [{"target": row[1], **_statistics(row, graphs)} for row in found["down"]],
        "output_token_associations": [
            {"token": row[5], "token_id": row[1], **_statistics(row, graphs)} for row in found["logits"]
        ],
    }


def _statistics(row: Row, graphs: int) -> dict[str, Any]:
    share = None if row[3] is None or not graphs else row[3] / graphs
    return {"count": row[2], "frequency": share, "avg_weight": row[4]}


def _ratio(logits: list[Row], flow: float) -> float | None:
    direct = logits[0][6] if logits else 0.0
    total = direct + flow
    return direct / total if total and math.isfinite(total) else None


def _projections(rows: list[Row], names: dict[Any, str]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in names.values()}
    for _, kind, token, token_id, value in rows:
        found[names[kind]].append({"token": token, "token_id": token_id, "weight": value})
    return {name: entries for name, entries in found.items() if entries}


def _said(entry: dict[str, Any]) -> dict[str, Any]:
    """What a combined file says of a neuron, without the names that a profile has already."""
    return {name: told for name, told in entry.items() if name not in ("neuron_id", "layer", "neuron_idx")}


def _labels(atlas: Atlas, layer: int) -> dict[int, list[dict[str, Any]]]:
    """The labels of a layer that a profile has room for, by neuron."""
    con, order = atlas.cursor(), read_precedence(atlas.metadata.get("label_precedence", "").split(","))
    rank_labels(con, layer, order)
    found = con.execute(sql_text("ingest", "label_best"), {"source": None, "longest": LONGEST_LABEL})
    names = [column[0] for column in found.description]
    rows = [dict(zip(names, row, strict=True)) for row in found.fetchall()]
    grouped = {
        neuron: FORMS["combined"].choose(list(some)) for neuron, some in groupby(rows, lambda row: row["neuron"])
    }
    return {neuron: some for neuron, some in grouped.items() if some}


def _rows(atlas: Atlas, text: str, values: dict[str, Any]) -> Iterator[Row]:
    with atlas.cursor() as cursor:
        cursor.execute(text, {name: value for name, value in values.items() if f"${name}" in text})
        while rows := cursor.fetchmany(_ROWS):
            yield from rows


class _Cursor:
    """Rows that begin with a neuron, ascending, asked for by neurons in ascending order."""

    def __init__(self, rows: Iterator[Row]) -> None:
        self._groups = groupby(rows, key=lambda row: row[0])
        self._next: tuple[int, list[Row]] | None = None
        self._advance()

    def of(self, neuron: int) -> list[Row]:
        """The rows of one neuron; what comes before it is passed over."""
        while self._next is not None and self._next[0] < neuron:
            self._advance()
        return self._next[1] if self._next is not None and self._next[0] == neuron else []

    def _advance(self) -> None:
        found = next(self._groups, None)
        self._next = None if found is None else (found[0], list(found[1]))
