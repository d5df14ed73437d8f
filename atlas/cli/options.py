"""Options that every question shares -> one View: which atlas, which format, how many rows, where to."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from atlas.errors import InputError

if TYPE_CHECKING:
    from atlas.query.answer import Answer
    from atlas.query.atlas import Atlas

FORMATS = ("table", "json", "jsonl", "csv", "parquet")


@dataclass(frozen=True)
class View:
    """Where answers come from and go to."""

    file: Path | None
    format: str
    output: Path | None
    rows: int | None  # what --limit gave; None = the command's default

    def open(self) -> Atlas:
        """Open the atlas asked for."""
        import atlas

        return atlas.open(find_atlas(self.file))

    def limit(self, usual: int) -> int | None:
        """Rows to ask for: --limit, else the command's own; None (from --limit 0) for all."""
        return (usual if self.rows is None else self.rows) or None

    def show(self, answer: Answer) -> None:
        """Print or write an answer, with its notes on stderr."""
        from atlas.cli.render import show

        show(answer, self)

    def show_data(self, data: Any, text: str) -> None:
        """Print a structure as JSON, or its text when the format is table; InputError for row formats."""
        from atlas.cli.render import show_data

        show_data(data, text, self)


def find_atlas(given: Path | None) -> Path:
    """--atlas, else $ATLAS_FILE, else the only atlas under ./data; InputError when there is none or a choice."""
    if given is not None:
        return given
    if named := os.environ.get("ATLAS_FILE"):
        return Path(named)
    found = sorted(path for path in Path("data").rglob("*.duckdb") if not path.parent.name.endswith(".build"))
    if len(found) == 1:
        return found[0]
    if not found:
        raise InputError('no atlas: give --atlas FILE, set ATLAS_FILE, or build one with "atlas build RECIPE.toml"')
    raise InputError(f"several atlases under ./data ({', '.join(map(str, found))}); choose one with --atlas FILE")


def view_options(command: Callable[..., None], formats: tuple[str, ...] = FORMATS) -> Callable[..., None]:
    """Add --atlas, --format, --output and --limit; the command gets them as its first argument, a View."""

    @click.option("--atlas", "file", type=click.Path(path_type=Path), metavar="FILE", help="Atlas file.")
    @click.option(
        "--format", "form", type=click.Choice(formats), default="table", show_default=True, help="Output format."
    )
    @click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="Write there, not to stdout.")
    @click.option("--limit", type=click.IntRange(0, 2**63 - 1), metavar="ROWS", help="Rows to show; 0 for all.")
    @wraps(command)
    def with_view(
        *arguments: Any, file: Path | None, form: str, output: Path | None, limit: int | None, **options: Any
    ) -> None:
        if form == "parquet" and output is None:
            raise InputError("parquet is not text: give -o FILE")
        command(View(file, form, output, limit), *arguments, **options)

    return with_view


def selection(words: tuple[str, ...]) -> list[object]:
    """Neuron ids or "cluster:PATH", "layer:A-B", "label:TEXT" from the arguments; "-" reads them from stdin."""
    if words == ("-",):
        words = tuple(sys.stdin.read().split())
    return list(words)
