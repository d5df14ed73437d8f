"""`atlas importance`: what the model loses without each neuron of a layer, estimated and measured now."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from atlas.cli.held_out import held_out_options
from atlas.cli.options import View, find_atlas, view_options

if TYPE_CHECKING:
    from atlas.build.impacts import HeldOutText

_HEADLINE = ("layer_index", "neuron_index", "impact_score", "is_critical", "evidence", "kl", "kl_low", "kl_high",
             "activation_magnitude", "activation_variance")  # fmt: skip


@click.command(epilog="Example: atlas importance --layer 3 --corpus heldout.json --model data/demo/model")
@click.option("--layer", type=int, required=True, help="The layer.")
@click.option("--exact", is_flag=True, help="Measure every neuron.")
@click.option("--share", type=float, metavar="PERCENT", help="Measured at each end and at random.  [3, fewer if slow]")
@view_options
@held_out_options
def importance(
    view: View, text: HeldOutText, how: dict[str, Any], /, *, layer: int, exact: bool, share: float | None
) -> None:
    """List the neurons of a layer by what the model loses on held-out text without each of them.

    A forward and a few backward passes estimate all of them; the strongest, the weakest and random ones are measured,
    and the estimates calibrated on them: evidence says which is which, kl_low and kl_high hold the error. is_critical:
    impact above the layer's 75th percentile, its lower limit above the median. The rows stay in the atlas (macro
    importance_of_layer).
    """
    from atlas.build.importance import ImportanceOptions, layer_importance
    from atlas.cli.render import show_rows

    options = ImportanceOptions(share, exact, how.pop("judging"))
    found = layer_importance(find_atlas(view.file), layer, text, options=options, **how)
    for note in found.notes:
        click.echo(f"note: {note}", err=True)
    click.echo(f"critical  {found.critical_neurons} of {len(found.scores):,} neurons", err=True)
    if view.format == "json":
        view.show_data(found.document(), "")
    else:
        rows = found.document()["importance_scores"]
        show_rows(rows, view.format, headline=_HEADLINE, limit=view.limit(20), of="neurons")
