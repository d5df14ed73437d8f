"""Routes -> their OpenAPI document, and what is made from it: a table of the endpoints, a client call of each, a page.

FastAPI writes the document; added here is what holds for every endpoint (tokens, failures) and what parameters mean.
"""

from __future__ import annotations

import html
import json
import shlex
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from fastapi import FastAPI

ADDRESS = "http://127.0.0.1:5001"
ENVELOPE, BARE = "/api/v1", "/api"
_FAILURE = {"application/json": {"schema": {"$ref": "#/components/schemas/Failure"}}}
_MEANING = {  # of parameters that several endpoints take, as their fields are too plain to say it
    "neurons": "A selection: L0/N12, layer:2, cluster:1.2, label:dog, @list.txt is not taken here; repeat for several.",
    "layers": "The first and the last layer, 0-3; one number for one layer.",
    "layer": "A layer, from 0.",
    "cluster": "Path of a module; what is below it counts.",
    "below": "Path of a module: only its parts.",
    "path": "Path of a module, 1.2.",
    "level": "Depth of the modules, from 1.",
    "min_size": "Fewest neurons of a module.",
    "polarity": "1 or -1, + or -; both when left out.",
    "limit": "Rows at most.",
    "mode": "How texts are compared.",
    "field": "Which text of a neuron.",
    "type": "Type of the label.",
    "interpretability": "What the label's author said of it.",
    "min_score": "Lowest score of the label.",
    "from": "Sources; any neuron when left out.",
    "to": "Targets; any neuron when left out.",
    "hops": "Steps from the selection.",
    "direction": "Along edges, against them, or both.",
    "by": "What is compared.",
    "max_nodes": "Most neurons of the answer.",
    "score": "How a path is rated by its edges' mean |F|.",
    "kind": "Only motifs of this kind.",
    "seed": "Of the random numbers.",
    "min_hits": "Fewest neurons that hold the word.",
    "scope": "Ranks within a layer or among all.",
    "eval_id": "One evaluation; the newest when left out.",
    "evidence": "Only measured or only estimated ones.",
    "what": "What is compared.",
    "a": "The first; the primary clustering, or this atlas, when left out.",
    "b": "The second.",
    "q": "One SELECT over tables and macros.",
    "name": "Name of a macro.",
    "part": "Which list of the card.",
    "model_name": "Name of a model's folder.",
    "filename": "Name of a file, as the list of files shows it.",
    "job_id": "Id of a job, as the answer that started it says.",
    "export_id": "Id of an export, as the answer that started it says.",
    "if-none-match": "The ETag of what is already there: answered by 304.",
}
JOB = "5f0c6a3e-0d6c-4f8e-9d0e-5a1f6b1c2d3e"  # the id in examples; no job has it
_PATTERN = {"path": r"^\d+(\.\d+)*$"}  # in addresses; other texts are names of files


@dataclass(frozen=True)
class Call:
    """One request that works on the demo atlas, from the examples of the document."""

    name: str  # operation id
    method: str
    path: str  # with values in place of names
    query: tuple[tuple[str, str], ...]
    body: Any  # None: no body

    @property
    def target(self) -> str:
        """Path and query, encoded."""
        return self.path + (f"?{urlencode(self.query, quote_via=quote, safe='/:,')}" if self.query else "")


def describe(app: FastAPI) -> None:
    """Complete the application's OpenAPI document."""
    written = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            _complete(written())
        return written()

    app.openapi = openapi  # type: ignore[method-assign]


def calls(document: dict[str, Any]) -> list[Call]:
    """A call of every operation, in the document's order."""
    return [
        _call(document, path, method, operation)
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    ]


def curl(call: Call, address: str = ADDRESS) -> str:
    """A call as a shell command."""
    words = ["curl", "--fail-with-body", "-sS"]
    if call.body is not None:
        words += ["-H", "Content-Type: application/json", "-d", json.dumps(call.body, ensure_ascii=False)]
    elif call.method != "GET":
        words += ["-X", call.method]
    return shlex.join([*words, address + call.target])


def endpoint_table(document: dict[str, Any]) -> str:
    """Markdown: each endpoint, its name in NeuronScope's documents, what it answers."""
    lines = ["| endpoint | NeuronScope's name | what it answers |", "|---|---|---|"]
    for path, operations in document["paths"].items():
        if path.startswith(ENVELOPE):
            first = next(iter(operations.values()))
            named = ", ".join(method.upper() for method in operations)
            lines.append(f"| `{named} {path}` | {_seed_name(document, path)} | {_summary(first)} |")
    return "\n".join(lines) + "\n"


def client_calls(document: dict[str, Any]) -> str:
    """Markdown: a curl command for every endpoint, by tag; JOB stands for the id of a job."""
    told: dict[str, list[str]] = {}
    summaries = set()
    for call, operation in zip(calls(document), _operations(document), strict=True):
        if call.path.startswith(ENVELOPE):
            summary = _summary(operation)
            comment = "" if (call.path, summary) in summaries else f"# {summary}\n"
            summaries.add((call.path, summary))
            told.setdefault(operation["tags"][0], []).append(f"{comment}{curl(call).replace(JOB, 'JOB')}\n")
    return "\n".join(f"### {tag}\n\n```sh\n{''.join(texts)}```\n" for tag, texts in told.items())


def page(document: dict[str, Any]) -> str:
    """HTML without scripts: the endpoints, an example line of each."""
    rows = []
    for call, operation in zip(calls(document), _operations(document), strict=True):
        if call.path.startswith(ENVELOPE):
            shown = html.escape(f"{call.method} {call.target}")
            line = f'<a href="{html.escape(call.target)}">{shown}</a>' if call.method == "GET" else shown
            body = f" {html.escape(json.dumps(call.body, ensure_ascii=False))}" if call.body is not None else ""
            rows.append(f"<li><code>{line}{body}</code><br>{html.escape(_summary(operation))}</li>")
    listed = "\n".join(rows)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>atlas</title><style>body{font:15px/1.5 '
        "sans-serif;max-width:60em;margin:2em auto;padding:0 1em}li{margin:.6em 0}code{word-break:break-word}</style>"
        f"</head><body><h1>atlas</h1><p>{html.escape(document['info']['description'].splitlines()[0])}</p>"
        f'<p>The whole document, with every parameter: <a href="/openapi.json">/openapi.json</a>.</p><ul>\n{listed}\n'
        "</ul></body></html>\n"
    )


def _complete(document: dict[str, Any]) -> None:
    parts = document.setdefault("components", {})
    parts["securitySchemes"] = {
        "token": {"type": "http", "scheme": "bearer", "description": 'A token of "atlas token add NAME".'}
    }
    for unused in ("HTTPValidationError", "ValidationError"):
        parts.get("schemas", {}).pop(unused, None)
    document["security"] = [{}, {"token": []}]  # none is asked for on a loopback address without tokens
    for path, operations in document["paths"].items():
        for operation in operations.values():
            operation["responses"].pop("422", None)  # FastAPI's own; ours is 400
            operation["responses"]["default"] = {"description": "Any other failure.", "content": _FAILURE}
            for parameter in operation.get("parameters", ()):
                _tell(parameter)
            if (body := operation.get("requestBody")) is not None:
                operation["responses"]["415"] = {"description": "The body is not JSON.", "content": _FAILURE}
                _give_example(document, body["content"].get("application/json", {}))
        if path in (f"{ENVELOPE}/health", f"{BARE}/health"):
            operations["get"]["security"] = []


def _tell(parameter: dict[str, Any]) -> None:
    name, schema = parameter["name"], parameter["schema"]
    if not parameter.get("description"):
        found = schema.get("description") or _MEANING.get(name)
        if found:
            parameter["description"] = found
    if parameter["in"] == "path" and name in _PATTERN:
        schema["pattern"] = _PATTERN[name]


def _give_example(document: dict[str, Any], content: dict[str, Any]) -> None:
    """The example of a body: its model's own, else made of the examples of its fields."""
    schema = _resolved(document, content.get("schema", {}))
    if not content or "example" in content or "examples" in content:
        return
    if schema.get("examples"):
        content["example"] = schema["examples"][0]
        return
    fields = schema.get("properties", {})
    given = {name: field["examples"][0] for name, field in fields.items() if field.get("examples")}
    content["example"] = given


def _call(document: dict[str, Any], path: str, method: str, operation: dict[str, Any]) -> Call:
    query: list[tuple[str, str]] = []
    for parameter in operation.get("parameters", ()):
        value = _example(document, parameter)
        if parameter["in"] == "path":
            path = path.replace("{" + parameter["name"] + "}", quote(str(value), safe=":,"))
        elif parameter["in"] == "query" and (parameter.get("required") or _shown(document, parameter)):
            query += [(parameter["name"], str(one)) for one in (value if isinstance(value, list) else [value])]
    content = operation.get("requestBody", {}).get("content", {}).get("application/json")
    body = None if content is None else content.get("example", {})
    return Call(operation["operationId"], method.upper(), path, tuple(query), body)


def _example(document: dict[str, Any], parameter: dict[str, Any]) -> Any:
    schema = _resolved(document, parameter["schema"])
    if parameter.get("examples"):
        return next(iter(parameter["examples"].values()))["value"]
    if "example" in parameter:
        return parameter["example"]
    found = schema.get("examples") or schema.get("enum")
    return found[0] if found else schema.get("default")


def _shown(document: dict[str, Any], parameter: dict[str, Any]) -> bool:
    """Whether a parameter that may be left out is part of the example: when its own words say how."""
    return "examples" in parameter or "examples" in _resolved(document, parameter["schema"])


def _resolved(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    reference = schema.get("$ref")
    return document["components"]["schemas"][reference.rsplit("/", 1)[1]] if reference else schema


def _seed_name(document: dict[str, Any], path: str) -> str:
    bare = BARE + path.removeprefix(ENVELOPE)
    if bare in document["paths"]:
        return f"`{bare}`"
    return f"`{path}`" if "/neuronpedia/export" in path else ""


def _operations(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [operation for operations in document["paths"].values() for operation in operations.values()]


def _summary(operation: dict[str, Any]) -> str:
    return str(operation.get("summary", "")).rstrip(".") + "."
