"""A stored clustering -> an assignment file, {"assignments": {"L24/5326": {path, top, sub, subsub, depth, flow}}}.

One neuron a line, written as it is read: memory is a batch of rows and DuckDB's sort. `atlas cluster import` reads it
back to the same modules, flows and memberships.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atlas.derive.clustering.compare import stored_name
from atlas.errors import InputError

if TYPE_CHECKING:
    from atlas.query.atlas import Atlas

_AT_ONCE = 65_536  # rows
_ROWS = """
    SELECT layer, neuron, cluster_path, flow, membership FROM partitions
    WHERE coalesce(clustering, method) = $name ORDER BY layer, neuron"""
_ABOUT = """
    SELECT method, parameters, seed, edges, quality, quality_measure FROM clusterings WHERE clustering = $name"""


def export_assignments(atlas: Atlas, target: Path, *, clustering: str | None = None) -> int:
    """Write a clustering, the primary one unless another is named, and return its neurons; complete or not at all.

    The file's "metadata" say of which model it is; an import into an atlas of another size is refused by them.
    Membership is written only where there is one (nmf). Raises InputError for an unknown clustering and a target
    that is a folder.
    """
    name, rows = stored_name(atlas, clustering), 0
    if target.is_dir():
        raise InputError(f"{target} is a folder; give the name of a file to write")
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with draft.open("w", encoding="utf-8", newline="\n") as out:
            out.write(f'{{"metadata": {json.dumps(_metadata(atlas, name), ensure_ascii=False)},\n"assignments": {{\n')
            for batch in _batches(atlas, name):
                out.write(",\n" * bool(rows) + ",\n".join(batch))
                rows += len(batch)
            out.write("\n}}\n")
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)
    return rows


def _batches(atlas: Atlas, name: str) -> Iterator[list[str]]:
    for batch in atlas.con.sql(_ROWS, params={"name": name}).to_arrow_reader(_AT_ONCE):
        yield [_line(*row) for row in zip(*(column.to_pylist() for column in batch.columns), strict=True)]


def _line(layer: int, neuron: int, path: str, *shares: float | None) -> str:
    parts = path.split(".")
    top, sub, subsub = (*(part if part.isdigit() else json.dumps(part) for part in parts[:3]), "null", "null")[:3]
    flow, membership = ("null" if share is None else repr(share) for share in shares)
    known = "" if membership == "null" else f', "membership": {membership}'
    return (
        f'"L{layer}/{neuron}": {{"path": {json.dumps(path)}, "top": {top}, "sub": {sub}, "subsub": {subsub}, '
        f'"depth": {len(parts)}, "flow": {flow}{known}}}'
    )


def _metadata(atlas: Atlas, name: str) -> dict[str, Any]:
    found = atlas.con.execute(_ABOUT, {"name": name})
    columns = [one[0] for one in found.description or ()]
    run: dict[str, Any] = next((dict(zip(columns, row, strict=True)) for row in found.fetchall()), {})
    run["parameters"] = json.loads(run.get("parameters") or "{}")
    model: dict[str, Any] = {key: atlas.metadata[key] for key in ("model", "revision") if key in atlas.metadata}
    return {**model, "num_layers": atlas.layers, "neurons_per_layer": atlas.d_mlp, "clustering": name, **run}
