"""`atlas label index`: the word index of an atlas, made anew."""

from __future__ import annotations

from pathlib import Path

import click

from atlas.cli.options import find_atlas


@click.command(epilog="Example: atlas label index data/demo.duckdb")
@click.argument("file", type=click.Path(path_type=Path), metavar="[ATLAS]", required=False)
@click.option("--memory", default="2GiB", show_default=True, metavar="SIZE", help="Most that DuckDB takes.")
@click.option("--threads", type=click.IntRange(1), default=2, show_default=True, help="Of DuckDB.")
def index(*, file: Path | None, memory: str, threads: int) -> None:
    """Make the word index of ATLAS, which atlas search answers from.

    Commands that change labels do it themselves; this is for an atlas of an older version, or one whose labels were
    changed by SQL. The atlas is changed in a copy that takes its place. 1.64M labels take about half a minute.
    """
    from atlas.build.label_index import reindex
    from atlas.cli.edges import parse_size
    from atlas.store.connection import Limits

    place = find_atlas(file)
    made = reindex(place, limits=Limits(f"{parse_size(memory) >> 20}MiB", threads))
    click.echo(f"{place}  {made.words:,} words of {made.texts:,} neurons, {made.postings:,} postings")
