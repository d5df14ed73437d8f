"""Reverse activation: the tokens that fire a neuron or a module, from the atlas; files that hold such answers."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from atlas.errors import InputError
from atlas.query.atlas import Atlas
from atlas.server.files import find_file, json_file
from atlas.server.replies import Told
from atlas.server.routes.activations import FileName, Files, listing
from atlas.server.routing import Routes
from atlas.server.state import Server
from atlas.server.waiting import Bare

routes = Routes("queries")

QUERIES = "queries"  # folder of the data folder
_NOT_IN_NAMES = re.compile(r"[^\w.]")
TopK = Annotated[int, Field(ge=1, le=10_000)]


class TokenActivation(BaseModel):
    """A token and the mean activation over its strong firings."""

    token: str
    activation: float | None


class QueryFile(BaseModel):
    """The tokens that fire a neuron or a module, strongest first; those of negative activations apart."""

    query_type: str = Field(description="neuron or cluster")
    neuron_index: int | None = None
    layer_index: int | None = None
    cluster_id: int | None = Field(None, description="Rank of the module's path among all, from 0.")
    cluster_path: str | None = None
    top_tokens: list[TokenActivation]
    top_tokens_negative: list[TokenActivation] | None = None


class NeuronQuery(BaseModel):
    """A neuron."""

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        json_schema_extra={"examples": [{"layer_index": 0, "neuron_index": 42, "top_k": 10}]},
    )
    layer_index: int = Field(ge=0, lt=1 << 31)
    neuron_index: int = Field(ge=0, lt=1 << 31)
    top_k: TopK = 10
    save: bool = Field(True, description="Keep the answer as a file of /api/queries.")


class ClusterQuery(BaseModel):
    """A module: its number in cluster files, or its path as text."""

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        json_schema_extra={"examples": [{"cluster_id": 0, "top_k": 10}, {"cluster_id": "22"}]},
    )
    cluster_id: (
        Annotated[int, Field(ge=0, lt=1 << 31)] | Annotated[str, Field(max_length=200, pattern=r"^\d+(\.\d+)*$")]
    )
    top_k: TopK = 10
    save: bool = Field(True, description="Keep the answer as a file of /api/queries.")


@routes.get("/queries/files", reply=Files, seed=True, keep=False)
def query_files(server: Server) -> dict[str, Any]:
    """List the query files."""
    return listing(server, QUERIES)


@routes.get("/queries/{filename}", reply=QueryFile, seed=True, keep=False, statuses=(404, 409))
def query_file(server: Server, bare: Bare, filename: FileName) -> Response:
    """Read a query file."""
    return json_file(find_file(server.settings.folder / QUERIES, filename), envelope=not bare)


@routes.post("/queries/neuron", reply=QueryFile, seed=True, statuses=(409,))
def query_neuron(atlas: Atlas, server: Server, body: NeuronQuery) -> Told:
    """Tell the tokens that fire a neuron most strongly on average."""
    from atlas.export.seed_forms import query_json
    from atlas.export.seed_tables import neuron_query

    warnings = atlas.require("token_stats", "vocab")
    atlas.id_of((body.layer_index, body.neuron_index))
    found = neuron_query(atlas.cursor(), body.layer_index, body.neuron_index, tokens=body.top_k)
    _keep(server, f"L{body.layer_index}_N{body.neuron_index}", query_json(found), body.save)
    return Told(query_json(found), "; ".join(warnings) or None)


@routes.post("/queries/cluster", reply=QueryFile, seed=True, statuses=(409,))
def query_cluster(atlas: Atlas, server: Server, body: ClusterQuery) -> Told:
    """Tell the tokens that fire the neurons of a module most strongly on average."""
    from atlas.export.seed_forms import query_json
    from atlas.export.seed_tables import cluster_query

    warnings = atlas.require("token_stats", "vocab", "clusters")
    path, number = _module(atlas, body.cluster_id)
    found = cluster_query(atlas.cursor(), path, cluster_id=number, tokens=body.top_k)
    _keep(server, f"cluster_{_NOT_IN_NAMES.sub('_', path)}", query_json(found), body.save)
    return Told(query_json(found), "; ".join(warnings) or None)


def _module(atlas: Atlas, given: int | str) -> tuple[str, int]:
    """(path, number) of a module by either; InputError for one that is not there."""
    from atlas.export.seed_tables import cluster_ids

    ids = cluster_ids(atlas.cursor())
    if isinstance(given, str):
        if given not in ids:
            atlas.require_cluster(given)
            raise InputError(f"no neuron of {atlas.name} is in module {given!r}")
        return given, ids[given]
    if given >= len(ids):
        raise InputError(
            f"no module of number {given} in {atlas.name}; there are {len(ids):,}, from 0. A path is given as text"
        )
    return list(ids)[given], given


def _keep(server: Server, name: str, found: dict[str, Any], save: bool) -> None:
    from atlas.export.folder import replace_text
    from atlas.export.shape import json_text

    if save:
        replace_text(server.settings.folder / QUERIES / f"{name}.json", json_text(found))
