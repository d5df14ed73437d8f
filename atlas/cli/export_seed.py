"""`atlas export seed-json`, `wiring-cache`: the JSON files of earlier tools."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click


@click.command("seed-json", epilog="Example: atlas export seed-json -o export --neurons L3/N17 --neurons cluster:1.2")
@click.argument("part", required=False, type=click.Choice(["pruning"]))
@click.option("--atlas", "file", type=click.Path(path_type=Path), metavar="FILE", help="Atlas file.")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), metavar="DIR", help="Folder to write.")
@click.option("--neurons", multiple=True, metavar="SELECTION", help="Ids, cluster:PATH, layer:A-B, label:TEXT; repeat.")
@click.option("--limit", default=100, show_default=True, help="Query files of neurons, of modules; sample prompts.")
@click.option("--model", metavar="FOLDER", help="The atlas's model, to measure --prompt.")
@click.option("--prompt", "prompts", multiple=True, metavar="TEXT", help="Write its activations; repeat.")
@click.option("--top", type=int, metavar="N", help="Only the N strongest neurons per layer in activation files.")
@click.option("--eval-id", "eval_ids", multiple=True, metavar="ID", help="Of scores or impacts that differ; repeat.")
@click.option("--force", is_flag=True, help="Replace files of the same name in a folder that is not empty.")
def seed_json(file: Path | None, output: Path, model: str | None, prompts: tuple[str, ...], **plan: Any) -> None:
    """Write NeuronScope's JSON files: clusters, token queries, samples, weight and impact analysis, activations.

    `pruning` writes only pruning/weight_analysis.json and pruning/impact_analysis.json (the newest batch measured).
    Activation files hold every neuron at every token unless --top says otherwise; their size is printed.
    """
    import atlas
    from atlas.cli.options import find_atlas
    from atlas.errors import InputError
    from atlas.export.seed_json import SeedPlan, export_seed_json

    if plan["part"] and (prompts or model or plan["neurons"]):
        raise InputError(
            f"{plan['part']} files hold no prompts and no selection; leave out --prompt, --model, --neurons"
        )
    with atlas.open(find_atlas(file)) as opened:
        measured = _measure(model, prompts)
        report = export_seed_json(opened, output, plan=SeedPlan(**plan), measured=measured)
    for name, size in report.files:
        click.echo(f"{output / name}  {size:,} bytes")
    for note in report.notes:
        click.echo(f"note: {note}", err=True)


@click.command("wiring-cache", epilog="Example: atlas export wiring-cache -o wiring_cache")
@click.option("--atlas", "file", type=click.Path(path_type=Path), metavar="FILE", help="Atlas file.")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), metavar="DIR", help="Folder to write.")
@click.option("--force", is_flag=True, help="Replace files of the same name in a folder that is not empty.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def wiring_cache(file: Path | None, output: Path, force: bool, quiet: bool) -> None:
    """Write the wiring as layer_N.json files: tokens, upstream and downstream connections of every neuron."""
    import atlas
    from atlas.cli.options import find_atlas
    from atlas.export.wiring_cache import export_wiring_cache
    from atlas.progress import Lines, Quiet

    with atlas.open(find_atlas(file)) as opened:
        report = export_wiring_cache(opened, output, force=force, progress=Quiet() if quiet else Lines())
    for name, size in report.files:
        click.echo(f"{output / name}  {size:,} bytes")
    for note in report.notes:
        click.echo(f"note: {note}", err=True)


def _measure(model: str | None, prompts: tuple[str, ...]) -> list[Any]:
    from atlas.errors import InputError

    if bool(model) != bool(prompts):
        raise InputError("activations need both --model FOLDER and --prompt TEXT; give both or neither")
    if model is None:
        return []
    from atlas.measure.prompts import measure_prompt
    from atlas.models.adapter import load_model

    adapter = load_model(model)
    return [measure_prompt(adapter, text) for text in prompts]
