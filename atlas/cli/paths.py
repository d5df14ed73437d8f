"""Questions about paths and small patterns of edges, and about the graphs that neurons occur in, one command each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from atlas.cli.options import View, selection, view_options

if TYPE_CHECKING:
    from atlas.query.answer import Answer


@click.command(epilog="Example: atlas paths L2/N17 L5/N40 --hops 4 --limit 5; atlas paths cluster:158.4 label:aspirin")
@click.argument("source")
@click.argument("target")
@click.option("--hops", default=5, show_default=True, help="Most edges of a path.")
@click.option(
    "--score", type=click.Choice(["product", "bottleneck"]), default="product", show_default=True,
    help="Product of mean |F| over the edges, or the smallest.",
)  # fmt: skip
@click.option("--min-count", default=1, show_default=True, help="Fewest observations of an edge.")
@view_options
def paths(view: View, *, source: str, target: str, hops: int, score: str, min_count: int) -> None:
    """The strongest paths from SOURCE to TARGET, exact, with every edge: --limit of them (10; at most 1000).

    Where there is no path, that is the answer: no rows, a note, exit code 0.
    """
    with view.open() as a:
        ends = selection((source,)), selection((target,))
        found = a.paths(*ends, max_hops=hops, k=view.limit(10) or 1000, score=score, min_count=min_count)
        if view.format != "table":
            return view.show(found)
        from atlas.cli.render import notes

        view.show_data(None, _text(found) or "(no paths)")
        notes(found)


def _text(found: Answer) -> str:
    return "\n\n".join(_lines(place, row) for place, row in enumerate(found.rows(), start=1))


def _lines(place: int, row: dict[str, Any]) -> str:
    sign = {1: "+", -1: "-", 0: "0"}[row["sign"]]
    size = f"score {row['score']:.4g}, sign {sign}, {row['n_edges']} edges, geometric mean {row['geometric_mean']:.4g}"
    weights = ["", *(f"{w:+.4g} ({n}x)" for w, n in zip(row["weights"], row["counts"], strict=True))]
    steps = zip(weights, row["neurons"], row["labels"], strict=True)
    return "\n".join(
        [f"{place}. {size}", *(f"   {w:>18}  {name:<12}  {label or ''}".rstrip() for w, name, label in steps)]
    )


@click.command(epilog="Example: atlas graphs L2/N17; atlas graphs L2/N17 L5/N40 --limit 5")
@click.argument("neurons", nargs=-1, required=True)
@click.option("--members", metavar="FILE", help="Parquet file of neuron_graphs, where it was left out of the atlas.")
@view_options
def graphs(view: View, neurons: tuple[str, ...], members: str | None) -> None:
    """The attribution graphs (prompts) that contain all of NEURONS, most relevant first."""
    with view.open() as a:
        view.show(a.graphs(selection(neurons), members=members, limit=view.limit(20)))
