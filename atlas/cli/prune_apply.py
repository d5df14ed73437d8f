"""`atlas prune apply OUT`: the model without some of its neurons, as a folder that plain transformers loads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from atlas.cli.held_out import text_options
from atlas.cli.options import find_atlas
from atlas.cli.prune import ranking_options

if TYPE_CHECKING:
    from atlas.build.prune_apply import Applying
    from atlas.query.pruning import Ranking
    from atlas.query.removal import Wanted

_DTYPES = ("float64", "float32", "bfloat16", "float16")


@click.command(
    "apply", epilog="Example: atlas prune apply small --model data/demo/model --share 10 --corpus heldout.json"
)
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--model", required=True, metavar="FOLDER", help="Hugging Face folder, or a hub name.")
@click.option("--share", type=float, metavar="PERCENT", help="The safest so many percent.  [10]")
@click.option("--per-layer", type=int, metavar="N", help="The N safest of each layer.")
@click.option("--neurons", metavar="L0/N5,L0/N7", help="Neurons, or selectors such as layer:3 and cluster:158.4.")
@click.option("--sql", metavar="SELECT", help="A SELECT with columns layer and neuron.")
@click.option("--equalise", is_flag=True, help="As many of each layer as the layer with the fewest.")
@ranking_options
@click.option("--no-compensation", is_flag=True, help="Put nothing in place of what they give on average.")
@text_options
@click.option("--dtype", type=click.Choice(_DTYPES), default="float32", show_default=True, help="To measure in.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--force", is_flag=True, help="Replace the model folder OUT.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
@click.option("--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True)
@click.option("--atlas", "file", type=click.Path(path_type=Path), metavar="FILE", help="Atlas file.")
def apply(ranking: Ranking, *, out: Path, model: str, file: Path | None, form: str, quiet: bool, **given: Any) -> None:
    """Write the model without its safest neurons into the folder OUT, and measure what that costs.

    Where every layer loses as many neurons the model is really smaller, else their columns are set to 0 (--equalise
    and --per-layer make the numbers equal). What the neurons wrote on average goes into the bias of the down
    projection, where the architecture can have one. The loss is measured on --corpus or --text, which must hold none
    of the texts that the scores were made on. OUT also gets pruning_report.json, kept_neurons.json and a model card.
    """
    import atlas
    from atlas.build.prune_apply import apply as run
    from atlas.build.prune_report import lines
    from atlas.progress import Lines, Quiet

    wanted, applying = _wanted(ranking, given), _applying(given)
    with atlas.open(find_atlas(file)) as a:
        report = run(a, model, out, wanted=wanted, applying=applying, progress=Quiet() if quiet else Lines())
    click.echo(f"wrote {out}", err=True)
    told = "\n".join(f"{name:<12}{text}" for name, text in lines(report).items())
    click.echo(json.dumps(report, indent=2) if form == "json" else told)


def _wanted(ranking: Ranking, given: dict[str, Any]) -> Wanted:
    from atlas.query.removal import Wanted

    named = given["neurons"]
    words = None if named is None else tuple(word.strip() for word in named.split(",") if word.strip())
    return Wanted(given["share"], given["per_layer"], words, given["sql"], given["equalise"], ranking)


def _applying(given: dict[str, Any]) -> Applying:
    from atlas.build.impacts import HeldOutText
    from atlas.build.prune_apply import Applying

    names = ("texts", "corpus", "documents", "skip_documents", "context_length", "max_tokens", "skip_calibration",
             "fresh")  # fmt: skip
    asked = given["corpus"] is not None or given["texts"]
    text = HeldOutText(**{name: given[name] for name in names}) if asked else None
    return Applying(not given["no_compensation"], given["force"], text, given["dtype"], given["device"])
