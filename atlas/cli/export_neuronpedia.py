"""`atlas export neuronpedia`: packages for Neuronpedia, SAEDashboard and the export document."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from atlas.export.neuronpedia.plan import NeuronpediaPlan
    from atlas.export.neuronpedia.selection import Choice
    from atlas.export.neuronpedia.write import Estimate, Package

_SIGNS = {"+": (1,), "-": (-1,), "both": (1, -1)}
_LAYOUTS = ("bulk", "upload", "prd", "sae-dashboard")


def _choices(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that choose neurons; the command gets them as a Choice."""

    @click.option("--all", "everything", is_flag=True, help="Every neuron of the model.")
    @click.option("--extracted", is_flag=True, help="Neurons with exemplars (when nothing else is chosen).")
    @click.option("--range", "span", metavar="A:B", help="Feature ids (layer * width + neuron), both included.")
    @click.option("--sql", metavar="SELECT", help="A SELECT with columns layer and neuron.")
    @wraps(command)
    def chosen(
        neurons: tuple[str, ...], *, everything: bool, extracted: bool, span: str | None, sql: str | None, **rest: Any
    ) -> None:
        from atlas.cli.options import selection
        from atlas.export.neuronpedia.selection import Choice

        command(Choice(tuple(selection(neurons)), everything, extracted, span, sql), **rest)

    return chosen


def _contents(command: Callable[..., None]) -> Callable[..., None]:
    """Add what is in the package and what it is called."""
    options = [
        click.option("--no-logit-lens", is_flag=True, help="Without promoted and suppressed tokens."),
        click.option("--no-histograms", is_flag=True, help="Without histograms of activations."),
        click.option("--no-top-tokens", is_flag=True, help="Without tokens that fire it (prd layout)."),
        click.option("--no-explanations", is_flag=True, help="Without labels."),
        click.option("--model", metavar="FOLDER", help="Include this model's weights as saelens/."),
        click.option("--top-k", type=int, default=20, show_default=True, help="Promoted tokens; also suppressed."),
        click.option("--bins", type=int, default=50, show_default=True, help="Of histograms, at most."),
        click.option("--top-tokens", "tokens", type=int, default=50, show_default=True, help="Of each sign."),
        click.option("--activations", type=int, default=20, show_default=True, help="Exemplars of each sign."),
        click.option(
            "--sign", type=click.Choice(list(_SIGNS)), default="+", show_default=True,
            help="Of exemplars, top tokens and labels.",
        ),
        click.option("--model-id", metavar="ID", help="On the site; default: the model's name in lower case."),
        click.option("--creator-id", metavar="USER", help="Default: the first user of a new Neuronpedia."),
        click.option("--creator", default="atlas", show_default=True, metavar="NAME", help="Creator as shown."),
        click.option("--author-id", metavar="USER", help="Of explanations; default: the creator."),
        click.option("--release", metavar="NAME", help="Default: MODEL_ID-neurons."),
        click.option("--set", metavar="NAME", help="Of upload and sae-dashboard; default atlas-mlp, neurons."),
        click.option(
            "--visibility", type=click.Choice(["private", "unlisted", "public"]), default="private",
            show_default=True, help="As the importer's own.",
        ),
    ]  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


@click.command("neuronpedia", epilog="Example: atlas export neuronpedia --all --layout bulk -o package")
@click.argument("neurons", nargs=-1, metavar="[NEURONS]...")
@click.option("--layout", type=click.Choice(_LAYOUTS), default="bulk", show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="TARGET", help="Folder, or .zip file of prd.")
@click.option("--atlas", "file", type=click.Path(path_type=Path), metavar="FILE", help="Atlas file.")
@_choices
@_contents
@click.option("--no-zip", is_flag=True, help="The prd layout as a folder.")
@click.option("--dry-run", is_flag=True, help="Only estimate the size.")
@click.option("--max-size", default="8GB", show_default=True, metavar="SIZE", help="Refuse to write more.")
@click.option("--force", is_flag=True, help="Replace a package that is there.")
@click.option("--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True)
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def neuronpedia(
    choice: Choice, /, *, file: Path | None, output: Path | None, form: str, dry_run: bool, quiet: bool, **given: Any
) -> None:
    """Write NEURONS (ids, cluster:PATH, layer:A-B, label:TEXT, "-" for stdin) as a package for Neuronpedia.

    bulk is what Neuronpedia's importer reads, upload the bodies of its upload route, sae-dashboard the batches of
    SAEDashboard, prd one JSON file a neuron in a zip file. A run that was stopped goes on when it is run again.
    """
    import atlas
    from atlas.build.neuronpedia import estimate, export_neuronpedia
    from atlas.cli.options import find_atlas
    from atlas.export.neuronpedia.selection import Choice, chosen
    from atlas.progress import Lines, Quiet

    shown = Quiet() if quiet else Lines()
    with atlas.open(find_atlas(file)) as opened:
        if choice == Choice():
            click.echo("  neurons with exemplars are exported, since none are chosen", err=True)
        plan = _plan(chosen(opened, choice), given)
        found = estimate(opened, plan)
        if dry_run:
            click.echo(json.dumps(asdict(found), indent=1) if form == "json" else _estimated(found))
            return
        click.echo(f"  {_estimated(found)}", err=True)
        made = export_neuronpedia(opened, _target(output, plan), plan, progress=shown, expected=found)
    click.echo(json.dumps(asdict(made) | {"path": str(made.path)}, indent=1) if form == "json" else _written(made))


def _plan(ids: list[int], given: dict[str, Any]) -> NeuronpediaPlan:
    from atlas.cli.edges import parse_size
    from atlas.export.neuronpedia.plan import DEFAULT_USER, NeuronpediaPlan

    for name in ("logit_lens", "histograms", "top_tokens", "explanations", "zip"):
        given[name] = not given.pop(f"no_{name}")
    given |= {"signs": _SIGNS[given.pop("sign")], "most_bytes": parse_size(given.pop("max_size"))}
    given["creator_id"] = given["creator_id"] or DEFAULT_USER
    return NeuronpediaPlan(ids, **given)


def _target(output: Path | None, plan: NeuronpediaPlan) -> Path:
    """-o, with .zip where the package is one file."""
    from atlas.errors import InputError

    if output is None:
        raise InputError("where to? give -o TARGET, or --dry-run for the size alone")
    packed = plan.layout == "prd" and plan.zip and output.suffix != ".zip"
    return output.with_name(f"{output.name}.zip") if packed else output


def _estimated(found: Estimate) -> str:
    text = f"about {_size(found.size_bytes)}, {found.features:,} features, {found.files:,} files"
    weights = f", of which weights {_size(found.weight_bytes)}" if found.weight_bytes else ""
    told = [f"{text}{weights} (from the records of {found.sampled:,} neurons)", *found.notes]
    return "\n  ".join([*told, f"layouts this atlas can be exported in: {', '.join(found.layouts)}"])


def _written(made: Package) -> str:
    told = f"{made.path}  {made.layout}, {made.features:,} features, {made.files:,} files, {_size(made.size_bytes)}"
    return "\n  ".join([told, f"sha256 {made.sha256}", *made.notes])


def _size(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 10**9 else f"{size / 1e6:.2f} MB"
