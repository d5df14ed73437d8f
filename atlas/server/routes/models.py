"""Which models the server knows, which one new measurements use, and what memory there is."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Path
from pydantic import BaseModel, ConfigDict, Field

from atlas.query.atlas import Atlas
from atlas.server.replies import Told
from atlas.server.routing import Routes
from atlas.server.state import Server

routes = Routes("models")


class ModelInfo(BaseModel):
    """One model folder; sizes that its config.json does not give are null."""

    name: str = Field(description="Name of the folder.", examples=["model"])
    family: str = Field(examples=["llama"])
    layers: int | None
    hidden_size: int | None
    num_attention_heads: int | None
    neurons_per_layer: int | None
    vocab_size: int | None
    context_length: int | None
    description: str
    recommended: bool = Field(description="Whether it is the atlas's own model (by sizes alone if revision is null).")
    size_category: str | None = Field(
        description="small, medium, large or xl: below 250M, 550M, 1.2B parameters, and above."
    )
    parameters: int | None
    size_bytes: int
    revision: str | None = Field(description="Fingerprint of its content; null for more than 4 GiB.")
    problem: str | None = Field(description="Why its files cannot be read; everything else is then null.")


class ModelList(BaseModel):
    """All models by name."""

    models: dict[str, ModelInfo]
    current_model: str | None = Field(description="null: the server was started without --model.")


class Memory(BaseModel):
    """Bytes, as they are now."""

    total_memory: int = Field(description="Of the machine.")
    used_memory: int
    available_memory: int = Field(description="What processes may still take.")
    model_memory: int = Field(description="Parameters of the models that workers hold; 0 when none is loaded.")
    worker_memory: int = Field(description="Everything that those workers hold.")
    server_memory: int


class Switch(BaseModel):
    """Which model to use from now on."""

    model_config = ConfigDict(strict=True, extra="forbid", json_schema_extra={"examples": [{"model_name": "model"}]})
    model_name: str = Field(min_length=1, max_length=200)


class Switched(BaseModel):
    """The model that new measurements use."""

    message: str
    current_model: str
    model_info: ModelInfo
    memory_usage: Memory


@routes.get("/models", reply=ModelList, seed=True, keep=False, statuses=(409,))
def models(atlas: Atlas, server: Server) -> dict[str, Any]:
    """List the models that the server was started with.

    They are known by the names of their folders; none where the server was started without --model.
    """
    found = {name: model.document(atlas) for name, model in server.models.known.items()}
    return {"models": found, "current_model": server.models.current}


@routes.get("/models/memory", reply=Memory, seed=True, keep=False)
def models_memory(server: Server) -> dict[str, int]:
    """Tell how much memory there is and what the models take.

    Models are held by worker processes only while they have work, and for some minutes after.
    """
    return _memory(server)


@routes.get("/models/{model_name}", reply=ModelInfo, seed=True, keep=False, statuses=(404, 409))
def model(
    atlas: Atlas, server: Server, model_name: Annotated[str, Path(max_length=200, examples=["model"])]
) -> dict[str, Any]:
    """Describe one model."""
    return server.models.get(model_name).document(atlas)


@routes.post("/models/switch", reply=Switched, seed=True, statuses=(409,))
def switch_model(atlas: Atlas, server: Server, body: Switch) -> Told:
    """Choose the model of new measurements.

    Its files are checked, not loaded: the first job that needs it loads it. Jobs that wait or run keep the model they
    were asked for. Requests come one after the other; the last one counts. What is measured for the atlas needs the
    atlas's own model and answers 409 while another one is current.
    """
    chosen = server.models.switch(body.model_name)
    message = f"Successfully switched to {chosen.name}"
    found = {
        "message": message,
        "current_model": chosen.name,
        "model_info": chosen.document(atlas),
        "memory_usage": _memory(server),
    }
    return Told(found, message)


def _memory(server: Server) -> dict[str, int]:
    import psutil

    from atlas.server.work.loaded import loaded

    machine, workers = psutil.virtual_memory(), loaded(server.settings.folder)
    return {
        "total_memory": machine.total,
        "used_memory": machine.total - machine.available,
        "available_memory": machine.available,
        "model_memory": sum(worker["bytes"] for worker in workers),
        "worker_memory": sum(worker["rss"] for worker in workers),
        "server_memory": psutil.Process().memory_info().rss,
    }
