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

    sign is of the product of the mean F; effect says whether the path raises (+) or lowers (-) the metric.
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
    sign, effect = ("+0-"[1 - row[name]] for name in ("sign", "effect_sign"))
    edges = f"{row['n_edges']} edge{'s' if row['n_edges'] > 1 else ''}"
    size = (
        f"score {row['score']:.4g}, sign {sign}, effect {effect}, {edges}, geometric mean {row['geometric_mean']:.4g}"
    )
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


@click.command(epilog="Example: atlas motifs cluster:158.4; atlas motifs --kind ffl --null 200")
@click.argument("neurons", nargs=-1)
@click.option("--kind", type=click.Choice(["ffl", "fan-in", "fan-out", "bi-fan"]), help="One motif; all by default.")
@click.option("--null", default=100, show_default=True, help="Random graphs to compare with.")
@click.option("--seed", default=0, show_default=True, help="Seed of the random graphs.")
@click.option("--min-count", default=1, show_default=True, help="Fewest observations of an edge.")
@view_options
def motifs(view: View, *, neurons: tuple[str, ...], **options: Any) -> None:
    """Small patterns among NEURONS (default: the strongest edges), against random graphs of the same degrees."""
    from atlas.cli.render import notes, text_table

    with view.open() as a:
        found = a.motifs(selection(neurons) if neurons else None, limit=view.limit(20), **options)
        if view.format in ("csv", "parquet") and found.instances is not None:
            return view.show(found.instances)
        text = f"{found.edges} edges\n{text_table(found.counts)}\n"
        if found.instances is not None:
            text += "\nfeed-forward loops\n" + text_table(found.instances.rows(), list(found.instances.headline))
        view.show_data(found.to_dict(), text)
        for warning in found.warnings:
            click.echo(f"note: {warning}", err=True)
        if found.instances is not None:
            notes(found.instances, of="loops")
