"""Every route the server has, whoever wrote it: what is asked wrongly is told in one shape, with a status that fits."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.routing import APIRoute
from served import Served, serving
from synthetic import small_tables, write_atlas

NAMES = ("does-not-exist", "L99%2FN1", "-1", "%00", "%ff", "x" * 3000, "L1N1;x", "*", "%F0%9F%90%95")
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "TRACE")
LARGE = ("999999999999999999999999", "-999999999999999999999999", "9223372036854775808", "1e999", "NaN")
TEXTS = ("", " ", "\x00", "'; DROP TABLE neurons; --", "%", "é" * 300, "🐕", "x" * 20_000, "..", "null", "[]", "{}")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server of its own, without a model: what is started by a request asked wrongly disturbs nobody."""
    file = write_atlas(tmp_path_factory.mktemp("walk") / "small.duckdb", small_tables())
    with serving(file) as served:
        yield served


@pytest.fixture(scope="module")
def known(served: Served) -> dict[str, Any]:
    """The OpenAPI document's paths."""
    return dict(served.client.get("/openapi.json").json()["paths"])


@pytest.fixture
def faults() -> Iterator[list[str]]:
    """What went wrong on the walk; none at the end."""
    found: list[str] = []
    yield found
    assert not found, "\n".join(found)


def routes(served: Served) -> list[APIRoute]:
    found = [route for route in served.app.routes if isinstance(route, APIRoute)]
    assert len(found) > 50
    return found


def filled(path: str, value: str) -> str:
    return re.sub(r"{[^}]*}", value, path)


def look(response: Any, fits: Callable[[int], bool]) -> str | None:
    """What is wrong with an answer."""
    status = response.status_code
    if not fits(status):
        return f"status {status}: {response.text[:200]}"
    if status < 400:
        return None
    if response.headers["content-type"] != "application/json" or "cache-control" not in response.headers:
        return f"headers of {status}: {dict(response.headers)}"
    body = response.json()
    if set(body) != {"error", "details"} or not isinstance(body["error"], str) or not body["error"]:
        return f"shape of {status}: {response.text[:200]}"
    if re.search(r"Traceback|File \"|/tmp/|/home/|duckdb\.\w+Exception|object at 0x", response.text):
        return f"tells too much: {response.text[:300]}"
    return None


def walk(faults: list[str], served: Served, method: str, path: str, fits: Callable[[int], bool], **sent: Any) -> None:
    response = served.client.request(method, path, **sent)
    if wrong := look(response, fits):
        faults.append(f"{method} {path[:120]} {str(sent)[:120]}: {wrong}")


def below_500(status: int) -> bool:
    return status < 500 or status == 503


def test_wrong_methods(served: Served, faults: list[str]) -> None:
    for path in sorted({filled(route.path, "1") for route in routes(served)}):
        fitting = [route for route in routes(served) if route.path_regex.match(path)]
        for method in set(METHODS) - {method for route in fitting for method in route.methods}:
            walk(faults, served, method, path, (405).__eq__)


def test_unknown_paths(served: Served, faults: list[str]) -> None:
    for route in routes(served):
        walk(faults, served, "GET", filled(route.path, "1") + "/nothing/at/all", (404).__eq__)
    for path in (
        "/api",
        "/api/v2/health",
        "/api/v1/",
        "/api//health",
        "/static/x",
        "/favicon.ico",
        "/.git/config",
    ):
        walk(faults, served, "GET", path, (404).__eq__)


@pytest.mark.parametrize(
    "name", ["does-not-exist", "L99%2FN1", "-1", "%00", "%ff", "x" * 3000, "L1N1;x", "*", "%F0%9F%90%95"]
)
def test_unknown_names_in_the_path(served: Served, faults: list[str], name: str) -> None:
    for route in routes(served):
        if "{" not in route.path or "GET" not in route.methods:
            continue
        walk(faults, served, "GET", filled(route.path, name), lambda status: status in (400, 404, 409))


def test_queries_of_the_wrong_type(served: Served, known: dict[str, Any], faults: list[str]) -> None:
    tried = 0
    for path, operations in known.items():
        for parameter in operations.get("get", {}).get("parameters", ()):
            schema = parameter["schema"]
            kinds = {schema.get("type"), *(one.get("type") for one in schema.get("anyOf", ()))}
            if parameter["in"] == "query" and kinds & {"integer", "number", "boolean"} and "string" not in kinds:
                name = {parameter["name"]: "wrong"}
                fits = {400, 404} if "{" in path else {400}
                walk(faults, served, "GET", filled(path, "none"), fits.__contains__, params=name)
                tried += 1
    assert tried > 50


@pytest.mark.parametrize("value", [*LARGE, *TEXTS], ids=range(len(LARGE) + len(TEXTS)))
def test_queries_out_of_bounds(served: Served, known: dict[str, Any], faults: list[str], value: str) -> None:
    for path, operations in known.items():
        asked = operations.get("get", {}).get("parameters", ())
        for parameter in asked:
            if parameter["in"] != "query":
                continue
            needed = {one["name"]: _example(one) for one in asked if one.get("required") and one["in"] == "query"}
            params = needed | {parameter["name"]: value}
            walk(faults, served, "GET", filled(path, "L1%2FN2"), below_500, params=params)


BODIES: dict[str, tuple[bytes, str, set[int]]] = {
    "empty": (b"", "application/json", {400, 404, 409, 200, 202}),
    "nothing at all": (b"", "", {400, 404, 409, 415, 200, 202}),
    "garbage": (b"{\x00\xff", "application/json", {400}),
    "half": (b'{"selection": ', "application/json", {400}),
    "list": (b"[1, 2]", "application/json", {400}),
    "text": (b'"neuron"', "application/json", {400}),
    "number": (b"7", "application/json", {400}),
    "deep": (b"[" * 100_000, "application/json", {400}),
    "plain": (b"selection=L1/N2", "text/plain", {415}),
    "form": (b"a=1&b=2", "application/x-www-form-urlencoded", {415}),
    "xml": (b"<a/>", "application/xml", {415}),
}


@pytest.mark.parametrize("name", BODIES)
def test_bodies_that_are_none(served: Served, faults: list[str], name: str) -> None:
    content, kind, statuses = BODIES[name]
    for route in routes(served):
        if "POST" in route.methods and route.body_field is not None:
            path = filled(route.path, "neuron_card" if "macros" in route.path else "does-not-exist")
            fits = statuses | ({404} if "{" in path else set())
            headers = {"content-type": kind} if kind else {}
            walk(faults, served, "POST", path, fits.__contains__, content=content, headers=headers)


def test_fields_of_the_wrong_type(served: Served, known: dict[str, Any], faults: list[str]) -> None:
    """Each field in turn is given what its type does not allow, a list of a list of an object."""
    schemas, tried = served.app.openapi()["components"]["schemas"], 0
    for path, operations in known.items():
        body = operations.get("post", {}).get("requestBody", {}).get("content", {}).get("application/json")
        if body is None or "$ref" not in body["schema"]:
            continue
        for field, schema in schemas[body["schema"]["$ref"].rsplit("/", 1)[1]].get("properties", {}).items():
            if schema.get("type") or schema.get("anyOf"):
                sent = {field: [[{"a": [1]}]]}
                fits = {400, 404}.__contains__ if "{" in path else (400).__eq__
                walk(faults, served, "POST", filled(path, "neuron_card"), fits, json=sent)
                tried += 1
    assert tried > 50


def _example(parameter: dict[str, Any]) -> Any:
    given = parameter.get("examples") or parameter["schema"].get("examples") or [1]
    return next(iter(given.values()))["value"] if isinstance(given, dict) else given[0]


def test_the_walk_sees_what_is_wrong(tmp_path: Path) -> None:
    """An endpoint that breaks, and one that answers in another shape, are found."""
    file = write_atlas(tmp_path / "small.duckdb", small_tables())
    with serving(file) as served:

        @served.app.get("/odd")
        def odd() -> Any:
            from starlette.responses import JSONResponse

            return JSONResponse({"oops": 1}, 400)

        found: list[str] = []
        walk(found, served, "GET", "/odd", below_500)
        walk(found, served, "GET", "/api/health", lambda status: status == 400)
    assert "shape of 400" in found[0] and "status 200" in found[1]
