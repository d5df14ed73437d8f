"""Whether the server answers, and from what."""

from __future__ import annotations

from pydantic import BaseModel, Field

from atlas.query.atlas import Atlas
from atlas.server.routing import Routes
from atlas.server.state import Server

routes = Routes("health")


class Health(BaseModel):
    """NeuronScope's two fields, and what is open."""

    status: str = Field(examples=["healthy"])
    message: str = Field(examples=["NeuronScope API server is running"])
    atlas: str = Field(examples=["demo.duckdb"])
    model: str | None
    fingerprint: str = Field(description="Changes when the atlas file or the version of atlas does.")


@routes.get("/health", reply=Health, seed=True, keep=False)
async def health(atlas: Atlas, server: Server) -> Health:
    """Check that the server runs. Needs no token."""
    message = "NeuronScope API server is running"
    if server.held.gone:
        message += f"; {atlas.name} was taken away, what is open still answers"
    return Health(
        status="healthy", message=message, atlas=atlas.name, model=atlas.metadata.get("model"),
        fingerprint=server.held.fingerprint(),
    )  # fmt: skip
