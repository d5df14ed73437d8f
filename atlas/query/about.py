"""An atlas -> what it is and holds, for `atlas info`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from atlas.query.atlas import Atlas


def info(atlas: Atlas) -> dict[str, object]:
    """Model, sizes, edge method, rows of every table, quality of the attribution graphs, ingests, all metadata."""
    from atlas.store.content import row_counts

    meta = atlas.metadata
    return {
        "file": atlas.name,
        "bytes": atlas.path.stat().st_size,
        "schema": atlas.schema,
        "model": meta.get("model"),
        "revision": meta.get("revision"),
        "layers": atlas.layers,
        "neurons_per_layer": atlas.d_mlp,
        **atlas.free(_LABELLED, {}).rows()[0],
        "edge_method": meta.get("edge_method"),
        "edge_truncation": meta.get("edge_truncation") or "unknown",
        "graphs": atlas.free(_GRAPHS, {}).rows()[0],
        "tables": row_counts(atlas.con),
        "missing_tables": sorted(atlas.missing),
        "ingests": atlas.free(_INGESTS, {}).rows(),
        "metadata": meta,
    }


_LABELLED = "SELECT count(*) AS neurons, count(label) AS labelled, count(cluster_path) AS in_modules FROM neurons"
_GRAPHS = """
    SELECT count(*) AS graphs, median(explained) AS explained_median, min(explained) AS explained_min,
        median(explained_neurons) AS explained_neurons_median, min(explained_neurons) AS explained_neurons_min,
        median(completeness_residual) AS residual_median, max(completeness_residual) AS residual_max
    FROM graphs"""
_INGESTS = """
    SELECT step, source_file, rows_in, rows_out, rows_rejected, reason,
        round(epoch(finished - started), 1) AS seconds, finished
    FROM ingests ORDER BY started, step"""
