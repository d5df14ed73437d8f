"""Options of every question whose answer is a graph: as a page, as pictures, and in the forms of graph programs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from atlas.cli.options import FORMATS, View, view_options
from atlas.errors import InputError

if TYPE_CHECKING:
    from atlas.query.subgraph import Subgraph

GRAPHS = ("graph-json", "graphml")


@dataclass(frozen=True)
class Pictures:
    """Which files of the graph are asked for."""

    view: View
    files: dict[str, Path]  # form: file

    @property
    def wanted(self) -> bool:
        """Whether the graph itself is asked for, instead of its tables."""
        return bool(self.files) or self.view.format in GRAPHS

    def write(self, subgraph: Subgraph) -> None:
        """Write all files, naming them on stderr; a graph format without -o goes to stdout."""
        from atlas.export.pictures.files import render, write_pictures

        files, form = dict(self.files), self.view.format
        if form in GRAPHS and self.view.output is not None:
            files[form] = self.view.output
        for path, size in write_pictures(subgraph, files):
            click.echo(f"wrote {path} ({size / 1000:,.0f} kB)", err=True)
        if form in GRAPHS and self.view.output is None:
            sys.stdout.write(render(subgraph, form).decode("utf-8"))
        for warning in subgraph.warnings:
            click.echo(f"note: {warning}", err=True)


def graph_view_options(command: Callable[..., None]) -> Callable[..., None]:
    """view_options, with --html, --svg, --png and the graph formats; the command also gets `pictures`."""

    def file(form: str, text: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
        return click.option(f"--{form}", type=click.Path(path_type=Path), metavar="FILE", help=text)

    @file("html", "Write an interactive page: one file, no network.")
    @file("svg", "Write a picture for papers.")
    @file("png", "Write a picture in pixels (extra: pictures).")
    @wraps(command)
    def with_pictures(
        view: View, *arguments: Any, html: Path | None, svg: Path | None, png: Path | None, **options: Any
    ) -> None:
        files = {form: path for form, path in (("html", html), ("svg", svg), ("png", png)) if path is not None}
        _check(view, files)
        command(view, *arguments, pictures=Pictures(view, files), **options)

    return view_options(with_pictures, (*FORMATS, *GRAPHS))


def _check(view: View, files: dict[str, Path]) -> None:
    """Pictures replace the table: a table's format or file beside them would be ignored."""
    table = f"--format {view.format}" if view.format != "table" else "-o" if view.output is not None else None
    if files and table and view.format not in GRAPHS:
        raise InputError(f"--{next(iter(files))} writes a picture and {table} a table; ask for each in its own call")
