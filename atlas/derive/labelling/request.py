"""What is asked of a language model, and what came back: the values that the ledger, the client and the passes share.

A request has two names. Its key is a hash of all that is sent. Its basis is a hash of the same without the labels of
other neurons and without the limit of answer tokens: a neuron is asked again when its own evidence, the prompt, the
model or a parameter changes, not because a neighbour was given another label meanwhile.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from atlas.derive.labelling.answers import Form

OK, PARSE_ERROR, REFUSED, TRUNCATED, API_ERROR = "ok", "parse_error", "refused", "truncated", "api_error"
FAILURES = (PARSE_ERROR, REFUSED, TRUNCATED, API_ERROR)
MODES = ("json_schema", "json_object", "text")
_LIMITS = ("max_tokens", "max_completion_tokens")

Messages = tuple[tuple[str, str], ...]  # (role, content)


@dataclass(frozen=True)
class Setting:
    """How a model is asked: everything of the request but its messages and its schema."""

    model: str
    parameters: Mapping[str, object] = field(default_factory=lambda: {"temperature": 0.0, "max_tokens": 500})
    mode: str = "json_schema"  # of MODES: how the server is told what an answer looks like


@dataclass(frozen=True)
class Request:
    """One question, ready to be sent."""

    subject: str  # what it is about, for people: L3/N17, cluster 158.4; not part of its names
    body: Mapping[str, Any]  # what is posted
    key: str
    basis: str
    form: Form
    prompt: str  # version and hash of the template: output/1-3f2a9c1b
    origin: str | None = None  # of a request that asks to mend an answer: the key of the one that was answered so

    @property
    def characters(self) -> int:
        """Bytes of UTF-8 that the model reads, messages and schema."""
        told = self.body.get("response_format", "")
        return sum(len(m["content"].encode()) for m in self.body["messages"]) + (len(json.dumps(told)) if told else 0)

    @property
    def answer_limit(self) -> int:
        """Most tokens that an answer may have."""
        return max((int(self.body[name]) for name in _LIMITS if self.body.get(name)), default=4096)


@dataclass(frozen=True)
class Reply:
    """What came of one request."""

    status: str  # ok or one of FAILURES
    answer: Mapping[str, Any] | None = None
    text: str | None = None  # what the model wrote, when it is no answer
    detail: str | None = None  # what is wrong with it
    tokens_in: int | None = None  # None where the server does not say
    tokens_out: int | None = None
    model: str | None = None  # what the server calls the model
    attempts: int = 1


def make_request(
    subject: str, messages: Messages, form: Form, setting: Setting, *, prompt: str, own: Messages | None = None
) -> Request:
    """Put a question together. `own`: the messages without what other neurons are called; None: the same messages."""
    body = _body(messages, form, setting)
    kept = {name: value for name, value in setting.parameters.items() if name not in _LIMITS}
    basis = _body(own or messages, form, Setting(setting.model, kept, setting.mode))
    return Request(subject, body, digest(body), digest(basis), form, prompt)


def repair_of(request: Request, reply: Reply, told: str) -> Request:
    """Ask once more, with the answer that could not be read and what is wrong with it."""
    turns = [("assistant", (reply.text or "")[:4000] or "(nothing)"), ("user", told)]
    messages = [*request.body["messages"], *({"role": role, "content": text} for role, text in turns)]
    body = {**request.body, "messages": messages}
    return Request(request.subject, body, digest(body), request.basis, request.form, request.prompt, request.key)


def digest(value: object) -> str:
    """Hash of a JSON value, the same whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _body(messages: Messages, form: Form, setting: Setting) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": setting.model,
        "messages": [{"role": role, "content": content} for role, content in messages],
        **{name: value for name, value in setting.parameters.items() if value is not None},
    }
    if setting.mode == "json_schema":
        wanted = {"name": form.name, "schema": form.schema(), "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": wanted}
    elif setting.mode == "json_object":
        body["response_format"] = {"type": "json_object"}
    return body
