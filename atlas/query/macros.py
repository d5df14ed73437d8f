"""The files of sql/queries -> macros with their parameters and types, for those who call them by name."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from atlas.errors import InputError
from atlas.store.sqlfiles import example, header, sql_files

_HEAD = re.compile(r"CREATE OR REPLACE MACRO (\w+)\s*\((.*?)\)\s*AS TABLE", re.DOTALL)
_NONE = object()
_PARAMETERS = {  # JSON type: names of parameters
    "integer": """
        at_least at_least_count at_least_hits at_least_size first_layer hops last_layer layer_from layer_to max_edges
        max_rows max_weaker of_first of_half of_last of_layer of_level of_neuron of_polarity of_pool of_stratum of_terms
        of_width per_node skip_rows""",
    "number": "at_least_score at_least_weight threshold",
    "text": """
        in_cluster mode of_direction of_eval of_evidence of_field of_interpretability of_kind of_method of_parent
        of_path of_scope of_score of_set of_side of_source of_token of_type query""",
    "boolean": "only_candidates singles_only with_inside",
    "list of integer": "of_documents of_ids of_neurons of_receivers of_senders of_signs of_sources of_targets",
    "list of number": "of_vector of_weights",
    "list of text": "of_queries of_tokens",
    "list of object": "by_fuzzy by_meaning by_words",
    "list of list of integer": "of_paths",
}
_TYPES: Mapping[str, str] = {
    **{name: kind for kind, names in _PARAMETERS.items() for name in names.split()},
    "circuit_logit_inputs.of_tokens": "list of integer",  # ids, where others take texts
    "circuit_token_edges.of_tokens": "list of integer",
}


@dataclass(frozen=True)
class Parameter:
    """One parameter and its JSON type; NULL may be given for any."""

    name: str
    type: str
    default: Any

    @property
    def required(self) -> bool:
        """Whether the macro has no value of its own for it."""
        return self.default is _NONE

    def told(self) -> dict[str, Any]:
        """As plain data."""
        return {"name": self.name, "type": self.type} | ({} if self.required else {"default": self.default})


@dataclass(frozen=True)
class Macro:
    """One question: its name, the header of its file, its parameters in order, a call that finds something."""

    name: str
    meaning: str
    parameters: tuple[Parameter, ...]
    example: str

    def bind(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Values for `Atlas.ask`: those given, and the macro's own max_rows, so that a cut can be told.

        InputError for a parameter that the macro has not, one that is missing, and a value of another type.
        """
        known = {one.name: one for one in self.parameters}
        if odd := [name for name in given if name not in known]:
            raise InputError(f"{self.name} has no parameter {', '.join(odd)}; it has {', '.join(known) or 'none'}")
        if lacking := [one.name for one in self.parameters if one.required and one.name not in given]:
            raise InputError(f"{self.name} needs {', '.join(lacking)}")
        for name, value in given.items():
            if value is not None and not _fits(value, known[name].type):
                raise InputError(f"{name} of {self.name} is a {known[name].type}, not {json.dumps(value)[:60]}")
        own = {name: known[name].default for name in known if name == "max_rows" and not known[name].required}
        return {**own, **given}


@cache
def macros() -> tuple[Macro, ...]:
    """All of them, by name."""
    return tuple(_read(path.read_text(encoding="utf-8")) for path in sql_files("queries"))


def macro_named(name: str) -> Macro | None:
    """One of them; None for a name that none has."""
    return next((one for one in macros() if one.name == name), None)


def _read(text: str) -> Macro:
    found = _HEAD.search(text)
    assert found is not None, text[:200]
    listed = [one.partition(":=") for one in found[2].split(",") if one.strip()]
    parameters = tuple(_parameter(found[1], name.strip(), value.strip()) for name, _, value in listed)
    meaning = " ".join(line for line in header(text) if not line.startswith("Try:"))
    return Macro(found[1], meaning, parameters, example(text) or "")


def _parameter(macro: str, name: str, value: str) -> Parameter:
    kind = _TYPES.get(f"{macro}.{name}") or _TYPES.get(name, "any")
    return Parameter(name, kind, json.loads(value.replace("NULL", "null").replace("'", '"')) if value else _NONE)


def _fits(value: Any, kind: str) -> bool:
    if kind.startswith("list of "):
        return isinstance(value, list) and all(_fits(one, kind.removeprefix("list of ")) for one in value)
    return _KINDS[kind](value)


_KINDS: Mapping[str, Callable[[Any], bool]] = {
    "integer": lambda value: type(value) is int and -(2**63) <= value < 2**63,
    "number": lambda value: type(value) in (int, float) and abs(value) < 1e300,
    "text": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "object": lambda value: isinstance(value, dict),
    "any": lambda value: True,
}
