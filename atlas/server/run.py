"""Settings -> a server that listens until it is told to stop."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable

import uvicorn
from starlette.types import ASGIApp

from atlas.errors import InputError, ResourceError
from atlas.server.app import make_app, running
from atlas.server.connection import Connection
from atlas.server.settings import Settings
from atlas.server.state import Server
from atlas.server.tokens import Tokens


def serve(settings: Settings, *, started: Callable[[str], None]) -> None:
    """Serve until Ctrl-C or SIGTERM; `started` is told the address once the port is ours.

    Raises InputError for an open address without a token, ResourceError for a port that cannot be had.
    """
    if not settings.loopback and not Tokens(settings.folder).any():
        raise InputError(
            f"{settings.host} can be reached from other machines and there is no token; make one with "
            f'"atlas token add NAME --data {settings.folder}", or leave out --host'
        )
    listening = listen(settings.host, settings.port)
    with listening:
        guarded, app = make_app(settings)
        with running(app):
            listening.listen()  # from now on nobody is turned away
            started(address(listening))
            signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does: all is closed
            Listening(config(guarded), app.state.server).run(sockets=[listening])


class Listening(uvicorn.Server):
    """uvicorn's server, which waits for answers under way; the library takes a class.

    Jobs are stopped first: who waits for one, or watches it, is told how it ended, and does not hold up the end.
    """

    def __init__(self, config: uvicorn.Config, server: Server) -> None:
        super().__init__(config)
        self._server = server

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop the jobs, then close the connections."""
        if self._server.jobs is not None:
            await asyncio.to_thread(self._server.jobs.close)
        await super().shutdown(sockets)
        if self._server.sandbox is not None:
            await self._server.sandbox.close()


def listen(host: str, port: int) -> socket.socket:
    """A bound socket; port 0 takes a free one. ResourceError when the port is in use or may not be taken."""
    try:
        family, kind, number, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise InputError(f"no address for --host {host} ({error}); use 127.0.0.1 or one of this machine's") from error
    listening = socket.socket(family, kind, number)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(place)
    except OSError as error:
        listening.close()
        told = f"cannot listen on {host} port {port}: {(error.strerror or str(error)).lower()}; "
        raise ResourceError(told + "choose another --port, or 0 for any that is free") from error
    return listening


def address(listening: socket.socket) -> str:
    """The address of a bound socket."""
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


def config(app: ASGIApp) -> uvicorn.Config:
    """How requests are read: limits of time and number that the endpoints need not know."""
    return uvicorn.Config(
        app, http=Connection, lifespan="off", log_level="warning", server_header=False, access_log=False,
        timeout_keep_alive=20, timeout_graceful_shutdown=5, ws_max_size=1 << 16, ws_max_queue=4,
    )  # fmt: skip
