"""A real HTTP server that answers chat completions as a script tells it, and counts every request by its content."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Body = dict[str, Any]


@dataclass
class Play:
    """One response: its status, headers and content; `hang` waits so long before it is sent."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    content: str | bytes = ""  # of the message (a str) or the raw body (bytes)
    hang: float = 0.0
    refusal: str | None = None
    finish: str = "stop"


def good(body: Body) -> str:
    """An answer that fits the schema of the request, made from its content."""
    wanted = body["response_format"]["json_schema"]["schema"]["properties"]
    mark = content_key(body)[:8]
    return json.dumps({
        name: part["enum"][0] if "enum" in part else f"{name.replace('_', ' ')} {mark}"
        for name, part in wanted.items()
    })  # fmt: skip


def content_key(body: Body) -> str:
    """Hash of all that was posted."""
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


@dataclass
class Stub:
    """The server's address, its script and what it saw."""

    script: Callable[[Body, int], Play] = lambda body, seen: Play(
        content=good(body)
    )  # seen: earlier tries of this body
    asked: Counter[str] = field(default_factory=Counter)  # received, by content
    answered: Counter[str] = field(default_factory=Counter)  # sent back with status 200, by content
    bodies: dict[str, Body] = field(default_factory=dict)
    keys: list[str | None] = field(default_factory=list)  # Authorization headers
    times: list[float] = field(default_factory=list)
    order: list[str] = field(default_factory=list)  # last user message of each request, as received
    url: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def requests(self) -> int:
        """Requests in all."""
        return sum(self.asked.values())


@contextmanager
def serving(stub: Stub | None = None) -> Iterator[Stub]:
    """Serve on a free port of this machine."""
    stub = stub or Stub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            key = content_key(body)
            with stub.lock:
                seen = stub.asked[key]
                stub.asked[key] += 1
                stub.bodies[key] = body
                stub.keys.append(self.headers.get("Authorization"))
                stub.times.append(time.monotonic())
                stub.order.append(body["messages"][1]["content"])
            play = stub.script(body, seen)
            time.sleep(play.hang)
            try:
                self._send(play, body)
            except (BrokenPipeError, ConnectionResetError):
                return
            if play.status == 200:
                with stub.lock:
                    stub.answered[key] += 1

        def _send(self, play: Play, body: Body) -> None:
            raw = play.content if isinstance(play.content, bytes) else completion(play, body)
            self.send_response(play.status)
            for name, value in {"Content-Type": "application/json", **play.headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)
            self.wfile.flush()

        def log_message(self, *_: Any) -> None:
            return None

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    stub.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def completion(play: Play, body: Body) -> bytes:
    """The body of a response."""
    if play.status != 200:
        return json.dumps({"error": {"message": play.content or "no", "code": play.headers.get("x-code")}}).encode()
    message = {"role": "assistant", "content": None if play.refusal else play.content, "refusal": play.refusal}
    return json.dumps({
        "id": "1", "object": "chat.completion", "created": 0, "model": body["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": play.finish}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120},
    }).encode()  # fmt: skip
