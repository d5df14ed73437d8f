"""A server in a thread of the test's process, on a free port, and a client of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2 as httpx

from atlas.server.app import make_app, running
from atlas.server.run import Listening, address, config, listen
from atlas.server.settings import Settings


@dataclass(frozen=True)
class Served:
    """One running server: its address, a client of it, the FastAPI application inside."""

    url: str  # http://127.0.0.1:PORT, without a slash at the end
    client: httpx.Client
    app: Any
    settings: Settings

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.url.rsplit(":", 1)[1])


@contextmanager
def serving(file: Path, **given: Any) -> Iterator[Served]:
    """A server in a thread of this process, as `atlas serve` runs it; `given`: fields of Settings."""
    settings = Settings(atlas=file, **{"port": 0, **given})
    guarded, app = make_app(settings)
    with running(app), listen(settings.host, settings.port) as listening:
        server = Listening(config(guarded), app.state.server)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        while not server.started and thread.is_alive():
            time.sleep(0.005)
        assert server.started, "the server did not start"
        url = address(listening).rstrip("/")
        try:
            with httpx.Client(base_url=url, timeout=60) as client:
                yield Served(url, client, app, settings)
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive(), "the server did not stop within 20 s"
