"""What reaches an endpoint and what does not, over real sockets."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
import pytest
from served import Served
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from atlas.server import connection
from atlas.server.tokens import Tokens

Start = Callable[..., Served]
CARD = "/api/v1/neurons/L1/N2"
SAFE = ("x-content-type-options", "x-frame-options", "referrer-policy", "content-security-policy", "cache-control")


def talk(served: Served, sent: bytes, *, seconds: float = 10) -> tuple[int, dict[str, str], bytes]:
    """Bytes to the server -> status, headers and body of its answer, up to the end of the connection."""
    with socket.create_connection(("127.0.0.1", served.port), timeout=seconds) as wire:
        wire.sendall(sent)
        return answer(wire)


def answer(wire: socket.socket) -> tuple[int, dict[str, str], bytes]:
    got = b""
    while b"\r\n\r\n" not in got:
        if not (more := wire.recv(1 << 16)):
            break
        got += more
    head, _, body = got.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines[1:])
    while len(body) < int(headers.get("content-length", "0")):
        if not (more := wire.recv(1 << 16)):
            break
        body += more
    return int(lines[0].split()[1]), headers, body


def get(path: str = "/api/health", *headers: str, method: str = "GET") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", *(headers or ("Host: localhost",)), "", ""]
    return "\r\n".join(lines).encode()


def refused(response: Any, status: int) -> str:
    """The one shape of errors."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    found = response.json()
    assert set(found) == {"error", "details"} and found["error"]
    return str(found["error"])


# -- tokens ---------------------------------------------------------------------------------------------------------


def test_a_token_is_asked_for_once_there_is_one(start: Start) -> None:
    served = start()
    assert served.client.get(CARD).status_code == 200
    secret = Tokens(served.settings.folder).add("laptop")
    told = served.client.get(CARD)
    assert refused(told, 401) == "a token is needed" and told.headers["www-authenticate"] == "Bearer"
    assert served.client.get("/api/health").status_code == 200
    wrong = served.client.get(CARD, headers={"authorization": "Bearer atlas_wrong"})
    assert refused(wrong, 401) == "unknown token" and "invalid_token" in wrong.headers["www-authenticate"]
    for header in ("Basic YTpi", "Bearer", secret):
        refused(served.client.get(CARD, headers={"authorization": header}), 401)
    assert served.client.get(CARD, headers={"authorization": f"Bearer {secret}"}).status_code == 200
    assert served.client.get(f"{CARD}?token={secret}").status_code == 401, "addresses end up in logs"


def test_a_removed_token_is_refused_at_once_and_the_last_one_does_not_open_the_server(start: Start) -> None:
    served = start()
    tokens = Tokens(served.settings.folder)
    headers = {"authorization": f"Bearer {tokens.add('one')}"}
    assert served.client.get(CARD, headers=headers).status_code == 200
    tokens.remove("one")
    assert refused(served.client.get(CARD, headers=headers), 401) == "unknown token"
    assert refused(served.client.get(CARD), 401) == "a token is needed"


def test_an_unreadable_list_of_tokens_closes_the_server(start: Start) -> None:
    served = start()
    tokens = Tokens(served.settings.folder)
    tokens.add("one")
    tokens.file.write_text("{")
    told = served.client.get(CARD, headers={"authorization": "Bearer x"})
    assert "tokens cannot be read" in refused(told, 503) and str(tokens.file) not in told.text


def test_a_websocket_needs_a_token_too(start: Start) -> None:
    served = start()
    secret = Tokens(served.settings.folder).add("one")
    address = served.url.replace("http", "ws") + "/ws"
    for url in (address, f"{address}?token=wrong"):
        with pytest.raises(InvalidStatus) as told, connect(url):
            pass
        assert told.value.response.status_code == 401
        assert set(json.loads(told.value.response.body)) == {"error", "details"}
    with pytest.raises(InvalidStatus) as told, connect(f"{address}?token={secret}"):
        pass
    assert told.value.response.status_code not in (401, 429), "with a token it is the path that is unknown"


# -- rate -----------------------------------------------------------------------------------------------------------


def test_a_token_has_its_rate_and_retry_after_holds(start: Start) -> None:
    served = start(rate="3/second")
    tokens = Tokens(served.settings.folder)
    one, two = ({"authorization": f"Bearer {tokens.add(name)}"} for name in ("one", "two"))
    answers = [served.client.get(CARD, headers=one) for _ in range(6)]
    late = [told for told in answers if told.status_code != 200]
    assert len(late) >= 2 and "3 per 1 second" in refused(late[-1], 429)
    assert served.client.get(CARD, headers=two).status_code == 200, "the rate is a token's, not the server's"
    time.sleep(int(late[-1].headers["retry-after"]))
    assert served.client.get(CARD, headers=one).status_code == 200


def test_a_rate_that_cannot_be_read_is_refused_at_the_start(start: Start) -> None:
    with pytest.raises(Exception, match="600/minute"):
        start(rate="often")


# -- bodies ---------------------------------------------------------------------------------------------------------


def test_a_large_body_is_refused_before_it_is_sent(small_server: Served) -> None:
    head = get("/api/v1/search", "Host: localhost", "Content-Length: 100000000", method="POST")
    status, headers, body = talk(small_server, head)
    assert status == 413 and headers["connection"] == "close" and b"1,048,576 bytes" in body


def test_a_hundred_megabytes_in_chunks_are_refused_early_in_flat_memory(small_server: Served) -> None:
    before = psutil.Process().memory_info().rss
    sent, chunk = 0, b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    head = get("/api/v1/search", "Host: localhost", "Transfer-Encoding: chunked", method="POST")
    with socket.create_connection(("127.0.0.1", small_server.port), timeout=10) as wire:
        wire.sendall(head)
        try:
            while sent < 100 << 20:
                wire.sendall(chunk)
                sent += 0x10000
        except OSError:  # the server has closed the connection
            pass
    assert sent < 16 << 20, "it went on to read"
    assert psutil.Process().memory_info().rss - before < 30 << 20
    assert small_server.client.get("/api/health").status_code == 200


def test_a_client_that_sends_a_large_body_reads_the_refusal(small_server: Served) -> None:
    told = small_server.client.post("/api/v1/search", content=b"x" * (3 << 20))
    assert "larger than" in refused(told, 413)


def test_a_body_that_does_not_come_in_is_given_up(start: Start) -> None:
    served = start(body_seconds=0.3)
    head = get("/api/v1/search", "Host: localhost", "Content-Length: 100", method="POST")
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as wire:
        wire.sendall(head + b"{")
        status, headers, body = answer(wire)
    assert status == 408 and headers["connection"] == "close" and b"did not come in within 0.3 s" in body


# -- heads and slow clients -----------------------------------------------------------------------------------------


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds of patience become tenths."""
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.4)
    monkeypatch.setattr(connection, "STILL_SECONDS", 0.4)


@pytest.mark.parametrize("sent", [b"", b"\r\n", b"GET /api/health HTTP/1.1\r\nHost: local", get() + b"GET /api"])
def test_a_head_that_does_not_end_is_given_up(start: Start, hasty: None, sent: bytes) -> None:
    served = start()
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as wire:
        wire.sendall(sent)
        assert served.client.get("/api/health").status_code == 200, "others are served meanwhile"
        if sent.startswith(get()):
            assert answer(wire)[0] == 200
        status, _, body = answer(wire)
        assert status == 408 and set(json.loads(body)) == {"error", "details"}
        assert wire.recv(1) == b"", "and the connection is closed"


def test_a_head_sent_a_byte_at_a_time_is_given_up(start: Start, hasty: None) -> None:
    served = start()
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as wire, pytest.raises(OSError):
        for byte in get("/api/health", "Host: localhost", "X-Long: " + "x" * 400):
            wire.sendall(bytes([byte]))
            time.sleep(0.01)
        raise AssertionError("it waited for all of it")


@pytest.mark.parametrize(
    "head",
    [
        get("/api/health?" + "x" * 70_000),
        get("/api/health", "Host: localhost", *(f"X-{n}: {'y' * 1000}" for n in range(70))),
        b"GET /api/health HTTP/1.1\r\nHost: localhost\r\nX-Endless: " + b"z" * (2 << 20),
    ],
    ids=["address", "headers", "one header"],
)
def test_a_large_head_is_refused(small_server: Served, head: bytes) -> None:
    before = psutil.Process().memory_info().rss
    with socket.create_connection(("127.0.0.1", small_server.port), timeout=10) as wire:
        try:
            wire.sendall(head)
        except OSError:  # closed before all was sent
            return
        try:
            status, _, body = answer(wire)
        except ConnectionResetError:
            return
    assert status == 431 and b"65,536 bytes" in body
    assert psutil.Process().memory_info().rss - before < 20 << 20


def test_what_is_no_http_is_told_so(small_server: Served) -> None:
    status, headers, body = talk(small_server, b"\x16\x03\x01 hello\r\n\r\n")
    assert status == 400 and json.loads(body)["error"] == "this is no HTTP request"
    assert headers["x-content-type-options"] == "nosniff"


def test_both_lengths_at_once_are_refused(small_server: Served) -> None:
    both = get("/api/health", "Host: localhost", "Content-Length: 4", "Transfer-Encoding: chunked", method="POST")
    status, _, _ = talk(small_server, both + b"0\r\n\r\nGET /secret HTTP/1.1\r\n\r\n")
    assert status == 400


def test_who_does_not_take_a_large_answer_is_let_go_and_others_are_served(start: Start, hasty: None) -> None:
    served = start()

    @served.app.get("/large")
    def large() -> Any:
        from starlette.responses import Response

        return Response(b"x" * (20 << 20))

    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as wire:
        wire.sendall(get("/large"))
        for _ in range(5):
            assert served.client.get("/api/health").status_code == 200
            time.sleep(0.3)
        got = 0
        try:
            while more := wire.recv(1 << 20):
                got += len(more)
        except ConnectionResetError:
            pass
    assert got < 20 << 20, "the server kept 20 MB for a client that had gone to sleep"


def test_a_request_that_is_cancelled_leaves_the_server_well(small_server: Served) -> None:
    for sent in (get(CARD), get("/api/v1/search", "Host: localhost", "Content-Length: 9", method="POST") + b"{"):
        for _ in range(20):
            with socket.create_connection(("127.0.0.1", small_server.port), timeout=10) as wire:
                wire.sendall(sent)
    assert small_server.client.get(CARD).status_code == 200


def test_too_many_requests_at_once_are_told_to_come_back(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atlas.server.guard.MOST", 2)
    served = start()
    held = threading.Event()

    @served.app.get("/slow")
    def slow() -> dict[str, bool]:
        return {"waited": held.wait(10)}

    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(served.client.get, "/slow") for _ in range(2)]
        time.sleep(0.3)
        told = served.client.get(CARD)
        held.set()
        assert [one.result().status_code for one in waiting] == [200, 200]
    assert "too many" in refused(told, 503) and told.headers["retry-after"] == "1"
    assert served.client.get(CARD).status_code == 200


# -- pages ----------------------------------------------------------------------------------------------------------


def test_hosts_and_pages_that_are_not_this_servers_are_refused(small_server: Served) -> None:
    port = small_server.port
    for host in ("evil.example", f"evil.example:{port}", "[evil]", "localhost.evil.example", ""):
        assert "is not this server's" in refused(small_server.client.get(CARD, headers={"host": host}), 403), host
    for host in (f"LOCALHOST:{port}", "localhost", f"[::1]:{port}"):
        assert small_server.client.get(CARD, headers={"host": host}).status_code == 200, host
    for origin in ("https://evil.example", "null", f"https://127.0.0.1:{port}.evil.example"):
        told = small_server.client.get(CARD, headers={"origin": origin})
        assert "may not ask" in refused(told, 403) and "access-control-allow-origin" not in told.headers
    own = small_server.client.get(CARD, headers={"origin": small_server.url})
    assert own.status_code == 200 and "access-control-allow-origin" not in own.headers


def test_a_page_that_was_allowed_may_ask_and_read_errors(start: Start) -> None:
    origin = "https://page.example"
    served = start(origins=(origin,), require_token=True)
    secret = Tokens(served.settings.folder).add("one")
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    told = served.client.options(CARD, headers={"origin": origin, **asked})
    assert told.status_code == 204 and told.headers["access-control-allow-origin"] == origin
    assert "authorization" in told.headers["access-control-allow-headers"]
    for headers, status in (({}, 401), ({"authorization": f"Bearer {secret}"}, 200)):
        for _ in range(2):  # made, and from the cache
            answer = served.client.get(CARD, headers={"origin": origin, **headers})
            assert answer.status_code == status and answer.headers["access-control-allow-origin"] == origin
            assert "origin" in answer.headers["vary"].lower()
    plain = served.client.get(CARD, headers={"authorization": f"Bearer {secret}"})
    assert "access-control-allow-origin" not in plain.headers, "the cache keeps no header of one page"
    refused(served.client.options(CARD, headers={"origin": "https://other.example", **asked}), 403)


@pytest.mark.parametrize("origin", ["https://page.example/", "page.example", "https://a b"])
def test_an_origin_that_would_never_match_is_refused_at_the_start(start: Start, origin: str) -> None:
    with pytest.raises(Exception, match="names no origin"):
        start(origins=(origin,))


def test_every_answer_has_safe_headers(start: Start) -> None:
    served = start()

    @served.app.get("/breaks")
    def breaks() -> None:
        raise ZeroDivisionError("a secret of the server")

    client, tag = served.client, served.client.get(CARD).headers["etag"]
    answers = {
        200: client.get(CARD), 304: client.get(CARD, headers={"if-none-match": tag}), 404: client.get("/nothing"),
        405: client.delete(CARD), 403: client.get(CARD, headers={"host": "a"}),
        204: client.options(CARD), 500: client.get("/breaks"),
    }  # fmt: skip
    for status, told in answers.items():
        assert told.status_code == status, told.text
        assert all(name in told.headers for name in SAFE), (status, told.headers)
        assert "server" not in told.headers
    assert refused(answers[500], 500) == "internal error" and "secret" not in answers[500].text
    assert "Traceback" not in answers[500].text


# -- methods and paths ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [CARD, "/api/health", "/nothing", "/api/v1/neurons/L99/N1", "/openapi.json"])
def test_head_answers_as_get_without_the_body(small_server: Served, path: str) -> None:
    for _ in range(2):
        told, whole = small_server.client.head(path), small_server.client.get(path)
        assert told.status_code == whole.status_code and told.content == b""
        for name in ("content-length", "content-type", "etag"):
            assert told.headers.get(name) == whole.headers.get(name)


def test_options_names_the_methods(small_server: Served) -> None:
    told = small_server.client.options(CARD)
    assert told.status_code == 204 and told.headers["allow"] == "GET, HEAD, OPTIONS"
    wrong = small_server.client.put(CARD)
    assert "does not take PUT" in refused(wrong, 405) and wrong.headers["allow"] == "GET, HEAD, OPTIONS"


PASSWORDS = ("../../../../etc/passwd", "..%2f..%2f..%2f..%2fetc%2fpasswd", "%2e%2e/%2e%2e/%2e%2e/etc/passwd",
             "....//....//etc/passwd", "..%5c..%5cetc%5cpasswd", "%252e%252e%252fetc%252fpasswd", "/etc/passwd",
             "..%00/etc/passwd", "%c0%ae%c0%ae/etc/passwd", "C:%5cwindows")  # fmt: skip


def test_no_path_leads_out_of_the_folder(demo_server: Served) -> None:
    """Every endpoint with a name in its path, over raw sockets: clients would tidy the address up."""
    paths = {route.path for route in demo_server.app.routes if "{" in route.path and route.path.startswith("/api")}
    assert paths
    for path in paths:
        for attempt in PASSWORDS:
            before, _, rest = path.partition("{")
            status, headers, body = talk(demo_server, get(before + attempt + rest.partition("}")[2]), seconds=30)
            assert status in (400, 404, 405), (path, attempt, status)
            assert b"root:" not in body and headers["content-type"] == "application/json"
            assert b"/home" not in body and b"Traceback" not in body
