"""What the endpoints share: the atlas, the settings, the jobs."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from atlas.server.errors import Refusal
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
    alone: threading.Semaphore = field(default_factory=threading.Semaphore)  # one long question at a time

    def go_alone(self, stack: ExitStack) -> None:
        """Until the stack is closed nobody else asks a question that takes seconds of work; Refusal 503 if one does."""
        if not self.alone.acquire(blocking=False):
            raise Refusal(503, "a long question is running", details="ask again later", headers={"retry-after": "10"})
        stack.callback(self.alone.release)
