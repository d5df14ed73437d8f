"""`atlas label rules`: labels without an LLM, made anew from what the atlas holds now."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from atlas.cli.options import find_atlas

if TYPE_CHECKING:
    from atlas.build.rule_labels import RuleLabels


@click.command(epilog="Example: atlas label rules data/demo.duckdb")
@click.argument("file", type=click.Path(path_type=Path), metavar="[ATLAS]", required=False)
@click.option("--memory", default="2GiB", show_default=True, metavar="SIZE", help="Most that DuckDB takes.")
@click.option("--threads", type=click.IntRange(1), default=2, show_default=True, help="Of DuckDB.")
@click.option("--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True)
@click.option("--quiet", "-q", is_flag=True, help="No progress.")
def rules(*, file: Path | None, memory: str, threads: int, form: str, quiet: bool) -> None:
    """Label the neurons of ATLAS anew by rules over its tables, in both passes; no LLM, no network.

    Use it after edges or tokens changed. Rule labels are replaced, others stay, and what neurons show is chosen and
    indexed anew. Every label's description holds its evidence.
    """
    from atlas.build.rule_labels import relabel
    from atlas.cli.edges import parse_size
    from atlas.progress import Lines, Quiet
    from atlas.store.connection import Limits

    place, limits = find_atlas(file), Limits(f"{parse_size(memory) >> 20}MiB", threads)
    made = relabel(place, limits=limits, progress=Quiet() if quiet else Lines())
    click.echo(json.dumps(asdict(made), indent=2) if form == "json" else _told(place, made))


def _told(file: Path, made: RuleLabels) -> str:
    rules = ", ".join(f"{count:,} {name.removeprefix('rule:')}" for name, count in made.rules.items())
    return f"{file}  {made.labels:,} labels of {made.neurons:,} neurons: {rules}\nshown: {made.shown}"
