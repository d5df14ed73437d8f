"""What a model wrote -> the fields of an answer, or what is wrong with it.

A form is a dataclass: pydantic makes the JSON schema that is sent and checks types and choices; what no schema can be
relied on for (lengths, control characters, marks of the prompt) is checked here. The text of an answer was written by
a model that read text from anywhere, so nothing but the fields is ever taken from it.
"""

from __future__ import annotations

import json
import re
import unicodedata
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from typing import Any, ClassVar, Literal

_SPACES = re.compile(r"\s+")
_MARKS = re.compile(r"</?evidence>|⟦|⟧", re.IGNORECASE)
_BIDI = frozenset(map(chr, (*range(0x202A, 0x202F), *range(0x2066, 0x206A))))

Clarity = Literal["high", "medium", "low"]


class AnswerError(Exception):
    """An answer that does not fit its form; the message says why, for the model and for the ledger."""


def text_field(told: str, *, most: int) -> Any:
    """A field of text with what it holds (for the schema) and its most characters."""
    return field(metadata={"told": told, "most": most})


@dataclass(frozen=True, kw_only=True)
class OutputAnswer:
    """What a neuron does when it fires."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}
    output_function: str = text_field(
        "one or two sentences: what the neuron does when it fires, from the evidence", most=1200
    )
    label: str = text_field("3 to 15 words that say it, specific enough to tell it from other neurons", most=200)
    short_label: str = text_field("2 to 5 words", most=60)
    type: Literal["lexical", "semantic", "routing", "formatting"]
    interpretability: Clarity


@dataclass(frozen=True, kw_only=True)
class InputAnswer:
    """What makes a neuron fire."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}
    input_function: str = text_field("one or two sentences: what makes the neuron fire, from the evidence", most=1200)
    label: str = text_field("3 to 15 words that say it, specific enough to tell it from other neurons", most=200)
    short_label: str = text_field("2 to 5 words", most=60)
    type: Literal["combination", "token-pattern", "upstream-gated", "context", "position"]
    interpretability: Clarity


@dataclass(frozen=True, kw_only=True)
class ClusterAnswer:
    """What the members of a module have in common."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}
    function: str = text_field(
        "one or two sentences: what the members have in common and what they do together", most=1200
    )
    label: str = text_field("2 to 8 words that name the module", most=120)
    interpretability: Clarity


@dataclass(frozen=True)
class Form:
    """The shape of an answer: the name of its schema and the dataclass of its fields."""

    name: str
    fields: type[Any]

    def schema(self) -> dict[str, Any]:
        """Its JSON schema with every field required, as strict structured output wants it."""
        return self._schema

    def read(self, text: str) -> dict[str, Any]:
        """The fields of an answer, blanks made one; AnswerError says what does not fit."""
        from pydantic import ValidationError

        try:
            found = asdict(self._adapter.validate_python(_object_in(text)))
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"])) or "the answer"
            raise AnswerError(f"{place}: {first['msg']}") from error
        for one in fields(self.fields):
            if "most" in one.metadata:
                found[one.name] = _checked(one.name, found[one.name], one.metadata["most"])
        return found

    @cached_property
    def _adapter(self) -> Any:
        from pydantic import TypeAdapter

        return TypeAdapter(self.fields)

    @cached_property
    def _schema(self) -> dict[str, Any]:
        made = self._adapter.json_schema()["properties"]
        parts = {name: {k: v for k, v in part.items() if k != "title"} for name, part in made.items()}
        for one in fields(self.fields):
            if "told" in one.metadata:
                parts[one.name]["description"] = one.metadata["told"]
        return {"type": "object", "properties": parts, "required": list(parts), "additionalProperties": False}

    def described(self) -> str:
        """The fields in words, for servers that take no schema."""
        return "\n".join(f'- "{name}": {_told(part)}' for name, part in self.schema()["properties"].items())


OUTPUT = Form("output_label", OutputAnswer)
INPUT = Form("input_label", InputAnswer)
CLUSTER = Form("module_label", ClusterAnswer)


def _told(part: dict[str, Any]) -> str:
    return (
        " | ".join(map(json.dumps, part["enum"])) if "enum" in part else part.get("description", part.get("type", ""))
    )


def _object_in(text: str) -> Any:
    """The JSON object of an answer, also behind a thought or between fences."""
    kept = text.rpartition("</think>")[2].strip()
    try:
        return json.loads(kept)
    except ValueError:
        start, end = kept.find("{"), kept.rfind("}")
    if start < 0 or end < start:
        raise AnswerError("there is no JSON object in the answer")
    try:
        return json.loads(kept[start : end + 1])
    except ValueError as error:
        raise AnswerError(f"the answer is not valid JSON: {error}") from error


def _checked(name: str, value: str, most: int) -> str:
    text = _SPACES.sub(" ", value).strip()
    if not text:
        raise AnswerError(f"{name} is empty")
    if len(text) > most:
        raise AnswerError(f"{name} has {len(text)} characters, at most {most} are allowed")
    if any(unicodedata.category(c) in ("Cc", "Cs", "Cn", "Co") or c in _BIDI for c in text):
        raise AnswerError(f"{name} holds control characters")
    if _MARKS.search(text):
        raise AnswerError(f"{name} repeats marks of the prompt")
    return text
