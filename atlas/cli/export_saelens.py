"""`atlas export saelens`: neurons as transcoders of sae-lens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click


@click.command("saelens", epilog="Example: atlas export saelens label:aspirin --model data/demo/model -o transcoders")
@click.argument("neurons", nargs=-1, required=True, metavar="NEURONS...")
@click.option("--model", required=True, metavar="FOLDER", help="The atlas's model: its weights are read.")
@click.option("--atlas", "file", type=click.Path(path_type=Path), metavar="FILE", help="Atlas file.")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), metavar="DIR", help="Folder to write.")
@click.option(
    "--sign", type=click.Choice(["both", "+", "-"]), default="both", show_default=True, help="Of activations."
)
@click.option("--max-size", default="8GB", show_default=True, metavar="SIZE", help="Refuse to write more.")
@click.option("--force", is_flag=True, help="Replace files of the same name in a folder that is not empty.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def saelens(
    neurons: tuple[str, ...], file: Path | None, output: Path, *, model: str, quiet: bool, **given: Any
) -> None:
    """Write NEURONS (ids, cluster:PATH, layer:A-B, label:TEXT) as transcoders that sae-lens loads, one a layer.

    A feature is the positive or the negative part of one neuron; together they compute exactly what the neurons write
    into the residual stream. cfg.json's metadata says which neuron and sign each feature is.
    """
    import atlas
    from atlas.build.saelens import SaelensPlan, export_saelens
    from atlas.cli.edges import parse_size
    from atlas.cli.options import find_atlas, selection
    from atlas.progress import Lines, Quiet

    signs = {"both": (1, -1), "+": (1,), "-": (-1,)}[given["sign"]]
    with atlas.open(find_atlas(file)) as opened:
        plan = SaelensPlan(opened.select(selection(neurons)), signs, parse_size(given["max_size"]), given["force"])
        made = export_saelens(opened, model, output, plan, progress=Quiet() if quiet else Lines())
    for folder, features, size in made.folders:
        click.echo(f"{folder}  {features:,} features  {size:,} bytes")
