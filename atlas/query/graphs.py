"""Neurons -> the attribution graphs (prompts) in which all of them are nodes.

Which graphs an edge was seen in is not stored, only in how many (n_graphs): for an edge these are the graphs with both
ends, of which the edge is in at least n_graphs.
"""

from __future__ import annotations

import re
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from atlas.errors import InputError
from atlas.query.answer import Answer, literal
from atlas.query.selector import Selection, select

if TYPE_CHECKING:
    from atlas.query.atlas import Atlas

HEADLINE = ("graph_id", "prompt", "targets", "positions", "relevance", "weakest", "share")
MOST_NEURONS = 100  # all of which a graph must have; a module of more is in no graph as a whole
_COLUMNS = ("layer", "neuron", "graph_id", "positions", "relevance")


def graphs(atlas: Atlas, selection: Selection, *, members: str | Path | None = None, limit: int | None = 20) -> Answer:
    """Graphs that contain every neuron of the selection; columns of graphs_of_neurons, most relevant first.

    members: the Parquet file with the rows of neuron_graphs, where these were too many for the atlas; without it the
    file that the metadata name is looked for beside the atlas.
    """
    ids = select(atlas, selection)
    if len(ids) > MOST_NEURONS:
        raise InputError(f"{len(ids)} neurons, of which a graph must have all; give at most {MOST_NEURONS}")
    if members is None and "neuron_graphs" in atlas.missing:
        atlas.require("neuron_graphs")
    if members is None and not atlas.free("SELECT 1 FROM neuron_graphs LIMIT 1", {}).rows():
        members = _beside(atlas)
    if members is not None:
        _read_instead(atlas, Path(members))
    values = {"of_ids": ids, "max_rows": limit}
    return atlas.ask("graphs_of_neurons", values, headline=HEADLINE, warnings=_edge_note(atlas, ids))


def _beside(atlas: Atlas) -> Path | None:
    """The file of metadata neuron_graphs, beside the atlas or in the folder of its store there."""
    named = re.search(r"(\S+)/(neuron_graphs-\w+\.parquet)", atlas.metadata.get("neuron_graphs", ""))
    if named is None:
        atlas.require("neuron_graphs")
        raise InputError(f"table neuron_graphs is empty: {atlas.name} was built without attribution graphs")
    folder = atlas.path.parent
    for place in (folder / named[1] / named[2], folder / named[2]):
        if place.is_file():
            return place
    raise InputError(
        f"which graphs a neuron is in was left in {named[0]}, which is not beside {atlas.name}; "
        "give it with --members FILE"
    )


def _read_instead(atlas: Atlas, file: Path) -> None:
    """Let neuron_graphs mean the file: a view in memory, where the newest macros are too."""
    if not file.is_file():
        raise InputError(f"no file {file}; give the Parquet file of neuron_graphs")
    try:
        found = atlas.cursor().execute("DESCRIBE FROM read_parquet($1)", [escape(str(file))]).fetchall()
    except duckdb.Error as error:
        raise InputError(f"{file} is no Parquet file; give the one that metadata neuron_graphs names") from error
    if missing := [name for name in _COLUMNS if name not in {row[0] for row in found}]:
        raise InputError(f"{file} has no column {', '.join(missing)}; give the Parquet file of neuron_graphs")
    atlas.cursor().execute(
        f"CREATE OR REPLACE VIEW memory.main.neuron_graphs AS FROM read_parquet({literal(escape(str(file)))})"
    )


def _edge_note(atlas: Atlas, ids: list[int]) -> tuple[str, ...]:
    """Of two neurons: whether there is an edge and in how many graphs it was seen."""
    if len(ids) != 2:
        return ()
    rows = atlas.ask("edges_between", {"of_sources": ids, "of_targets": ids, "max_rows": None}).rows()
    note = "which graphs an edge is in is not stored: these are the graphs with both ends"
    return tuple(
        f"{atlas.neuron_id(r['src'])} -> {atlas.neuron_id(r['tgt'])} was seen {r['count']} times in "
        f"{'an unknown number of' if r['n_graphs'] is None else r['n_graphs']} graphs; {note}"
        for r in rows
    )
