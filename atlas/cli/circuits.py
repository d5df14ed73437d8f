"""Questions about the graph of edges, one command each."""

from __future__ import annotations

import click

from atlas.cli.options import View, selection, view_options
from atlas.cli.pictures import Pictures, graph_view_options


@click.command(epilog="Example: atlas ego L24/N5326 --hops 2 --top 5; atlas ego L24/N5326 --html ego.html")
@click.argument("neurons", nargs=-1, required=True)
@click.option("--hops", default=1, show_default=True, help="How far to go.")
@click.option("--top", default=10, show_default=True, help="Strongest edges followed from each node and direction.")
@click.option("--direction", type=click.Choice(["both", "downstream", "upstream"]), default="both", show_default=True)
@graph_view_options
def ego(view: View, neurons: tuple[str, ...], *, hops: int, top: int, direction: str, pictures: Pictures) -> None:
    """The neighbourhood of NEURONS: nodes, then the edges among them; as a picture or a graph on request."""
    from atlas.cli.render import notes, text_table

    with view.open() as a:
        found = a.ego(selection(neurons), hops=hops, top=top, direction=direction, limit=view.limit(200))
        if pictures.wanted:
            return pictures.write(found.to_subgraph())
        if view.format in ("csv", "parquet"):
            return view.show(found.edges)
        nodes = text_table(found.nodes.rows(), list(found.nodes.headline))
        text = f"{len(found.nodes)} nodes\n{nodes}\n\n{found.edges.total} edges\n"
        view.show_data(found.to_dict(), text + text_table(found.edges.rows(), list(found.edges.headline)))
        notes(found.edges, of="edges")


@click.command(epilog="Example: atlas common cluster:158.4 --at-least 5; atlas common L24/N1 L24/N7 --at-least 1")
@click.argument("neurons", nargs=-1, required=True)
@click.option("--direction", type=click.Choice(["inputs", "outputs"]), default="inputs", show_default=True)
@click.option("--at-least", type=click.IntRange(min=1), default=2, show_default=True, help="Fewest members shared.")
@click.option("--min-count", type=click.IntRange(min=1), default=1, show_default=True, help="Fewest observations.")
@view_options
def common(view: View, neurons: tuple[str, ...], direction: str, at_least: int, min_count: int) -> None:
    """Partners that several of NEURONS share, and how likely that is by their degree alone (p; q over all partners)."""
    with view.open() as a:
        view.show(
            a.common(
                selection(neurons), direction=direction, at_least=at_least, min_count=min_count, limit=view.limit(20)
            )
        )


@click.command(epilog="Example: atlas similar L24/N5326 --by in; atlas similar label:aspirin --by tokens --layers 2 9")
@click.argument("neurons", nargs=-1, required=True)
@click.option(
    "--by", type=click.Choice(["out", "in", "both", "tokens", "label"]), default="out", show_default=True,
    help="Edges out, in or both; tokens that fire; words of the label.",
)  # fmt: skip
@click.option("--layers", type=(int, int), metavar="FIRST LAST", help="Only neurons of these layers.")
@view_options
def similar(view: View, neurons: tuple[str, ...], by: str, layers: tuple[int, int] | None) -> None:
    """The neurons most like NEURONS: cosine of the profiles, and what is shared."""
    with view.open() as a:
        view.show(a.similar(selection(neurons), by=by, k=view.limit(20), layers=layers))
