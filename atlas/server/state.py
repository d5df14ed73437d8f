"""What the endpoints share: the atlas, the settings, the jobs."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from atlas.server.held import HeldAtlas
from atlas.server.models import Models
from atlas.server.settings import Settings
from atlas.server.tokens import Tokens

if TYPE_CHECKING:
    from atlas.server.jobs.queue import Jobs
    from atlas.server.sandbox.pool import Sandbox


@dataclass
class Server:
    """One running server."""

    settings: Settings
    held: HeldAtlas
    tokens: Tokens
    jobs: Jobs | None = None
    models: Models = field(default_factory=lambda: Models({}, None))
    sandbox: Sandbox | None = None  # while it runs
    comparing: threading.Semaphore = field(default_factory=threading.Semaphore)  # one comparison of atlases at a time
