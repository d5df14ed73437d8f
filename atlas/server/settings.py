"""What a server is started with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

PORT = 5001


@dataclass(frozen=True)
class Settings:
    """One server: its atlas, its models, where it keeps what it makes, and its limits."""

    atlas: Path
    models: tuple[Path, ...] = ()  # folders that may be switched between; the first is current at the start
    data: Path | None = None  # jobs, tokens, exports, samples and prompts measured; None: FILE.server beside the atlas
    host: str = "127.0.0.1"
    port: int = PORT
    origins: tuple[str, ...] = ()  # of web pages that may ask (CORS); none by default
    rate: str | None = None  # requests of a token (without tokens: of an address), "600/minute"; None: no limit
    require_token: bool = False  # also on a loopback address
    max_body: int = 1 << 20  # bytes of a request
    body_seconds: float = 30.0  # that a request's body may take to come in
    max_rows: int = 10_000  # of one JSON answer; JSON lines, CSV and Arrow are streamed without a limit
    cache_size: int = 256 << 20  # bytes of answers kept
    sql_seconds: float = 30.0
    sql_memory: str = "2GiB"
    sql_workers: int = 2  # statements at a time
    max_bytes: int = 64 << 20  # of the rows of one JSON answer to SQL
    also: tuple[Path, ...] = ()  # atlases that may be compared with, besides those in the atlas's folder
    workers: int = 1  # processes of jobs
    memory: str = "4GiB"  # of the atlas's connection
    threads: int | None = None

    @property
    def folder(self) -> Path:
        """Where the server keeps what it makes."""
        return self.data or self.atlas.with_name(self.atlas.name + ".server")

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        return self.host in ("localhost", "::1") or self.host.startswith("127.")
