"""Activation files: listed, read, and made for a new prompt by a job."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Path
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from atlas.server.files import JSON_NAME, file_names, find_file, json_file
from atlas.server.routing import Routes
from atlas.server.state import Server
from atlas.server.waiting import Bare, Patience, Waiting, outcome, submit
from atlas.server.work.activations import ACTIVATIONS

routes = Routes("activations")

FileName = Annotated[str, Path(pattern=JSON_NAME, max_length=200, examples=["hello_world.json"])]


class Files(BaseModel):
    """Names of files in a folder of the server's data folder, sorted."""

    files: list[str]
    count: int


class NeuronActivations(BaseModel):
    """One neuron; null stands for what is no number."""

    neuron_index: int
    activations: list[float | None] = Field(description="One for each token.")


class LayerActivations(BaseModel):
    """The neurons of one layer, ascending."""

    layer_index: int
    neurons: list[NeuronActivations]


class ActivationFile(BaseModel):
    """What every neuron did at every token of a prompt."""

    prompt: str
    tokens: list[str] = Field(description="As the model reads them, BOS first where it has one.")
    layers: list[LayerActivations]


class Generate(BaseModel):
    """A prompt to measure."""

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        json_schema_extra={"examples": [{"prompt": "Hannah ate soup .", "model_name": "model", "top": 5}]},
    )
    prompt: str = Field(min_length=1, max_length=100_000)
    model_name: str | None = Field(None, max_length=200, description="One of GET /api/models; the current one if null.")
    top: int | None = Field(None, ge=1, lt=1 << 31, description="Only so many neurons of each layer, the strongest.")


class Generated(BaseModel):
    """What was written; GET /api/activations/{filename} has the activations."""

    message: str
    filename: str
    file_path: str
    size_bytes: int
    prompt: str
    tokens: list[str]
    layer_count: int
    neurons_per_layer: int
    model_name: str


@routes.get("/activations/files", reply=Files, seed=True, keep=False)
def activation_files(server: Server) -> dict[str, Any]:
    """List the activation files."""
    return listing(server, ACTIVATIONS)


@routes.get("/activations/{filename}", reply=ActivationFile, seed=True, keep=False, statuses=(404, 409))
def activation_file(server: Server, bare: Bare, filename: FileName) -> Response:
    """Read an activation file."""
    return json_file(find_file(server.settings.folder / ACTIVATIONS, filename), envelope=not bare)


@routes.post("/activations/generate", reply=Generated, seed=True, job=True, statuses=(409, 429, 502, 503))
async def generate_activations(body: Generate, server: Server, patience: Waiting) -> Any:
    """Measure every neuron on a prompt and write an activation file.

    The file is named by the words of the prompt; the same prompt again replaces it. A file of more than 512 MB is
    refused with its size: `top` makes it smaller.
    """
    job = await run_in_threadpool(_generate, server, patience, body)
    return await outcome(server, job, patience)


def listing(server: Server, folder: str) -> dict[str, Any]:
    """The files of a folder of the data folder."""
    names = file_names(server.settings.folder / folder)
    return {"files": names, "count": len(names)}


def _generate(server: Server, patience: Patience, body: Generate) -> Any:
    models = server.models
    model = models.now() if body.model_name is None else models.get(body.model_name, status=400)
    request = {"prompt": body.prompt, "model_name": model.name, "top": body.top}
    return submit(server, "activations", request, owner=patience.owner, model=model.folder)
