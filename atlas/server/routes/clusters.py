"""Cluster files: listed, read, made from an activation file; and new clusterings of the atlas itself."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from atlas.server.files import JSON_NAME, find_file, json_file
from atlas.server.routes.activations import FileName, Files, listing
from atlas.server.routing import Routes
from atlas.server.state import Server
from atlas.server.waiting import Bare, Patience, Waiting, outcome, submit
from atlas.server.work.activations import ACTIVATIONS, CLUSTERS

routes = Routes("clusters")

_WEIGHTS = (
    "mean_abs_weight", "mean_abs_weight^2", "abs(mean_weight)", "mean_weight^2", "weight_abs_sum", "count",
)  # fmt: skip
Weight = Literal[_WEIGHTS]  # type: ignore[valid-type]


class Cluster(BaseModel):
    """Neurons of one layer."""

    cluster_id: int
    neuron_indices: list[int]
    centroid: list[float | None] | None = None


class ClusterFile(BaseModel):
    """The clusters of one layer."""

    layer: int
    clusters: list[Cluster]


class MadeClusters(ClusterFile):
    """The document, and the file that holds it."""

    filename: str
    file_path: str
    inertia: float = Field(description="Sum of squared distances of the neurons to their centroids.")


class GenerateClusters(BaseModel):
    """An activation file, one of its layers, and how many clusters."""

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        json_schema_extra={"examples": [{"activation_file": "hello_world.json", "layer_index": 0, "n_clusters": 5}]},
    )
    activation_file: str = Field(pattern=JSON_NAME, max_length=200)
    layer_index: int = Field(ge=0, lt=1 << 31)
    n_clusters: int = Field(5, ge=1, le=10_000)
    seed: int = Field(42, ge=0, lt=1 << 31)


class ClusteringRequest(BaseModel):
    """As `atlas cluster run`; what is null is left to the method."""

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        json_schema_extra={"examples": [{"method": "kmeans", "k": 8, "name": "eight", "primary": False}]},
    )
    method: Literal["infomap", "leiden", "louvain-hierarchical", "kmeans", "nmf", "spectral"] = "infomap"
    name: str | None = Field(None, min_length=1, max_length=200, description="The method's without one; replaced.")
    weight: Weight | None = Field(None, description="Of an edge; other expressions: atlas cluster run.")
    min_count: int | None = Field(None, ge=1, lt=1 << 31)
    seed: int | None = Field(None, ge=0, lt=1 << 32)
    trials: int | None = Field(None, ge=1, le=1000)
    resolution: float | None = Field(None, gt=0, le=1e6)
    max_size: int | None = Field(None, ge=2, lt=1 << 31)
    objective: Literal["modularity", "cpm"] | None = None
    k: int | None = Field(None, ge=2, le=1 << 20)
    profile: Literal["edges", "activations"] | None = None
    primary: bool | None = Field(None, description="Show it in neurons and clusters; null: if none is shown yet.")
    threads: int = Field(2, ge=1, le=256)


class Clustering(BaseModel):
    """A row of table clusterings."""

    clustering: str
    method: str
    parameters: dict[str, Any]
    neurons: int
    modules: int
    top_modules: int
    levels: int
    quality: float | None
    primary: bool


@routes.get("/clusters/files", reply=Files, seed=True, keep=False)
def cluster_files(server: Server) -> dict[str, Any]:
    """List the cluster files."""
    return listing(server, CLUSTERS)


@routes.get("/clusters/{filename}", reply=ClusterFile, seed=True, keep=False, statuses=(404, 409))
def cluster_file(server: Server, bare: Bare, filename: FileName) -> Response:
    """Read a cluster file."""
    return json_file(find_file(server.settings.folder / CLUSTERS, filename), envelope=not bare)


@routes.post("/clusters/generate", reply=MadeClusters, seed=True, job=True, statuses=(409, 429, 503))
async def generate_clusters(body: GenerateClusters, server: Server, patience: Waiting) -> Any:
    """Cluster the neurons of a layer by their activations in a file, by k-means.

    Writes clusters/{activation file}_layer_{layer}_clusters.json; a centroid is the mean activation at each token.
    """
    job = await run_in_threadpool(_generate, server, patience, body)
    return await outcome(server, job, patience)


@routes.post("/clusterings", reply=Clustering, job=True, statuses=(409, 429, 503))
async def run_clustering(body: ClusteringRequest, server: Server, patience: Waiting) -> Any:
    """Find modules in the atlas's edges and store them in the atlas.

    The atlas is written anew beside the open file and replaces it at the end; requests that run go on undisturbed.
    """
    job = await run_in_threadpool(_cluster, server, patience, body)
    return await outcome(server, job, patience)


def _generate(server: Server, patience: Patience, body: GenerateClusters) -> Any:
    find_file(server.settings.folder / ACTIVATIONS, body.activation_file, status=400)
    return submit(server, "clusters-generate", body.model_dump(), owner=patience.owner)


def _cluster(server: Server, patience: Patience, body: ClusteringRequest) -> Any:
    from atlas.derive.clustering.methods import make_options

    request = body.model_dump()
    make_options(
        body.method, {name: value for name, value in request.items() if name not in ("method", "primary", "threads")}
    )
    return submit(server, "clustering", request, owner=patience.owner)
