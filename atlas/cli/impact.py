"""`atlas impact`: what the model loses without some neurons, measured now on held-out text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from atlas.cli.held_out import held_out_options
from atlas.cli.options import find_atlas

if TYPE_CHECKING:
    from atlas.build.impacts import Found, HeldOutText

_HEADLINE = ("neurons", "impact_score", "safe_to_prune", "kl", "kl_low", "kl_high", "delta_nll", "top1_flip_rate",
             "mean_change", "max_change", "joint_over_sum", "reason")  # fmt: skip


@click.command(epilog="Example: atlas impact --top 50 --corpus heldout.json --model data/demo/model")
@click.option("--neurons", metavar="L0/N5,L0/N7", help="Neurons, or selectors such as layer:3 and cluster:158.4.")
@click.option("--top", type=int, metavar="N", help="The N neurons that are safest by the pruning scores.")
@click.option("--sql", metavar="SELECT", help="A SELECT with columns layer and neuron.")
@click.option("--each", is_flag=True, help="Only every neuron by itself.")
@click.option("--joint", is_flag=True, help="Only all of them together.")
@click.option("--format", "form", type=click.Choice(["table", "json", "jsonl", "csv"]), default="table")
@click.option("--atlas", "file", type=click.Path(path_type=Path), metavar="FILE", help="Atlas file.")
@held_out_options
def impact(text: HeldOutText, how: dict[str, Any], /, *, file: Path | None, form: str, **given: Any) -> None:
    """Measure what the model loses on held-out text without neurons, each alone and all together.

    impact_score under 0.1: with 95% confidence the KL divergence is under the budget; up to 0.3: under three budgets.
    safe_to_prune needs 10,000 tokens of several documents. The rows stay in the atlas (macro impacts_measured); what is
    there already for the same text is not measured again.
    """
    from atlas.build.impacts import Measuring, document, measure_impacts
    from atlas.cli.render import show_rows
    from atlas.query.atlas import Atlas
    from atlas.query.impacts import chosen_neurons

    path, words, both = find_atlas(file), _words(given["neurons"]), given["each"] == given["joint"]
    with Atlas(path) as atlas:
        ids, width = chosen_neurons(atlas, neurons=words, top=given["top"], sql=given["sql"]), atlas.d_mlp
    wanted = Measuring(each=both or given["each"], joint=both or given["joint"], **vars(how.pop("judging")))
    found = measure_impacts(path, ids, text, measuring=wanted, **how)
    for note in found.notes:
        click.echo(f"note: {note}", err=True)
    if form == "json":
        click.echo(json.dumps(document(found, width), indent=2))
    else:
        show_rows(_rows(found, width), form, headline=_HEADLINE, limit=None, of="sets")


def _rows(found: Found, d_mlp: int) -> list[dict[str, Any]]:
    from atlas.neuron import NeuronId

    rows = [*found.individual, *([] if found.joint is None else [found.joint])]
    shown = []
    for row in rows:
        names = [str(NeuronId.of_feature(i, d_mlp)) for i in row["neurons"][:3]]
        more = len(row["neurons"]) - len(names)
        shown.append(row | {"neurons": " ".join(names) + (f" and {more} more" if more else "")})
    return shown


def _words(neurons: str | None) -> list[object] | None:
    return None if neurons is None else [word.strip() for word in neurons.split(",") if word.strip()]
