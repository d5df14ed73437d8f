"""An assignment file of another tool -> one more clustering of an atlas: read first, then written beside it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import duckdb

from atlas.build.clustering import make_primary
from atlas.build.revision import revise
from atlas.errors import InputError
from atlas.ingest.clusters import OUT_OF_RANGE, read_assignments
from atlas.ingest.labels import Imported, source_of
from atlas.ingest.neurons import assemble_clusters, assemble_neurons
from atlas.ingest.partitions import Clustering, describe_clustering
from atlas.query.atlas import Atlas
from atlas.store.connection import Limits, existing
from atlas.store.ledger import Ingested, get_metadata, now, record
from atlas.store.write import append_from_arrow, transaction


@dataclass(frozen=True)
class ImportedClustering:
    """What came of the file, the clustering's name, and whether neurons now show it."""

    name: str
    read: Imported
    primary: bool


def import_clustering(
    file: Path, assignments: Path, *, primary: bool = False, limits: Limits | None = None
) -> ImportedClustering:
    """Add the assignments as "import:<file name>"; the same name is replaced. Primary on request, or if none is.

    Raises InputError, and leaves the atlas as it is, for a file that cannot be read or is of another model: one neuron
    out of range is enough.
    """
    started = now()
    with Atlas(existing(file), limits=limits) as opened:
        layers, d_mlp = opened.layers, opened.d_mlp
        found = read_assignments(opened.con, assignments, layers=layers, d_mlp=d_mlp)
        if strangers := found.rejected.get(OUT_OF_RANGE):
            raise InputError(
                f"{assignments.name}: {strangers:,} of {found.rows_in:,} neurons are out of range ({layers} layers of "
                f"{d_mlp}), {found.first}; give the assignments of this model"
            )
        rows = opened.con.sql("SELECT * FROM temp.assignments").to_arrow_table()

    def change(con: duckdb.DuckDBPyConnection, fresh: bool) -> ImportedClustering:
        with transaction(con):
            name = source_of(assignments)
            con.execute("DELETE FROM partitions WHERE clustering = $1", [name])
            append_from_arrow(con, "partitions", rows)
            describe_clustering(con, Clustering(name, name))
            record(con, _ledger(assignments, found), started=started)
            shown = _is_primary(con, name, primary)
            if shown:
                make_primary(con, name)
                assemble_neurons(con, layers=layers)
                assemble_clusters(con)
        return ImportedClustering(name, found, shown)

    return revise(file, change, d_mlp=d_mlp, limits=limits or Limits(), what="with these assignments the atlas")


def _is_primary(con: duckdb.DuckDBPyConnection, name: str, asked: bool) -> bool:
    shown = get_metadata(con).get("primary_clustering", "infomap")
    others = con.execute("SELECT count(*) FROM partitions WHERE clustering = $1", [shown]).fetchall()[0][0]
    return asked or name == shown or not others


def _ledger(file: Path, found: Imported) -> Ingested:
    with file.open("rb") as handle:
        key = hashlib.file_digest(handle, "sha256").hexdigest()
    counts = (found.rows_out, found.rows_in, found.rows_rejected, found.reason)
    return Ingested(f"assignments:{file.name}", key, *counts, file.name, file.stat().st_size, key)
