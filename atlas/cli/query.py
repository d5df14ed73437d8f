"""Questions about neurons, tokens, edges and modules, one command each."""

from __future__ import annotations

import click

from atlas.cli.options import View, selection, view_options

POLARITY = click.option("--polarity", type=click.Choice(["+", "-"]), help="Only firings of this sign; both by default.")
CONTEXTS = click.option("--contexts", is_flag=True, help="Show texts instead of the table.")


@click.command(epilog="Example: atlas neuron L24/N5326")
@click.argument("neuron_id", metavar="NEURON")
@view_options
def neuron(view: View, neuron_id: str) -> None:
    """One neuron's card: labels, what fires it, what it promotes, its edges, wiring and pruning score.

    NEURON is L24/N5326, 24_5326, 24:5326 or a feature id. --limit is the rows of each list.
    """
    with view.open() as a:
        card = a.neuron(neuron_id, k=view.limit(8) or a.layers * a.d_mlp)
        view.show_data(card.to_dict() if view.format != "table" else None, str(card) if view.format == "table" else "")
        for note in card.notes:
            click.echo(f"note: {note}", err=True)


@click.command(epilog="Example: atlas tokens cluster:158.4 --polarity -")
@click.argument("neurons", nargs=-1, required=True)
@POLARITY
@CONTEXTS
@view_options
def tokens(view: View, neurons: tuple[str, ...], polarity: str | None, contexts: bool) -> None:
    """Tokens that fire NEURONS strongly.

    NEURONS: ids, cluster:PATH, layer:A-B, label:TEXT, or - to read ids from stdin.
    """
    with view.open() as a:
        if contexts:
            view.show(a.exemplars(selection(neurons), polarity=polarity, k=view.limit(20)))  # type: ignore[arg-type]
        else:
            view.show(a.tokens(selection(neurons), polarity=polarity, limit=view.limit(20)))  # type: ignore[arg-type]


@click.command("fires-on", epilog="Example: atlas fires-on dog cat")
@click.argument("words", nargs=-1, required=True)
@POLARITY
@click.option("--at-least", default=1, show_default=True, help="Fewest strong firings.")
@CONTEXTS
@view_options
def fires_on(view: View, words: tuple[str, ...], polarity: str | None, at_least: int, contexts: bool) -> None:
    """Neurons that fire strongly on the token WORD; with several, on that category (recall is averaged).

    A word matches the token with or without spaces around it.
    """
    with view.open() as a:
        found = a.fires_on(*words, polarity=polarity, at_least=at_least, limit=view.limit(20))  # type: ignore[arg-type]
        if contexts and len(found):
            ids: list[object] = [(row["layer"], row["neuron"]) for row in found.rows()]
            found = a.exemplars(ids, tokens=list(words), polarity=polarity, k=view.limit(20))  # type: ignore[arg-type]
        view.show(found)
