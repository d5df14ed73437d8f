"""Settings -> a server that listens until it is told to stop."""

from __future__ import annotations

import uvicorn

from atlas.errors import InputError
from atlas.server.app import make_app
from atlas.server.settings import Settings
from atlas.server.tokens import Tokens


def serve(settings: Settings) -> None:
    """Serve until Ctrl-C or SIGTERM; InputError for an open address without a token."""
    if not settings.loopback and not Tokens(settings.folder).any():
        raise InputError(
            f"{settings.host} can be reached from other machines and there is no token; make one with "
            f'"atlas token add NAME --data {settings.folder}", or leave out --host'
        )
    app, _ = make_app(settings)
    uvicorn.run(
        app, host=settings.host, port=settings.port, log_level="warning", server_header=False, access_log=False,
        timeout_keep_alive=20, timeout_graceful_shutdown=5, limit_concurrency=1000, h11_max_incomplete_event_size=65536,
    )  # fmt: skip
