"""`atlas prune batch`: what the model loses without candidates, alone and as a batch, and how many may go."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from atlas.cli.held_out import held_out_options
from atlas.cli.options import View, find_atlas, view_options

if TYPE_CHECKING:
    from atlas.build.impacts import HeldOutText
    from atlas.build.prune_batch import BatchAnalysis

_HEADLINE = ("layer_index", "neuron_index", "impact_score", "safe_to_prune", "kl", "kl_low", "kl_high", "delta_nll",
             "mean_change", "max_change")  # fmt: skip


@click.command(epilog="Example: atlas prune batch --top 50 --batch-size 50 --corpus heldout.json")
@click.option("--neurons", metavar="L0/N5,L0/N7", help="Candidates, or selectors such as layer:3 and cluster:158.4.")
@click.option("--top", type=int, metavar="N", help="The N neurons that are safest by the pruning scores.")
@click.option("--sql", metavar="SELECT", help="A SELECT with columns layer and neuron.")
@click.option("--batch-size", type=int, default=10, show_default=True, metavar="N", help="Neurons of a batch at most.")
@view_options
@held_out_options
def batch(view: View, text: HeldOutText, how: dict[str, Any], /, *, batch_size: int, **chosen: Any) -> None:
    """Measure pruning candidates on held-out text: each alone, the least harmful ones jointly, and how many may go.

    The cumulative impact is measured on the set, never added up. suggested_batch_size is the longest prefix of the
    candidates, least harmful first, whose measured set stays under the budget; each of m members is judged by
    budget / m. The rows stay in the atlas (macros batch_impacts, batch_sets).
    """
    from atlas.build.prune_batch import BatchOptions, batch_analysis
    from atlas.cli.render import show_rows
    from atlas.query.atlas import Atlas
    from atlas.query.impacts import chosen_neurons

    options = BatchOptions(batch_size, how.pop("judging"))
    path, named = find_atlas(view.file), chosen.pop("neurons")
    words = None if named is None else [word.strip() for word in named.split(",") if word.strip()]
    with Atlas(path) as atlas:
        ids = chosen_neurons(atlas, neurons=words, **chosen)
    found = batch_analysis(path, ids, text, options=options, **how)
    for line in (*(f"note: {note}" for note in found.notes), *summary(found)):
        click.echo(line, err=True)
    if view.format == "json":
        view.show_data(found.document(), "")
    else:
        show_rows(found.rows(), view.format, headline=_HEADLINE, limit=view.limit(20), of="candidates")


def summary(found: BatchAnalysis) -> list[str]:
    """The batch as a whole and what is recommended."""
    told = found.document()
    joint, advice = told["cumulative_impact"], told["recommendations"]
    score = "unknown" if joint["impact_score"] is None else f"{joint['impact_score']:.3g}"
    ratio = "" if joint["joint_over_sum"] is None else f", {joint['joint_over_sum']:.2f} times the sum of its members"
    lines = [f"batch     {joint['n_neurons']} neurons jointly: impact_score {score}, KL {joint['kl']:.3g}{ratio}"]
    if advice["suggested_batch_size"] is None:
        return [*lines, f"suggested no verdict: {advice['reason']}"]
    return [
        *lines,
        f"suggested {advice['suggested_batch_size']} neurons; alone, {advice['safe_to_prune']} candidates are safe and "
        f"{advice['risky_to_prune']} risky",
    ]
