"""Speed of `atlas serve` against a bare FastAPI endpoint that returns a constant of the same size.

Three questions (card of a neuron, search, edges), each asked over 1 and over 32 connections: `repeated`, addresses of a
working set, which the server answers from its cache, and `fresh`, every address once. The load comes from this process,
plain asyncio on loopback; the server is `atlas serve`, the bare one the same uvicorn with one endpoint. `noise` is the
ratio of two p50 of the bare one in the same run. With --minutes, memory (RSS) under mixed load, of which a third fresh.

    python scripts/bench/http.py ATLAS... [--quick] [--minutes 10]

The bare server is started with -P: this file's name is that of a module of the standard library.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import quote

import psutil

import atlas

WORKING_SET = 16
CONNECTIONS = (1, 32)


@dataclass(frozen=True)
class Measured:
    """One load."""

    requests_per_s: float
    p50_ms: float
    p99_ms: float
    requests: int


@dataclass(frozen=True)
class Load:
    """What is asked, by how many, for how long."""

    port: int
    paths: Iterator[str]
    connections: int
    seconds: float


async def _client(load: Load, until: float, took: list[float]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", load.port)
    for path in load.paths:
        begun = time.perf_counter()
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise SystemExit(f"{path}: {head.splitlines()[0].decode()}")
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        await reader.readexactly(int(length.split(b":")[1]))
        now = time.perf_counter()
        took.append(now - begun)
        if now > until:
            break
    writer.close()


def measured(load: Load) -> Measured:
    """Ask until the time is over, or every path was asked for."""

    async def run() -> Measured:
        took: list[float] = []
        begun = time.perf_counter()
        await asyncio.gather(*(_client(load, begun + load.seconds, took) for _ in range(load.connections)))
        elapsed = time.perf_counter() - begun
        cuts = statistics.quantiles(took, n=100) if len(took) > 1 else took * 99
        return Measured(round(len(took) / elapsed, 1), _ms(cuts[49]), _ms(cuts[98]), len(took))

    return asyncio.run(run())


def size_of(port: int, path: str) -> int:
    """Bytes of an answer's body."""

    async def ask() -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        answer = await reader.read()
        writer.close()
        return len(answer.partition(b"\r\n\r\n")[2])

    return asyncio.run(ask())


def questions(file: Path) -> dict[str, list[str]]:
    """Addresses of each question, shuffled: all neurons (at most 50,000), words of labels, sources of edges."""
    dice = random.Random(1)
    with atlas.open(file) as opened:
        ids = [f"{n // opened.d_mlp}:{n % opened.d_mlp}" for n in range(opened.layers * opened.d_mlp)]
        labels = opened.sql(
            "SELECT DISTINCT label FROM neurons WHERE label IS NOT NULL ORDER BY 1 LIMIT 20000"
        ).fetchall()
    chosen = dice.sample(ids, min(len(ids), 50_000))
    words = sorted({word for (label,) in labels for word in str(label).split() if word.isalnum()})
    pairs = [f"{one} {two}" for one, two in itertools.product(words[:200], words[-200:])] if words else ["dog"]
    dice.shuffle(pairs)
    return {
        "card": [f"/api/v1/neurons/{one}" for one in chosen],
        "search": [f"/api/v1/search?query={quote(one)}&limit=20" for one in pairs],
        "edges": [f"/api/v1/edges?from={one}&limit=20" for one in chosen],
    }


@contextmanager
def server(*command: str) -> Iterator[tuple[int, psutil.Process]]:
    """A process that prints its address first, and where it listens."""
    with subprocess.Popen([sys.executable, *command], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = process.stderr.readline()
        if not said.startswith("http://"):
            raise SystemExit(said + process.stderr.read())
        try:
            yield int(said.split()[0].rstrip("/").rsplit(":", 1)[1]), psutil.Process(process.pid)
        finally:
            process.terminate()


def bare(size: int) -> None:
    """The baseline: an endpoint that returns a constant, in uvicorn as `atlas serve` runs it."""
    import uvicorn
    from fastapi import FastAPI
    from starlette.responses import Response

    from atlas.server.run import address, config, listen

    app, body = FastAPI(), b"x" * size

    @app.get("/{rest:path}")
    async def constant() -> Response:
        return Response(body, media_type="application/json")

    with listen("127.0.0.1", 0) as listening:
        listening.listen()
        print(address(listening), file=sys.stderr, flush=True)
        uvicorn.Server(config(app)).run(sockets=[listening])


def compared(file: Path, seconds: float) -> dict[str, object]:
    """All questions of one atlas, each beside a constant of its size."""
    found: dict[str, object] = {"bytes": file.stat().st_size}
    with server("-m", "atlas", "serve", "--atlas", str(file), "--port", "0") as (port, _):
        for name, paths in questions(file).items():
            unasked = iter(paths[WORKING_SET:])
            size = size_of(port, paths[0])
            told: dict[str, object] = {"answer_bytes": size}
            for path in paths[:WORKING_SET]:
                size_of(port, path)
            with server("-P", __file__, "--bare", str(size)) as (plain, _):
                for n in CONNECTIONS:
                    base = [measured(Load(plain, itertools.repeat("/"), n, seconds)) for _ in range(2)]
                    again = measured(Load(port, itertools.cycle(paths[:WORKING_SET]), n, seconds))
                    fresh = measured(Load(port, unasked, n, seconds))
                    told[f"connections_{n}"] = _row(base, again, fresh)
                    _show(file.stem, name, n, told[f"connections_{n}"])
            found[name] = told
    return found


def _row(base: list[Measured], again: Measured, fresh: Measured) -> dict[str, object]:
    return {
        "bare": asdict(base[0]),
        "repeated": asdict(again),
        "fresh": asdict(fresh),
        "noise": round(base[1].p50_ms / base[0].p50_ms, 2),
        "repeated_p50_over_bare_ms": round(again.p50_ms - base[0].p50_ms, 2),
        "fresh_p50_over_bare_ms": round(fresh.p50_ms - base[0].p50_ms, 2),
    }


def _show(stem: str, name: str, n: int, row: object) -> None:
    assert isinstance(row, dict)
    for kind in ("bare", "repeated", "fresh"):
        one = row[kind]
        speed = f"{one['requests_per_s']:>9,.0f}/s  p50 {one['p50_ms']:>8.2f} ms  p99 {one['p99_ms']:>8.2f} ms"
        print(f"{stem:<10} {name:<7} {n:>2} connections  {kind:<9} {speed}")


def memory(file: Path, minutes: float) -> dict[str, object]:
    """RSS of the server in MiB under mixed load, at ten points in time; flat when the last is near the third."""
    with server("-m", "atlas", "serve", "--atlas", str(file), "--port", "0") as (port, process):
        asked = questions(file)
        mixed = itertools.chain.from_iterable(
            zip(itertools.cycle(asked["card"]), itertools.cycle(asked["search"][:WORKING_SET]),
                itertools.cycle(asked["edges"][:WORKING_SET]), strict=False)
        )  # fmt: skip
        seen, total = [_rss(process)], 0
        for _ in range(10):
            total += measured(Load(port, mixed, 8, minutes * 6)).requests
            seen.append(_rss(process))
    return {"minutes": minutes, "requests": total, "rss_mib": seen, "last_over_third": round(seen[-1] / seen[3], 3)}


def _rss(process: psutil.Process) -> float:
    return round(process.memory_info().rss / 2**20, 1)


def _ms(seconds: float) -> float:
    return round(seconds * 1e3, 3)


def main() -> None:
    """Measure, print lines and one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("atlases", nargs="*", type=Path, default=[Path("data/demo.duckdb")])
    parser.add_argument("--quick", action="store_true", help="under 50 s")
    parser.add_argument(
        "--minutes", type=float, default=0.0, help="of the memory part, on the last atlas; 10 for the record"
    )
    parser.add_argument("--bare", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.bare is not None:
        bare(given.bare)
        return
    seconds = 0.6 if given.quick else 3.0
    found = {file.stem: compared(file, seconds) for file in given.atlases}
    first = found[given.atlases[0].stem]["card"]
    assert isinstance(first, dict)
    one, many = (first[f"connections_{n}"] for n in CONNECTIONS)
    told = {
        "p50_ms": one["repeated"]["p50_ms"], "p99_ms": many["repeated"]["p99_ms"],
        "requests_per_s": many["repeated"]["requests_per_s"], "bare": one["bare"], "noise": one["noise"],
        "p50_over_bare_ms": one["repeated_p50_over_bare_ms"], "fresh_p50_over_bare_ms": one["fresh_p50_over_bare_ms"],
        "atlases": found,
    }  # fmt: skip
    if given.minutes:
        told["memory"] = memory(given.atlases[-1], given.minutes)
    print(json.dumps(told))


if __name__ == "__main__":
    main()
