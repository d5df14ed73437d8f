"""Subgraph -> files in any of the forms: all are made before one is written, and each is whole or as it was."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from atlas.errors import InputError
from atlas.export.folder import replace_bytes
from atlas.query.subgraph import Subgraph

PICTURES = ("html", "svg", "png")
GRAPHS = ("graph-json", "graphml")


def write_pictures(subgraph: Subgraph, files: Mapping[str, Path]) -> list[tuple[Path, int]]:
    """Write {form: file} and return (file, bytes) in that order.

    Raises InputError for a form that is not known, two forms for one file, a file that cannot be written and a subgraph
    without nodes.
    """
    _check(files)
    made = {path: render(subgraph, form) for form, path in files.items()}
    for path, content in made.items():
        try:
            replace_bytes(path, content)
        except OSError as error:
            why = error.strerror or error
            raise InputError(f"cannot write {path}: {why}; give a file where you may write") from error
    return [(path, len(content)) for path, content in made.items()]


def render(subgraph: Subgraph, form: str) -> bytes:
    """One form as bytes, text in UTF-8."""
    if form == "png":
        return _png(subgraph)
    return _writer(form)(subgraph).encode("utf-8")


def _writer(form: str) -> Callable[[Subgraph], str]:
    if form == "html":
        from atlas.export.pictures.page import page

        return page
    if form == "svg":
        from atlas.export.pictures.svg import picture

        return picture
    if form == "graphml":
        from atlas.export.pictures.graphml import graphml

        return graphml
    if form == "graph-json":
        from atlas.export.subgraph_json import subgraph_json

        return subgraph_json
    raise InputError(f"no form {form!r} of a graph; choose among {', '.join((*PICTURES, *GRAPHS))}")


def _png(subgraph: Subgraph) -> bytes:
    from atlas.export.pictures.png import png
    from atlas.export.pictures.svg import picture

    svg = picture(subgraph)
    size = re.search(r'width="(\d+)" height="(\d+)"', svg)
    assert size is not None
    return png(svg, width=float(size[1]), height=float(size[2]))


def _check(files: Mapping[str, Path]) -> None:
    seen: dict[Path, str] = {}
    for form, path in files.items():
        where = path.resolve()
        if where in seen:
            raise InputError(f"{path} is asked for as {seen[where]} and as {form}; give each form its own file")
        if path.is_dir():
            raise InputError(f"{path} is a folder, expected a file; give for example {path / f'circuit.{form}'}")
        if path.parent.exists() and not path.parent.is_dir():
            raise InputError(f"cannot write {path}: {path.parent} is a file, expected a folder; give another file")
        seen[where] = form
