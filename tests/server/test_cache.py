"""Kept answers: the same bytes, 304 for who has them, made anew for another file, in bounded memory."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from served import Served
from synthetic import random_tables, small_tables, write_atlas

from atlas.server.cache import _ENTRY, LARGEST, Cache

Start = Callable[..., Served]
CARD = "/api/v1/neurons/L1/N2"


class Made:
    """An ASGI application that counts what it makes: a body of `size` bytes, in pieces, that may be kept."""

    def __init__(self, size: int = 10, pieces: int = 1, *, keep: bool = True, status: int = 200) -> None:
        self.made, self.body, self.pieces, self.keep, self.status = 0, b"x" * size, pieces, keep, status

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.made += 1
        scope["state"]["keep"] = self.keep
        await send({"type": "http.response.start", "status": self.status, "headers": [(b"x", b"y")]})
        await asyncio.sleep(0)
        for _ in range(self.pieces):
            await send({"type": "http.response.body", "body": self.body, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


async def ask(cache: Cache, path: str = "/a", query: str = "", **headers: str) -> tuple[int, dict[str, str], bytes]:
    found: list[Any] = []

    async def send(message: Any) -> None:
        found.append(message)

    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": "GET", "path": path, "query_string": query.encode(), "headers": raw, "state": {}}
    await cache(scope, None, send)  # type: ignore[arg-type]
    told = {name.decode(): value.decode() for name, value in found[0]["headers"]}
    return found[0]["status"], told, b"".join(message.get("body", b"") for message in found[1:])


def test_an_answer_is_made_once_and_found_by_all_that_it_depends_on() -> None:
    made, fingerprint = Made(), ["one"]
    cache = Cache(made, lambda: fingerprint[0], 1 << 20)
    first = asyncio.run(ask(cache))
    assert asyncio.run(ask(cache)) == first and made.made == 1
    for other in ({"path": "/b"}, {"query": "k=1"}, {"accept": "text/csv"}):
        assert asyncio.run(ask(cache, **other))[1]["etag"] != first[1]["etag"]
    assert made.made == 4
    fingerprint[0] = "two"
    assert asyncio.run(ask(cache))[1]["etag"] != first[1]["etag"] and made.made == 5
    assert cache.held == len(first[2]) + _ENTRY, "what was kept of the old file is let go"


def test_who_has_the_answer_is_told_so_also_when_it_is_not_kept_here() -> None:
    for made in (Made(), Made(size=LARGEST + 1)):
        cache = Cache(made, lambda: "one", 8 << 20)
        tag = asyncio.run(ask(cache))[1]["etag"]
        for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
            status, headers, body = asyncio.run(ask(cache, if_none_match=known))
            assert (status, body) == (304, b"") and headers["etag"] == tag and "vary" in headers
        assert asyncio.run(ask(cache, if_none_match='"other"'))[0] == 200


def test_what_must_not_be_kept_is_not() -> None:
    for made in (Made(keep=False), Made(status=404), Made(size=LARGEST + 1), Made(size=LARGEST // 4, pieces=5)):
        cache = Cache(made, lambda: "one", 8 << 20)
        answers = [asyncio.run(ask(cache)) for _ in range(2)]
        assert made.made == 2 and cache.held == 0 and answers[0] == answers[1]
        assert len(answers[0][2]) == len(made.body) * made.pieces


def test_memory_is_bounded_with_the_entries_themselves_and_the_oldest_goes_first() -> None:
    made = Made(size=1)
    cache = Cache(made, lambda: "one", 100 * (_ENTRY + 1))
    for n in range(1000):
        asyncio.run(ask(cache, query=f"n={n}"))
    assert len(cache._kept) == 100 and cache.held == 100 * (_ENTRY + 1)
    asyncio.run(ask(cache, query="n=900"))  # used again: younger now than 901
    asyncio.run(ask(cache, query="n=new"))
    asyncio.run(ask(cache, query="n=900"))
    assert made.made == 1001
    asyncio.run(ask(cache, query="n=901"))
    assert made.made == 1002


def test_the_same_question_twice_at_once_is_counted_once() -> None:
    cache = Cache(Made(size=5), lambda: "one", 1 << 20)

    async def both() -> None:
        await asyncio.gather(*(ask(cache) for _ in range(5)))

    asyncio.run(both())
    assert cache.held == _ENTRY + 5 and len(cache._kept) == 1


def test_a_replaced_atlas_makes_kept_answers_old(start: Start, tmp_path: Path) -> None:
    served = start()
    first = served.client.get(CARD)
    again = served.client.get(CARD, headers={"if-none-match": first.headers["etag"]})
    assert again.status_code == 304 and again.content == b""
    tables = small_tables()
    tables["neurons"][10]["label"] = "another label"
    newer = write_atlas(tmp_path / "newer.duckdb", tables)
    os.replace(newer, served.settings.atlas)
    then = served.client.get(CARD, headers={"if-none-match": first.headers["etag"]})
    assert then.status_code == 200 and then.headers["etag"] != first.headers["etag"]
    assert then.json()["data"]["label"] == "another label" != first.json()["data"]["label"]


def test_answers_of_two_atlases_have_two_tags(start: Start, tmp_path: Path) -> None:
    one, two = start(), start(write_atlas(tmp_path / "drawn.duckdb", random_tables(1), layers=5, d_mlp=40))
    assert one.client.get(CARD).headers["etag"] != two.client.get(CARD).headers["etag"]
    copy = Path(shutil.copyfile(one.settings.atlas, tmp_path / "copy.duckdb"))
    assert start(copy).client.get(CARD).json() == one.client.get(CARD).json()
