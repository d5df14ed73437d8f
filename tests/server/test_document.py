"""The OpenAPI document is complete, and every client call that is printed from it works on the demo atlas."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from served import Served, serving

from atlas.server.document import ADDRESS, JOB, calls, client_calls, curl, endpoint_table, page

ROOT = Path(__file__).parents[2]
SENT = ("-H", "-d", "-X")


@pytest.fixture(scope="module")
def document(demo_server: Served) -> dict[str, Any]:
    return dict(demo_server.client.get("/openapi.json").json())


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method} {path}", operation


def test_every_endpoint_is_described(document: dict[str, Any]) -> None:
    missing = []
    for name, operation in operations(document):
        missing += [f"{name}: no {part}" for part in ("summary", "description", "tags") if not operation.get(part)]
        for parameter in operation.get("parameters", ()):
            told = parameter.get("description") or ""
            missing += [f"{name}: {parameter['name']} is not described"] if len(told) < 5 else []
        for status, response in operation["responses"].items():
            content = response.get("content", {})
            shape = content.get("application/json", {}).get("schema", {}).get("$ref")
            if (status == "default" or status >= "400") and shape != "#/components/schemas/Failure":
                missing.append(f"{name}: {status} has another shape")
        missing += [] if {"400", "401", "default"} <= set(operation["responses"]) else [f"{name}: failures"]
        if "requestBody" in operation and "example" not in operation["requestBody"]["content"]["application/json"]:
            missing.append(f"{name}: no example of a body")
    assert not missing, "\n".join(missing)
    names = [operation["operationId"] for _, operation in operations(document)]
    assert len(names) == len(set(names))


def test_the_token_is_in_the_document(document: dict[str, Any]) -> None:
    assert document["components"]["securitySchemes"]["token"]["scheme"] == "bearer"
    assert {"token": []} in document["security"] and document["openapi"].startswith("3.1")


def parsed(command: str) -> tuple[str, str, dict[str, str], bytes | None]:
    """A curl command -> method, target, headers, body."""
    words = shlex.split(command)
    assert words[:3] == ["curl", "--fail-with-body", "-sS"]
    address = words[-1]
    assert address.startswith(ADDRESS)
    given = dict(zip(words[3:-1:2], words[4:-1:2], strict=True))
    assert set(given) <= set(SENT)
    name, _, value = given.get("-H", "").partition(": ")
    body = given["-d"].encode() if "-d" in given else None
    method = given.get("-X", "POST" if body is not None else "GET")
    return method, address.removeprefix(ADDRESS), {name: value} if name else {}, body


@pytest.fixture(scope="module")
def made(demo_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, str]]:
    """A server with the files that the examples name and a finished export, whose id is the job's too."""
    file = Path(shutil.copyfile(demo_file, tmp_path_factory.mktemp("document") / "demo.duckdb"))
    with serving(file, models=(ROOT / "data" / "demo" / "model",)) as served:
        by_name = {(call.method, call.path): call for call in calls(served.client.get("/openapi.json").json())}
        asked = {"prompt": "Hello world", "top": 5}
        answer = served.client.post("/api/v1/activations/generate?wait=60", json=asked)
        assert answer.status_code == 200, answer.text
        for folder in ("queries", "clusters"):
            (served.settings.folder / folder).mkdir(exist_ok=True)
            (served.settings.folder / folder / "hello_world.json").write_text("[]")
        export = by_name["POST", "/api/v1/neuronpedia/export"]
        answer = served.client.post(export.path + "?wait=60", json=export.body)
        assert answer.status_code == 200, answer.text
        yield served, str(answer.json()["data"]["id"])


def test_every_printed_call_works(made: tuple[Served, str]) -> None:
    served, export = made
    text = client_calls(served.client.get("/openapi.json").json())
    commands = [line for line in text.splitlines() if line.startswith("curl ")]
    assert len(commands) > 80
    failed = []
    for command in sorted(commands, key=lambda one: ("/cancel" in one) + 2 * ("/resume" in one)):
        method, target, headers, body = parsed(command.replace("JOB", export))
        answer = served.client.request(method, target, headers=headers, content=body, timeout=60)
        if "/resume" in command:  # of a job that is done
            assert answer.status_code == 409, answer.text
        elif not 200 <= answer.status_code < 300:
            failed.append(f"{answer.status_code} {command[:200]} {answer.text[:200]}")
    assert not failed, "\n".join(failed)


def test_the_bare_calls_work_too(made: tuple[Served, str]) -> None:
    served, export = made
    failed, tried = [], 0
    for call in calls(served.client.get("/openapi.json").json()):
        if not call.path.startswith("/api/v1"):
            method, target, headers, body = parsed(curl(call).replace(JOB, export))
            answer = served.client.request(method, target, headers=headers, content=body, timeout=60)
            tried += 1
            if not 200 <= answer.status_code < 300:
                failed.append(f"{answer.status_code} {method} {target} {answer.text[:200]}")
    assert tried > 20 and not failed, "\n".join(failed)


def test_the_table_lists_every_path_once(document: dict[str, Any]) -> None:
    rows = endpoint_table(document).splitlines()[2:]
    listed = re.findall(r"^\| `[A-Z, ]+ (\S+)` \|", "\n".join(rows), re.MULTILINE)
    assert sorted(listed) == sorted(path for path in document["paths"] if path.startswith("/api/v1"))
    bare = {path for path in document["paths"] if not path.startswith("/api/v1")}
    assert bare == {name for row in rows for name in re.findall(r"`(/api/(?!v1)\S+)`", row)}
    assert all(row.count("|") == 4 and not row.endswith("| . |") for row in rows)


class Page(HTMLParser):
    """Elements of the page and where its links lead."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value or "" for name, value in attrs if name == "href"]


def test_the_page_lists_the_endpoints_without_scripts(demo_server: Served, document: dict[str, Any]) -> None:
    told = demo_server.client.get("/")
    assert told.status_code == 200 and told.headers["content-type"].startswith("text/html")
    found = Page()
    found.feed(told.text)
    assert not found.tags & {"script", "img", "link", "iframe", "form"} and told.text == page(document)
    gets = sum("get" in methods for path, methods in document["paths"].items() if path.startswith("/api/v1"))
    assert len(found.links) == gets + 1
    for link in (one for one in found.links if JOB not in one and "hello_world" not in one):
        assert demo_server.client.get(link).status_code == 200, link


def test_the_document_of_calls_is_the_one_the_server_makes(document: dict[str, Any]) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for part in (endpoint_table(document), client_calls(document)):
        assert part.strip() in text, "README.md is out of date; run: python scripts/check_docs.py --write"
