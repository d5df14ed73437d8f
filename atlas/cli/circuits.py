"""Questions about the graph of edges, one command each."""

from __future__ import annotations

import click

from atlas.cli.options import View, selection, view_options


@click.command(epilog="Example: atlas ego L24/N5326 --hops 2 --top 5")
@click.argument("neurons", nargs=-1, required=True)
@click.option("--hops", default=1, show_default=True, help="How far to go.")
@click.option("--top", default=10, show_default=True, help="Strongest edges followed from each node and direction.")
@click.option("--direction", type=click.Choice(["both", "downstream", "upstream"]), default="both", show_default=True)
@view_options
def ego(view: View, neurons: tuple[str, ...], hops: int, top: int, direction: str) -> None:
    """The neighbourhood of NEURONS: nodes, then the edges among them."""
    from atlas.cli.render import notes, text_table

    with view.open() as a:
        found = a.ego(selection(neurons), hops=hops, top=top, direction=direction, limit=view.limit(200))
        if view.format in ("csv", "parquet"):
            return view.show(found.edges)
        nodes = text_table(found.nodes.rows(), list(found.nodes.headline))
        text = f"{len(found.nodes)} nodes\n{nodes}\n\n{found.edges.total} edges\n"
        view.show_data(found.to_dict(), text + text_table(found.edges.rows(), list(found.edges.headline)))
        notes(found.edges, of="edges")
