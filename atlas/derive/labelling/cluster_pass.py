"""A level -> questions about what the members of its modules have in common: their labels, and the names of the parts.

Levels are asked from the deepest to the top, so that the parts of a module have names already.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from atlas.derive.labelling.answers import CLUSTER
from atlas.derive.labelling.evidence import NO_EVIDENCE, Asking, Names, Question, Row, Streams, has
from atlas.derive.labelling.prompts import safe, template
from atlas.derive.labelling.request import make_request
from atlas.query.atlas import Atlas

NAME, FORM, TABLE, UNIT = "clusters", CLUSTER, "cluster_labels", "modules"
_TOLD = (("input:", "fires_on"), ("output:", "effect"))
EVIDENCE = {"clusters": "modules", "labels": "labels of neurons"}


def order(levels: Collection[int]) -> list[int]:
    """The deepest level first."""
    return sorted(levels, reverse=True)


def possible(atlas: Atlas) -> list[str]:
    """The tables of EVIDENCE that this atlas has; modules without labels are nothing to ask about."""
    there = [table for table in EVIDENCE if has(atlas, table)]
    return there if len(there) == len(EVIDENCE) else []


def questions(asking: Asking, level: int, wanted: Collection[str] | None) -> Iterator[Question]:
    """One question for each wanted module (None: all) of a level, in the order of their paths as text."""
    given = {"of_level": level, "at_least_size": asking.at_least}
    members = Streams({"members": asking.atlas.ask("level_members", given)}, key="module_path")
    parts = Streams({"parts": asking.atlas.ask("level_parts", given)}, key="module_path")
    for path, rows in parts.groups("parts"):
        found = members.of(path)["members"]
        if wanted is not None and path not in wanted:
            continue
        yield _question(asking, path, rows, found) if found else Question(path, unasked=NO_EVIDENCE)


def _question(asking: Asking, path: str, parts: list[Row], members: list[Row]) -> Question:
    one = template("cluster")
    facts = {
        "size": parts[0]["module_size"], "layer_min": parts[0]["first_layer"], "layer_max": parts[0]["last_layer"],
        "last": asking.atlas.layers - 1, "model": safe(asking.atlas.metadata.get("model", "a model")),
        "fields": FORM.described(),
    }  # fmt: skip
    texts = ("\n".join(_parts(parts, names) + _members(members)) for names in (asking.names, None))
    full, own = (one.render({**facts, "evidence": text}) for text in texts)
    request = make_request(f"cluster {path}", full, FORM, asking.setting, prompt=one.stamp, own=own)
    return Question(path, request)


def _parts(rows: list[Row], names: Names | None) -> list[str]:
    parts = [row for row in rows if row["part_path"] is not None]
    lines = [f"- {row['part_size']} neurons{_called(row, names)}" for row in parts]
    return ["Its largest parts and what they are called:", *lines] if parts else []


def _called(row: Row, names: Names | None) -> str:
    name = None if names is None else names.get(row["part_path"]) or row["part_name"]
    return f': "{safe(name, most=200)}"' if name else ""


def _members(rows: list[Row]) -> list[str]:
    return ["Its members, those that matter most first:", *map(_member, rows)]


def _member(row: Row) -> str:
    told = [f'{word} "{safe(row[name], most=200)}"' for word, name in _TOLD if row[name]]
    return f"- layer {row['layer']}: " + ("; ".join(told) or f'"{safe(row["name"], most=200)}"')
