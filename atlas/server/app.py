"""Settings -> the application: endpoints behind the cache, both behind the guard."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fastapi import FastAPI
from starlette.types import ASGIApp

import atlas
from atlas.server.cache import Cache
from atlas.server.channels import add_sockets
from atlas.server.document import describe
from atlas.server.errors import add_handlers
from atlas.server.guard import Guard
from atlas.server.held import HeldAtlas
from atlas.server.index import add_index
from atlas.server.jobs.queue import Jobs
from atlas.server.jobs.work import Environment
from atlas.server.models import Models
from atlas.server.routes import (
    activations,
    circuits,
    clusters,
    compare,
    health,
    holdings,
    jobs,
    models,
    modules,
    neuronpedia,
    neurons,
    pruning,
    queries,
    samples,
    search,
    sql,
)
from atlas.server.routing import add_routes
from atlas.server.sandbox.pool import Sandbox
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
        title="atlas", version=atlas.__version__, description=atlas.__doc__ or "",
        docs_url=None, redoc_url=None, openapi_url="/openapi.json",
    )  # fmt: skip
    app.state.server = server
    add_handlers(app)
    add_routes(
        app, health.routes, neurons.routes, search.routes, circuits.routes, modules.routes, holdings.routes,
        compare.routes, sql.routes,
        models.routes, pruning.routes, activations.routes, clusters.routes, queries.routes, samples.routes,
        neuronpedia.routes, jobs.routes,
    )  # fmt: skip
    add_sockets(app)
    add_index(app)
    describe(app)
    return Guard(Cache(app, held.fingerprint, settings.cache_size), settings, server.tokens), app


@contextmanager
def running(app: FastAPI) -> Iterator[None]:
    """What runs beside the requests, the jobs, while the server does.

    Before the first request, so that a folder that another server uses is one line and an exit code: StoreError.
    """
    server: Server = app.state.server
    where = server.settings
    model = str(where.models[0]) if where.models else None
    try:
        server.sandbox = Sandbox(where, server.held.path, server.held.fingerprint)
        server.jobs = Jobs(where.folder, Environment(server.held.path, model, where.folder), workers=where.workers)
        yield
    finally:
        if server.jobs is not None:
            server.jobs.close()
        server.held.close()
