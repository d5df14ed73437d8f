"""`atlas diff`: what differs between two atlases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from atlas.cli.options import View, view_options

_FILE = click.Path(path_type=Path)


@click.command(epilog="Example: atlas diff base.duckdb tuned.duckdb --what edges --noise half-1.duckdb half-2.duckdb")
@click.argument("a", type=_FILE)
@click.argument("b", type=_FILE)
@click.option("--what", default="summary", show_default=True, help="summary, edges, labels, clusters or tokens.")
@click.option("--noise", type=_FILE, nargs=2, metavar="HALF1 HALF2", help="Two halves of one set of graphs.")
@click.option("--quantile", default=0.99, show_default=True, help="Of the noise: only edges beyond it are listed.")
@click.option("--level", type=click.IntRange(min=1), help="Level of the modules, 1 = top; without it the finest.")
@click.option("--all", "everything", is_flag=True, help="Also what is within the noise, or equal.")
@click.option("--memory", default="4GiB", show_default=True, help="Memory that the comparison may use.")
@view_options
def diff(view: View, a: Path, b: Path, *, quantile: float, level: int | None, memory: str, **asked: Any) -> None:
    """What atlas B has that atlas A has not, and the other way round, neuron by neuron.

    Edges are listed when they differ by more than sampling does. `atlas edges halves GRAPHS -o DIR` makes the two
    halves whose difference is sampling alone; without --noise observations are taken as independent.
    """
    import atlas
    from atlas.cli.edges import parse_size
    from atlas.query.compare import DiffOptions
    from atlas.query.compare import diff as compare
    from atlas.store.connection import Limits

    limits = Limits(memory=f"{parse_size(memory) >> 20}MiB", threads=2)
    options = DiffOptions(quantile=quantile, level=level, limits=limits)
    with atlas.open(a) as first, atlas.open(b) as second:
        view.show(compare(first, second, limit=view.limit(50), options=options, **asked))
