"""Settings -> the application: endpoints behind the cache, both behind the guard."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

import atlas
from atlas.server.cache import Cache
from atlas.server.errors import add_handlers
from atlas.server.guard import Guard
from atlas.server.held import HeldAtlas
from atlas.server.jobs.queue import Jobs
from atlas.server.jobs.work import Environment
from atlas.server.models import Models
from atlas.server.routes import (
    activations,
    circuits,
    clusters,
    health,
    holdings,
    models,
    modules,
    neurons,
    pruning,
    queries,
    samples,
    search,
)
from atlas.server.routing import add_routes
from atlas.server.settings import Settings
from atlas.server.state import Server
from atlas.server.tokens import Tokens
from atlas.store.connection import Limits


def make_app(settings: Settings) -> tuple[ASGIApp, FastAPI]:
    """The guarded application to serve, and the bare one inside, which knows the routes.

    Raises InputError when there is no atlas, StoreError when it cannot be read.
    """
    held = HeldAtlas(settings.atlas, limits=Limits(memory=settings.memory, threads=settings.threads))
    server = Server(settings, held, Tokens(settings.folder), models=Models.of(settings.models))
    app = FastAPI(
        title="atlas", version=atlas.__version__, description=atlas.__doc__ or "", lifespan=_lifespan(server),
        docs_url=None, redoc_url=None, openapi_url="/openapi.json",
    )  # fmt: skip
    app.state.server = server
    add_handlers(app)
    add_routes(
        app, health.routes, models.routes, pruning.routes, activations.routes, clusters.routes, queries.routes,
        samples.routes, neurons.routes, search.routes, circuits.routes, modules.routes, holdings.routes,
    )  # fmt: skip
    served: ASGIApp = Cache(app, held.fingerprint, settings.cache_size)
    served = Guard(served, settings, server.tokens)
    if settings.origins:
        served = CORSMiddleware(
            served, allow_origins=settings.origins, allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type", "if-none-match"], expose_headers=["etag", "location"],
        )  # fmt: skip
    return served, app


def _lifespan(server: Server):  # type: ignore[no-untyped-def]
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        where = server.settings
        model = str(where.models[0]) if where.models else None
        environment = Environment(server.held.path, model, where.folder)
        server.jobs = Jobs(where.folder, environment, workers=where.workers)
        try:
            yield
        finally:
            server.jobs.close()
            server.held.close()

    return lifespan
